"""Rounding rules as the bytes that the pack kernels read: the structs of csrc/quantize/pack.hpp
and fit.hpp, and of csrc/lines/kernels.hpp.

Each is computed once for a format and a rounding, from the format's own thresholds and values, and
cached. `log_rule` is None where the bit-pattern kernel does not apply.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np

from nybble.formats import (
    Format,
    Integer,
    LogFormat,
    LogNearest,
    Minifloat,
    Nearest,
    Rounding,
    Stochastic,
)
from nybble.formats.breakpoints import breakpoints, unkey
from nybble.formats.exact import float32_bits
from nybble.formats.log import aligned_plan
from nybble.quantizers import PACT, SAWB, AbsMax, GradScale, Quantizer
from nybble.quantizers.scales.fit import value_range
from nybble.quantizers.scales.sawb import COEFFICIENTS

__all__ = [
    "fit_rule",
    "gradient_rule",
    "level_rule",
    "log_rule",
    "stochastic_rule",
    "threshold_rule",
]


@lru_cache(maxsize=256)
def log_rule(first: LogFormat, second: LogFormat | None, rounding: Rounding) -> bytes | None:
    """LogRule, or None where the bit-pattern kernel does not apply to the two grids together."""
    phases, carries = [], set()
    for fmt in (first, first if second is None else second):
        plan = aligned_plan(fmt, rounding)
        if plan is None or not isinstance(rounding, LogNearest) or fmt.bits > 4:
            return None
        threshold = float32_bits(fmt.thresholds(LogNearest(rounding.factor))[0])
        carry, step = -threshold & 0xFFFF, -plan.mask
        start = (threshold + carry - step) >> 16
        half = 0 if plan.shrink is None else float32_bits(plan.shrink)
        if start < 0 or half & 0xFFFF:
            return None
        top, sign = (1 << (fmt.bits - 1)) - 1, 1 << (fmt.bits - 1)
        table = bytes(
            c - 8 if 0 <= c - 8 <= top else (8 - c) | sign if 0 < 8 - c <= top else 0
            for c in range(16)
        )
        shift = step.bit_length() - 17
        phases.append(struct.pack("<HHHH", start, shift, top, half >> 16) + table)
        carries.add(carry)
    if len(carries) > 1:
        return None
    halves = isinstance(rounding, LogNearest) and rounding.underflow == "half"
    return struct.pack("<HH", carries.pop(), halves) + b"".join(phases)


@lru_cache(maxsize=256)
def threshold_rule(fmt: Format, rounding: Rounding) -> bytes:
    """ThresholdRule: where the oracle's code changes."""
    found = breakpoints(fmt, rounding)
    thresholds = np.full(16, np.nan, dtype=np.float32)
    thresholds[: len(found.first) - 1] = unkey(found.first[1:])
    table = bytes(found.codes.astype(np.uint8)).ljust(16, b"\0")
    return thresholds.tobytes() + table


@lru_cache(maxsize=256)
def level_rule(fmt: Format, rounding: Rounding) -> bytes:
    """LevelRule (csrc/lines/kernels.hpp): where the level changes, and the levels."""
    found = breakpoints(fmt, rounding)
    thresholds = np.full(16, np.nan, dtype=np.float32)
    thresholds[: len(found.first) - 1] = unkey(found.first[1:])
    levels = np.zeros(16, dtype=np.float32)
    values = fmt.values()
    levels[: len(found.codes)] = [values[int(code)] for code in found.codes]
    return thresholds.tobytes() + levels.tobytes()


@lru_cache(maxsize=256)
def stochastic_rule(fmt: Format, zero: float) -> bytes:
    """StochasticRule: ascending levels, or magnitudes where the sign is a bit of the code."""
    values = fmt.values()
    magnitude = isinstance(fmt, LogFormat | Minifloat)
    table = [0] * 16
    if magnitude:
        sign = 1 << (fmt.bits - 1)
        levels = list(values[:sign])
        table[: len(levels)] = range(len(levels))
        table[9 : 8 + len(levels)] = [rank | sign for rank in range(1, len(levels))]
    else:
        low = fmt.low if isinstance(fmt, Integer) else min(values)
        levels = sorted({v for v in values if v >= low})
        table[: len(levels)] = [values.index(v) for v in levels]
    padded = np.zeros(16, dtype=np.float32)
    padded[: len(levels)] = levels
    return padded.tobytes() + struct.pack("<iif", len(levels), magnitude, zero) + bytes(table)


_CLIP, _SAWB, _ABSMAX = range(3)


@lru_cache(maxsize=256)
def fit_rule(slot: Quantizer) -> bytes | None:
    """FitRule, or None for a slot whose scale and codes do not come out of one call: that call is
    for integers rounded to nearest and one scale a tensor.

    >>> from nybble.formats import get_format
    >>> fit_rule(Quantizer(get_format("int4_sym"), SAWB(per_channel=True))) is None
    True
    """
    fmt, scale = slot.format, slot.scale
    rounding = fmt.default_rounding if slot.rounding is None else slot.rounding
    if not isinstance(fmt, Integer) or fmt.bits > 4 or not isinstance(rounding, Nearest):
        return None
    c1, c2, levels = 0.0, 0.0, value_range(fmt)[1]
    if isinstance(scale, PACT) and scale.kind != "two_sided":
        statistic = _CLIP
    elif isinstance(scale, SAWB) and not scale.per_channel:
        statistic = _SAWB
        c1, c2, wanted = COEFFICIENTS[scale.coefficients]
        if levels != wanted:
            return None  # the scale itself says what is wrong
    elif isinstance(scale, AbsMax) and scale.plain:
        statistic, levels = _ABSMAX, fmt.max_value
    else:
        return None
    return struct.pack(
        "<iffffiii", statistic, levels, c1, c2, fmt.unit or 1.0, fmt.low, fmt.high, fmt.bits
    )


@lru_cache(maxsize=256)
def gradient_rule(
    first: Quantizer, second: Quantizer | None
) -> tuple[bytes, float, float, bool] | None:
    """(LogRule, unit of the first grid, of the second, whether there are two grids), or None where
    one pass of the bit-pattern kernel does not give the codes of both slots.

    >>> from nybble.formats import get_format
    >>> slot = Quantizer(get_format("fp4_radix4"), GradScale())
    >>> gradient_rule(slot, slot)[1:]
    (0.015625, 0.015625, False)
    """
    other = first if second is None else second
    one, two = first.format, other.format
    if not all(isinstance(slot.scale, GradScale) for slot in (first, other)):
        return None
    if not isinstance(one, LogFormat) or not isinstance(two, LogFormat):
        return None
    rounding = one.default_rounding if first.rounding is None else first.rounding
    beside = two.default_rounding if other.rounding is None else other.rounding
    if rounding != beside or isinstance(rounding, Stochastic):
        return None
    rule = log_rule(one, None if two == one else two, rounding)
    if rule is None or one.unit is None or two.unit is None:
        return None
    return rule, one.unit, two.unit, two != one
