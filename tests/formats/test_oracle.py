"""The torch code equals the scalar oracle bit for bit: codes, break points, the whole bit space."""

from __future__ import annotations

import math
import random
import struct
from bisect import bisect_right

import numpy as np
import pytest
import torch

from nybble.formats import Format, LogFormat, Minifloat, Rounding, Stochastic, oracle
from nybble.formats.breakpoints import Breakpoints, breakpoints, key, unkey

Case = tuple[Format, Rounding | None]
_TABLES: dict[Case, Breakpoints] = {}


def table(case: Case) -> Breakpoints:
    if case not in _TABLES:
        _TABLES[case] = breakpoints(*case)
    return _TABLES[case]


def test_oracle_decodes_every_code(any_format: Format, same_bits) -> None:
    expected = torch.tensor([oracle.decode(c, any_format) for c in range(1 << any_format.bits)])
    codes = torch.arange(1 << any_format.bits)
    assert same_bits(torch.tensor(any_format.values()), expected)
    assert same_bits(any_format.decode(codes.to(any_format.code_dtype)), expected)
    assert not (torch.signbit(expected) & (expected == 0)).any()
    if any_format.unit is not None:
        integers = any_format.integers(codes.to(any_format.code_dtype))
        assert same_bits(integers, integers.round())
        unit = oracle.levels(any_format)[_unit_code(any_format)]
        exact = [level / unit for level in oracle.levels(any_format)]
        assert integers.tolist() == exact


def _unit_code(fmt: Format) -> int:
    """The code whose value is the unit."""
    return next(c for c, v in enumerate(fmt.values()) if v == np.float32(fmt.unit))


def test_oracle_at_every_break_and_beside_it(case: Case) -> None:
    fmt, rule = case
    x = table(case).neighbourhood()
    got = fmt.encode(torch.from_numpy(x), rule)
    assert got.dtype == fmt.code_dtype
    assert np.array_equal(got.numpy().astype(np.int64), table(case).expected(x))
    # The oracle itself, number by number (a sample where there are very many).
    step = max(1, len(x) // 1000)
    for value, code in zip(x[::step].tolist(), got[::step].tolist(), strict=True):
        assert code == oracle.encode(value, fmt, rule), value


def test_oracle_over_the_whole_bit_space(case: Case, pool) -> None:
    fmt, rule = case
    got = fmt.encode(pool, rule).numpy().astype(np.int64)
    finite = int((~pool.isnan()).sum())
    breaks = table(case)
    edges = np.searchsorted(key(pool[:finite].numpy()), breaks.first[1:])
    expected = np.repeat(breaks.codes, np.diff([0, *edges, finite]))
    # -0 stands before +0 in the table's order; in the pool they are neighbours in any order.
    assert np.array_equal(got[:finite], expected)
    assert (got[finite:] == breaks.nan).all()


def test_oracle_on_random_numbers_one_by_one(case: Case) -> None:
    fmt, rule = case
    rng = random.Random(fmt.name)
    top = fmt.max_value
    x = [rng.gauss(0.0, 1.0) * top / 3 for _ in range(60)]
    x += [math.ldexp(rng.uniform(-2, 2), rng.randint(-140, 126)) for _ in range(60)]
    x += [struct.unpack("<f", rng.randbytes(4))[0] for _ in range(60)]
    x += [v * rng.choice((0.5, 0.625, 1, 1.25, 1.5)) for v in fmt.values()[:60] if v == v]
    x += [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 3e38, -3e38]
    x = torch.tensor(x).tolist()  # rounded to float32 by torch, not by the oracle
    assert fmt.encode(torch.tensor(x), rule).tolist() == [oracle.encode(v, fmt, rule) for v in x]


def test_oracle_stochastic_rounding(any_format: Format) -> None:
    """Random integers 0, 2^24 - 1 and around the break, at and between levels and at the ends."""
    rng = random.Random(any_format.name)
    every = sorted({v for v in any_format.values() if math.isfinite(v)})
    magnitudes = sorted({abs(v) for v in every})
    levels = every
    if len(levels) > 40:
        levels = levels[:8] + rng.sample(levels, 24) + levels[-8:]
    x: list[float] = [math.inf, -math.inf, math.nan, 0.0, -0.0, 1e-45, -1e-45, 1e-40, 3e38, -3e38]
    for v in levels:
        single = np.float32(v)
        x += [v, float(np.nextafter(single, np.float32(9e9))), v * 1.25, v * 1.75, v + 0.3, v * 0.9]
        x += [float(np.nextafter(single, np.float32(-9e9)))]
    x = torch.tensor(x, dtype=torch.float64).to(torch.float32).tolist()
    pairs = []
    for v in x:
        draws = {0, 1, (1 << 24) - 1, rng.randrange(1 << 24)}
        for near in (_likely_break(v, every), _likely_break(abs(v), magnitudes)):
            draws |= {near - 1, near, near + 1}
        pairs += [(v, r) for r in sorted(draws) if 0 <= r < 1 << 24]
    numbers = torch.tensor([v for v, _ in pairs])
    draws_tensor = torch.tensor([r for _, r in pairs], dtype=torch.int32)
    got = any_format.encode(numbers, Stochastic(), draws_tensor)
    expected = [oracle.encode(v, any_format, Stochastic(), r) for v, r in pairs]
    assert got.tolist() == expected
    assert (
        any_format.encode(numbers, Stochastic(), draws_tensor.to(torch.int64)).tolist() == expected
    )


def _likely_break(q: float, ladder: list[float]) -> int:
    """About p * 2^24: where the rounded code should change. Only a guess where to look closely."""
    above = bisect_right(ladder, q)
    if not 0 < above < len(ladder):
        return 0
    low, high = np.float32(ladder[above - 1]), np.float32(ladder[above])
    return math.ceil(float((np.float32(q) - low) / (high - low)) * 2**24)


@pytest.mark.parametrize("value", [1.0, -1.0, 0.1, 3.3e-42, 1 / 3, 2.0**127 * 1.9999999])
def test_oracle_rounds_to_float32_as_the_hardware(value: float) -> None:
    from fractions import Fraction

    assert float(oracle.to_float32(Fraction(value))) == float(np.float32(value))
    assert oracle.encode(value, LogFormat(4, 4)) == oracle.encode(
        float(np.float32(value)), LogFormat(4, 4)
    )


def test_oracle_takes_float64_by_way_of_float32() -> None:
    just_below = 0.625 - 2.0**-40  # rounds to 0.625 in float32, which goes up
    assert oracle.encode(just_below, LogFormat(4, 4)) == 4
    assert LogFormat(4, 4).encode(torch.tensor([just_below], dtype=torch.float64)).item() == 4
    assert oracle.encode(1e300, LogFormat(4, 4)) == 7
    assert LogFormat(4, 4).encode(torch.tensor([1e300], dtype=torch.float64)).item() == 7


def test_line_of_floats_is_ordered() -> None:
    x = np.array([-np.inf, -1.0, -1e-45, -0.0, 0.0, 1e-45, 1.0, np.inf], dtype=np.float32)
    assert (np.diff(key(x)) > 0).all()
    assert unkey(key(x)).tobytes() == x.tobytes()


def test_oracle_knows_the_paper_s_thresholds() -> None:
    """0.625 * 4^n goes up and the number below it does not: Sun et al.'s rule, in numbers."""
    fmt = LogFormat(4, 4)
    for n in range(-3, 4):
        tie = np.float32(0.625) * np.float32(4.0) ** n
        below = np.nextafter(tie, np.float32(0))
        x = torch.tensor([tie, below, -tie, -below])
        up, down = 4.0**n, 4.0 ** (n - 1) if n > -3 else 0.0
        assert fmt.round(x).tolist() == [up, down, -up, -down]
    assert fmt.round(torch.tensor([160.0, 1e9])).tolist() == [64.0, 64.0]


def test_every_minifloat_has_its_canonical_nan(minifloat: Minifloat) -> None:
    fmt = minifloat
    payloads = torch.tensor([0x7F800001, 0x7FC00000, -1, 0x7FFFFFFF], dtype=torch.int32)
    code = fmt.encode(payloads.view(torch.float32))
    assert len(set(code.tolist())) == 1
    assert code[0] == (0 if fmt.specials == "none" else fmt.nan_code)
    assert fmt.specials == "none" or math.isnan(fmt.values()[fmt.nan_code])
