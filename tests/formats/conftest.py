"""What the format tests share: the formats and rules to run over, two million float32 bit patterns,
and comparison bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from nybble.formats import (
    FORMATS,
    FP4_RADIX2,
    FP4_RADIX4,
    FP4_RADIX4_ODD,
    FP8_E4M3,
    FP8_E5M2,
    LOG4_BASE10,
    Format,
    LogFormat,
    LogNearest,
    Minifloat,
    Nearest,
    Rounding,
    Table16,
    ZeroLess,
)
from nybble.formats.rounding import rounding_name

#: Formats that are not in the registry but are made of the same classes.
EXTRA: tuple[Format, ...] = (
    Table16((0, 1, 2, 3, 5, 8, 13, 21, -1, -2, -3, -5, -8, -13, -21, -34), "fibonacci"),
    Table16((-128, -100, -64, -32, -16, -8, -4, -1, 0, 1, 5, 5, 17, 64, 100, 127), "full_range"),
    Table16((9, 3, 7, 1, 5, 11, 15, 13, -3, -9, -1, -7, -15, -13, -5, -11), "shuffled_odd"),
    ZeroLess(2),
    ZeroLess(8),
    LogFormat(4, 2),
    LogFormat(4, 3).odd(+1),
    LogFormat(4, 2).odd(+1),
    LogFormat(4, 6),
    LogFormat(2, 8),
    LogFormat(16, 4),
    LogFormat(5, 3),
    LogFormat(10, 5),
    replace(FP8_E4M3, label="fp8_e4m3_nan", overflow="nan"),
    replace(FP8_E5M2, label="fp8_e5m2_inf", overflow="infinity"),
    Minifloat("e3m4", 3, 4, 3, specials="ieee", overflow="infinity"),
    Minifloat(
        "e4m3_without_subnormals", 4, 3, 7, specials="merged", overflow="nan", subnormals=False
    ),
    Minifloat("e2m3", 2, 3, 1),
)

ALL: tuple[Format, ...] = (*FORMATS.values(), *EXTRA)

_LOG_RULES: tuple[Rounding, ...] = (
    LogNearest("1.6", underflow="half"),
    LogNearest("1.848"),
    LogNearest("1.9", underflow="half"),
    Nearest(),
)

#: (format, rounding): every format under its default, the logarithmic ones under the other rules.
DETERMINISTIC: list[tuple[Format, Rounding | None]] = [
    *((fmt, None) for fmt in ALL),
    *(
        (fmt, rule)
        for fmt in (FP4_RADIX4, FP4_RADIX4_ODD, FP4_RADIX2, LOG4_BASE10, LogFormat(16, 4))
        for rule in _LOG_RULES
    ),
    (FP4_RADIX4, LogNearest("3.9")),
    (FP4_RADIX4, LogNearest("1.000001")),
    (FP4_RADIX4.odd(+1), LogNearest("2.5", underflow="half")),
    (LogFormat(2, 8), LogNearest("1.6", underflow="half")),
]


def _name(value: object) -> str:
    if isinstance(value, tuple):
        fmt, rule = value
        return fmt.name if rule is None else f"{fmt.name}-{rounding_name(rule)}"
    return value.name if isinstance(value, Format) else str(value)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `any_format` runs for every format, one that asks for `case` for every
    (format, deterministic rounding)."""
    if "any_format" in metafunc.fixturenames:
        metafunc.parametrize("any_format", ALL, ids=_name)
    if "minifloat" in metafunc.fixturenames:
        metafunc.parametrize("minifloat", [f for f in ALL if isinstance(f, Minifloat)], ids=_name)
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", DETERMINISTIC, ids=_name)


@pytest.fixture(scope="session")
def pool() -> Tensor:
    """2^21 random float32 bit patterns of the whole space (NaN and infinities among them), sorted
    by value, and every special number. Sorting only makes the oracle's table quick to apply."""
    rng = np.random.default_rng(20201206)
    bits = rng.integers(0, 2**32, size=1 << 21, dtype=np.uint64).astype(np.uint32)
    special = [0x0, 0x80000000, 0x1, 0x80000001, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0xFF7FFFFF]
    special += [0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0x7FFFFFFF]
    x = np.concatenate([bits, np.array(special, dtype=np.uint32)]).view(np.float32)
    return torch.from_numpy(np.sort(x))


@pytest.fixture(scope="session")
def same_bits() -> Callable[[Tensor, Tensor], bool]:
    """Equal shapes, dtypes and bits: -0 differs from +0, and NaN equals NaN."""

    def compare(a: Tensor, b: Tensor) -> bool:
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if a.dtype == torch.float32:
            a, b = a.contiguous().view(torch.int32), b.contiguous().view(torch.int32)
        return torch.equal(a, b)

    return compare
