"""Every way to the same result gives the same bits: fused, in place, shared, by table."""

from __future__ import annotations

import pytest
import torch

from nybble.formats import (
    FP4_RADIX2,
    FP4_RADIX4,
    FP16,
    INT4,
    INT4_SYM,
    INT4_ZEROLESS,
    Format,
    LogFormat,
    LogNearest,
    Minifloat,
    Nearest,
    Rounding,
    Stochastic,
    Table16,
    log,
    minifloat,
    two_phase_integers,
)

RULES: list[Rounding | None] = [
    None,
    LogNearest("1.848"),
    LogNearest("1.6", underflow="half"),
    LogNearest("3"),
    Nearest(),
    Stochastic(),
]


@pytest.fixture(scope="module")
def x(pool) -> torch.Tensor:
    """The random bit patterns thinned out, and as many ordinary numbers, with all neighbours."""
    generator = torch.Generator().manual_seed(4)
    normal = torch.randn(1 << 17, generator=generator) * 8
    small = torch.randn(1 << 15, generator=generator) * 0.02
    specials = torch.tensor([0.0, -0.0, float("nan"), -float("nan"), float("inf"), -float("inf")])
    return torch.cat([pool[::13], normal, small, specials])


@pytest.fixture(scope="module")
def draws(x) -> torch.Tensor:
    generator = torch.Generator().manual_seed(24)
    return torch.randint(0, 1 << 24, x.shape, generator=generator, dtype=torch.int32)


def rules_of(fmt: Format) -> list[Rounding | None]:
    if not isinstance(fmt, LogFormat):
        return [None, Stochastic()]
    return [rule for rule in RULES if fmt.base > 3 or rule != LogNearest("3")]


def test_round_is_decode_of_encode(any_format, x, draws, same_bits) -> None:
    for rule in rules_of(any_format):
        codes = any_format.encode(x, rule, draws)
        assert codes.dtype == any_format.code_dtype
        assert int(codes.min()) >= 0 and int(codes.max()) < 1 << any_format.bits
        assert same_bits(any_format.round(x, rule, draws), any_format.decode(codes)), rule


def test_round_to_integers_is_integers_of_encode(any_format, x, draws, same_bits) -> None:
    if any_format.unit is None:
        with pytest.raises(ValueError, match="no small-integer form"):
            any_format.round_to_integers(x)
        with pytest.raises(ValueError, match="no small-integer form"):
            any_format.integers(torch.zeros(1, dtype=torch.uint8))
        return
    before = x.clone()
    for rule in rules_of(any_format):
        codes = any_format.encode(x, rule, draws)
        expected = any_format.integers(codes)
        got = any_format.round_to_integers(x, rule, draws)
        assert same_bits(got, expected), rule
        assert same_bits(any_format.integers_to_codes(got), codes), rule
        assert float(got.abs().max()) <= any_format.max_integer
        assert not ((got == 0) & torch.signbit(got)).any()
        into = torch.full_like(x, 7.0)
        assert any_format.round_to_integers(x, rule, draws, out=into) is into
        assert same_bits(into, expected), rule
        assert same_bits(x, before), "the input was modified"
        itself = x.clone()
        any_format.round_to_integers(itself, rule, draws, out=itself)
        assert same_bits(itself, expected), rule
        numbers = x[~x.isnan()]
        free = any_format.round_to_integers(numbers, rule, draws[~x.isnan()], nan_free=True)
        assert same_bits(free, expected[~x.isnan()]), rule


def test_every_integer_has_its_code_back(any_format) -> None:
    if any_format.unit is None:
        return
    codes = torch.arange(1 << any_format.bits).to(any_format.code_dtype)
    back = any_format.integers_to_codes(any_format.integers(codes))
    assert torch.equal(any_format.decode(back), any_format.decode(codes))
    # value == integer * unit, the unit being a double where it is no float32
    assert torch.equal(
        (any_format.integers(codes).double() * any_format.unit).float(), any_format.decode(codes)
    )


@pytest.mark.parametrize("base", [2, 4, 16])
@pytest.mark.parametrize("factor", ["1.05", "1.3333", "1.6", "1.848", "mid"])
@pytest.mark.parametrize("underflow", ["rule", "half"])
def test_bit_pattern_path_equals_threshold_table(base, factor, underflow, x, same_bits) -> None:
    rule = LogNearest(factor, underflow)
    for bits in (2, 3, 4, 5):
        fmt = LogFormat(base, bits)
        phases = [fmt, fmt.odd(-1), fmt.odd(1)] if base == 4 else [fmt]
        for phase in phases:
            assert log.aligned_plan(phase, rule) is not None
            by_table = phase._nearest_codes(x, rule)
            assert same_bits(phase.encode(x, rule), by_table), phase.name


def test_bit_pattern_path_is_taken_only_where_it_is_exact() -> None:
    assert log.aligned_plan(LogFormat(4, 4), Nearest()) is None  # ties alternate
    assert log.aligned_plan(LogFormat(10, 4), LogNearest()) is None
    assert log.aligned_plan(LogFormat(4, 4), Stochastic()) is None


@pytest.mark.parametrize("base", [2, 4, 16])
def test_stochastic_bit_pattern_path_equals_table(base, x, draws, same_bits) -> None:
    for bits in (2, 3, 4, 5):
        fmt = LogFormat(base, bits)
        for phase in [fmt, fmt.odd(-1), fmt.odd(1)] if base == 4 else [fmt]:
            by_table = log._stochastic_codes(phase, x, draws.float() * 2.0**-24)
            assert same_bits(phase.encode(x, Stochastic(), draws), by_table), phase.name


@pytest.mark.parametrize("offset", [-1, 1])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_two_phase_equals_two_calls(offset, rule, x, draws, same_bits) -> None:
    even, odd = FP4_RADIX4, FP4_RADIX4.odd(offset)
    before = x.clone()
    a, b = two_phase_integers(x, even, odd, rule, draws)
    assert same_bits(a, even.round_to_integers(x, rule, draws))
    assert same_bits(b, odd.round_to_integers(x, rule, draws))
    assert same_bits(x, before)
    assert a.data_ptr() != b.data_ptr()
    again = two_phase_integers(x.clone(), even, odd, rule, draws, overwrite=True)
    assert same_bits(again[0], a) and same_bits(again[1], b)


def test_two_phase_takes_any_two_logarithmic_formats(x, same_bits) -> None:
    a, b = two_phase_integers(x, FP4_RADIX2, LogFormat(10, 4))
    assert same_bits(a, FP4_RADIX2.round_to_integers(x))
    assert same_bits(b, LogFormat(10, 4).round_to_integers(x))
    with pytest.raises(ValueError, match="two-phase rounding needs logarithmic formats, not int4"):
        two_phase_integers(x, INT4, FP4_RADIX4)


def test_odd_phase_is_the_even_phase_of_a_shifted_number(x, same_bits) -> None:
    """Q_odd(x) = Q_even(2x) / 2 and 2 Q_even(x / 2): the two offsets of the odd grid."""
    x = x[x.abs().nan_to_num() < 1e30]  # where doubling does not overflow
    assert same_bits(FP4_RADIX4.odd(-1).round(x), FP4_RADIX4.round(x * 2) / 2)
    assert same_bits(FP4_RADIX4.odd(1).round(x), FP4_RADIX4.round(x / 2) * 2)


def test_native_conversions_equal_the_addition_trick(x, same_bits, monkeypatch) -> None:
    from nybble.formats import BF16

    native = [fmt.round(x) for fmt in (FP16, BF16)]
    monkeypatch.setattr(minifloat, "_NATIVE", {})
    assert same_bits(FP16.round(x), native[0])
    assert same_bits(BF16.round(x), native[1])


def test_integers_of_wider_code_dtypes(same_bits) -> None:
    codes = torch.arange(16)
    for fmt in (INT4, INT4_SYM, FP4_RADIX4, INT4_ZEROLESS):
        narrow = fmt.integers(codes.to(torch.uint8))
        for dtype in (torch.int16, torch.int32, torch.int64):
            assert same_bits(fmt.integers(codes.to(dtype)), narrow)
            assert same_bits(fmt.decode(codes.to(dtype)), fmt.decode(codes.to(torch.uint8)))


def test_stochastic_rounding_is_unbiased_over_evenly_spread_integers() -> None:
    """Exactly the share p goes up, so the mean of the results is the number itself."""
    draws = torch.arange(0, 1 << 24, 32, dtype=torch.int32)
    cases = [(INT4, 2.25, 2.0, 3.0), (FP4_RADIX4, -1.75, -1.0, -4.0), (FP4_RADIX2, 3.0, 2.0, 4.0)]
    for fmt, value, near, far in cases:
        rounded = fmt.round(torch.full(draws.shape, value), Stochastic(), draws)
        share = (value - near) / (far - near)
        assert int((rounded == far).sum()) == round(share * draws.numel())
        assert int((rounded == near).sum()) == round((1 - share) * draws.numel())
        assert float(rounded.double().mean()) == value


def test_e2m1_integers_are_twice_the_values() -> None:
    e2m1 = Minifloat("e2m1", 2, 1, 1)
    assert e2m1.integer_values()[:8] == (0, 1, 2, 3, 4, 6, 8, 12)
    assert Table16(tuple(range(16))).integer_values() == tuple(range(16))
