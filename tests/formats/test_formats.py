"""What each format says of itself: names, counts, ranges, specials, errors, dtypes, shapes."""

from __future__ import annotations

import math
import pickle
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.formats import (
    BF16,
    DLFLOAT16,
    E8M0,
    FORMATS,
    FP4_E2M1,
    FP4_RADIX2,
    FP4_RADIX4,
    FP8_143,
    FP8_152,
    FP8_E4M3,
    FP8_E5M2,
    FP16,
    INT4,
    INT4_SYM,
    INT4_ZEROLESS,
    LOG4_BASE3,
    LOG4_BASE10,
    UINT4,
    Integer,
    LogFormat,
    LogNearest,
    Minifloat,
    Nearest,
    Stochastic,
    Table16,
    ZeroLess,
    get_format,
    oracle,
)
from nybble.formats.exact import float32_above, float32_at_least, nearest_float32
from nybble.formats.rounding import rounding_name

INF, NAN = math.inf, math.nan


# -- names and ranges --------------------------------------------------------------------------


def test_registry_holds_the_promised_formats() -> None:
    expected = "int4 int4_sym uint4 fp4_radix4 fp4_radix4_odd fp4_radix4_odd_up fp4_radix2 "
    expected += "log4_base3 log4_base8 log4_base10 fp4_e2m1 int4_zeroless fp8_143 fp8_152 "
    expected += "fp8_e4m3 fp8_e5m2 e8m0 fp16 bf16 dlfloat16 "
    expected += " ".join(f"{kind}{bits}" for kind in ("int", "uint") for bits in range(2, 9))
    assert set(expected.split()) <= set(FORMATS)
    assert all(get_format(name).name == name for name in FORMATS)


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown format 'fp4_radix5'\. Did you mean 'fp4_radix4'"):
        get_format("fp4_radix5")


def test_counts_of_distinct_values(any_format) -> None:
    values = any_format.values()
    assert len(values) == 1 << any_format.bits
    finite = {v for v in values if math.isfinite(v)}
    assert max(finite) == any_format.max_value
    if any_format.bits == 4:
        assert len(set(values)) <= 16
    assert all(math.copysign(1, v) == 1 for v in values if v == 0)
    assert any_format.signed == (min(finite) < 0)


@pytest.mark.parametrize(
    ("fmt", "count", "low", "high"),
    [
        (INT4, 16, -8, 7),
        (UINT4, 16, 0, 15),
        (FP4_RADIX4, 15, -64, 64),
        (FP4_RADIX4.odd(), 15, -32, 32),
        (FP4_RADIX4.odd(1), 15, -128, 128),
        (FP4_RADIX2, 15, -8, 8),
        (LOG4_BASE10, 15, -1000, 1000),
        (FP4_E2M1, 15, -6, 6),
        (INT4_ZEROLESS, 16, -7.5, 7.5),
        (FP8_143, 255, -30, 30),
    ],
    ids=lambda v: getattr(v, "name", None),
)
def test_known_counts_and_ranges(fmt, count, low, high) -> None:
    assert (len(set(fmt.values())), min(fmt.values()), max(fmt.values())) == (count, low, high)


def test_known_largest_and_smallest_values() -> None:
    facts = {FP16: 65504.0, FP8_E4M3: 448.0, FP8_E5M2: 57344.0, FP8_152: 57344.0}
    facts |= {BF16: 3.3895313892515355e38, DLFLOAT16: 2.0**33 - 2.0**24, E8M0: 2.0**127}
    for fmt, top in facts.items():
        assert fmt.max_value == top
    assert DLFLOAT16.values()[1] == 2.0**-31 + 2.0**-40  # no subnormals: the first binade's second
    assert FP16.values()[1] == 2.0**-24
    assert BF16.values()[1] == 2.0**-133
    assert FP8_143.values()[1] == 2.0**-13
    ratio = FP4_RADIX4.max_value / FP4_RADIX4.values()[1]
    assert ratio == 4096.0


def test_only_the_reachable_codes_are_emitted(any_format) -> None:
    if any_format.bits > 8:
        return
    values = any_format.values()
    seen = set(any_format.encode(torch.tensor(values)).tolist())
    numbers = [c for c, v in enumerate(values) if v == v]
    unreachable = {c for c in numbers if values.index(values[c]) != c}
    if isinstance(any_format, Integer) and any_format.symmetric:
        unreachable.add(1 << (any_format.bits - 1))
    infinite = {c for c in numbers if math.isinf(values[c])}
    if getattr(any_format, "overflow", "") == "saturate":
        unreachable |= infinite
    assert seen & set(numbers) == set(numbers) - unreachable
    assert len(seen - set(numbers)) <= 1  # one NaN code


def test_symmetric_integers_do_not_emit_their_lowest_code() -> None:
    assert INT4_SYM.round(torch.tensor([-9.0, -7.6])).tolist() == [-7.0, -7.0]
    assert INT4_SYM.decode(torch.tensor([8], dtype=torch.uint8)).item() == -8.0


# -- special numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fmt", "expected"),
    [  # NaN, +inf, -inf, 1e30, -1e30, 1e-42, -0.0
        (INT4, [0, 7, -8, 7, -8, 0, 0]),
        (UINT4, [0, 15, 0, 15, 0, 0, 0]),
        (FP4_RADIX4, [0, 64, -64, 64, -64, 0, 0]),
        (FP4_RADIX4.odd(), [0, 32, -32, 32, -32, 0, 0]),
        (LOG4_BASE10, [0, 1000, -1000, 1000, -1000, 0, 0]),
        (FP4_E2M1, [0, 6, -6, 6, -6, 0, 0]),
        (INT4_ZEROLESS, [0.5, 7.5, -7.5, 7.5, -7.5, 0.5, 0.5]),
        (FP8_143, [0, 30, -30, 30, -30, 0, 0]),
        (FP8_152, [NAN, 57344, -57344, 57344, -57344, 0, 0]),
        (FP8_E4M3, [NAN, 448, -448, 448, -448, 0, 0]),
        (FP8_E5M2, [NAN, 57344, -57344, 57344, -57344, 0, 0]),
        (FP16, [NAN, INF, -INF, INF, -INF, 0, 0]),
        (BF16, [NAN, INF, -INF, 1e30, -1e30, 0, 0]),
        (DLFLOAT16, [NAN, NAN, NAN, NAN, NAN, 0, 0]),
        (E8M0, [NAN, NAN, NAN, 2.0**100, NAN, 2.0**-127, 2.0**-127]),
    ],
    ids=lambda v: getattr(v, "name", None),
)
def test_special_numbers(fmt, expected, same_bits) -> None:
    x = torch.tensor([NAN, INF, -INF, 1e30, -1e30, 1e-42, -0.0])
    got = fmt.round(x)
    if fmt is BF16:
        assert abs(got[3].item() / 1e30 - 1) < 2**-8  # in range: rounded, not special
        expected = [NAN, INF, -INF, got[3].item(), -got[3].item(), 0, 0]
    assert same_bits(got, torch.tensor(expected, dtype=torch.float32))


def test_every_format_states_its_special_numbers(any_format) -> None:
    for text in (*vars(any_format.special).values(), any_format.source, any_format.certainty):
        assert isinstance(text, str) and text


def test_stated_saturation_is_true(any_format) -> None:
    top = any_format.round(torch.tensor([3e38, INF]))
    says = any_format.special.infinity
    if says.startswith("saturates"):
        assert top.tolist() == [any_format.max_value] * 2
    elif says.startswith("infinity"):
        assert top[1].item() == INF
    else:
        assert top[1].isnan()


# -- dtypes, shapes, strides -------------------------------------------------------------------

SOME = [INT4, UINT4, FP4_RADIX4, LOG4_BASE3, FP4_E2M1, INT4_ZEROLESS, FP8_E4M3, FP16, E8M0]
SOME.append(Table16((0, 1, 2, 3, 5, 8, 13, 21, -1, -2, -3, -5, -8, -13, -21, -34)))


@given(
    fmt=st.sampled_from(SOME),
    shape=st.lists(st.integers(0, 5), max_size=4),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    layout=st.sampled_from(["plain", "transposed", "strided", "expanded"]),
    seed=st.integers(0, 2**31),
    stochastic=st.booleans(),
)
def test_any_shape_dtype_and_stride(fmt, shape, dtype, layout, seed, stochastic) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) * 20).to(dtype)
    if layout == "transposed":
        x = x.permute(tuple(reversed(range(x.dim()))))
    elif layout == "strided" and x.dim():
        x = torch.stack([x, -x], dim=-1)[..., 0]
    elif layout == "expanded":
        x = x.unsqueeze(0).expand(3, *x.shape)
    draws = torch.randint(0, 1 << 24, x.shape, generator=generator)
    rule = Stochastic() if stochastic else None
    before = x.clone()
    codes = fmt.encode(x, rule, draws)
    assert codes.shape == x.shape and codes.dtype == fmt.code_dtype
    flat = [
        oracle.encode(v, fmt, rule, r)
        for v, r in zip(x.double().flatten().tolist(), draws.flatten().tolist(), strict=True)
    ]
    assert codes.flatten().tolist() == flat
    assert fmt.decode(codes).shape == x.shape
    rounded, decoded = fmt.round(x, rule, draws), fmt.decode(codes)
    assert torch.equal(rounded.nan_to_num(-99.0), decoded.nan_to_num(-99.0))
    if fmt.unit is not None:
        assert torch.equal(fmt.round_to_integers(x, rule, draws), fmt.integers(codes))
        # codes that are a view: every second one
        wide = torch.stack([codes, codes], dim=-1)[..., 1]
        assert torch.equal(fmt.integers(wide), fmt.integers(codes))
        ints = torch.stack([fmt.integers(codes)] * 2, dim=-1)[..., 0]
        assert torch.equal(fmt.integers_to_codes(ints), codes)
    assert torch.equal(x, before)


@given(
    values=st.lists(st.integers(-128, 127), min_size=16, max_size=16),
    x=st.lists(st.integers(-1040, 1040), min_size=1, max_size=50),
)
def test_oracle_on_any_table_of_sixteen(values, x) -> None:
    """Eighths: every tie of integer levels is a half, and points on both sides of it."""
    fmt = Table16(tuple(values))
    numbers = [v / 8 for v in x]
    codes = fmt.encode(torch.tensor(numbers)).tolist()
    assert codes == [oracle.encode(v, fmt) for v in numbers]
    best = [min(abs(v - level) for level in values) for v in numbers]
    assert [abs(v - values[c]) for v, c in zip(numbers, codes, strict=True)] == best


def test_gradients_do_not_flow() -> None:
    x = torch.randn(4, requires_grad=True)
    for fmt in SOME:
        assert not fmt.round(x).requires_grad


def test_formats_are_values(any_format) -> None:
    again = pickle.loads(pickle.dumps(any_format))  # a copy, as multiprocessing makes one
    assert again == any_format and hash(again) == hash(any_format) and again.name == any_format.name
    assert repr(any_format).startswith(type(any_format).__name__ + "(")


def test_phase_offset_has_no_meaning_in_the_even_phase() -> None:
    assert LogFormat(4, 4, odd_offset=1) == FP4_RADIX4
    assert FP4_RADIX4.odd(1) != FP4_RADIX4.odd(-1)


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Integer(1), "Integer: bits is 1; choose 2 to 8"),
        (lambda: Integer(9), "choose 2 to 8"),
        (lambda: Integer(4, signed=False, symmetric=True), "needs signed=True"),
        (lambda: LogFormat(1, 4), "base is 1; choose 2 to 16"),
        (lambda: LogFormat(17, 4), "base is 17"),
        (lambda: LogFormat(4, 1), "bits is 1"),
        (lambda: LogFormat(4, 9), "bits is 9"),
        (lambda: LogFormat(4, 4, phase="up"), "choose 'even' or 'odd'"),
        (lambda: FP4_RADIX4.odd(2), "choose -1 or 1"),
        (lambda: FP4_RADIX2.odd(), "only base 4 has an odd phase"),
        (lambda: LogFormat(4, 8), "spans more than float32"),
        (lambda: Table16((1, 2, 3)), "give 16 integers"),
        (lambda: Table16((128, *range(15))), "give 16 integers"),
        (lambda: Table16((0.5, *range(15))), "give 16 integers"),
        (lambda: ZeroLess(1), "choose 2 to 8"),
        (lambda: Minifloat("x", 0, 3, 1), "choose 1 to 8 and 1 to 10"),
        (lambda: Minifloat("x", 9, 3, 1), "choose 1 to 8"),
        (lambda: Minifloat("x", 4, 11, 1), "1 to 10"),
        (lambda: Minifloat("x", 8, 8, 127), "more than 16 bits"),
        (lambda: Minifloat("x", 4, 3, 7, specials="odd"), "choose one"),
        (lambda: Minifloat("x", 4, 3, 7, overflow="wrap"), "choose one"),
        (lambda: Minifloat("x", 4, 3, 7, overflow="infinity"), "needs specials='ieee'"),
        (lambda: Minifloat("x", 4, 3, 7, overflow="nan"), "needs a NaN code"),
        (lambda: Minifloat("x", 8, 3, 100), "leaves the range of float32"),
        (lambda: LogNearest("1.6", underflow="none"), "underflow is 'none'"),
        (lambda: LogNearest("about two"), "give a decimal number"),
        (lambda: LogNearest("1"), "must be greater than 1"),
        (lambda: LogNearest("4").exact_factor(4), "is not below the base 4"),
        (lambda: INT4.encode(torch.zeros(2), LogNearest()), "int4 has no rounding LogNearest"),
        (lambda: FP16.encode(torch.zeros(2), LogNearest()), "rounded by: Nearest, Stochastic"),
        (lambda: INT4.encode(torch.zeros(2, dtype=torch.int32)), "not torch.int32"),
        (lambda: INT4.encode(torch.zeros(2), Stochastic()), "needs random="),
        (
            lambda: INT4.encode(torch.zeros(2), Stochastic(), torch.zeros(3, dtype=torch.int32)),
            "of shape",
        ),
        (lambda: INT4.encode(torch.zeros(2), Stochastic(), torch.zeros(2)), "int32 or int64"),
        (lambda: FP4_RADIX4.decode(torch.zeros(2)), "codes are integers"),
        (lambda: INT4.decode(torch.zeros(2)), "codes are integers"),
        (lambda: oracle.encode(1.0, INT4, Stochastic()), "needs random="),
    ],
)
def test_errors_say_what_to_do(make, message) -> None:
    with pytest.raises(UserError, match=message):
        make()


# -- small parts -------------------------------------------------------------------------------


@given(st.fractions(min_value=-(2**40), max_value=2**40))
def test_exact_neighbours(q: Fraction) -> None:
    at, above, near = float32_at_least(q), float32_above(q), nearest_float32(q)
    assert Fraction(at) >= q and Fraction(above) > q
    assert torch.nextafter(torch.tensor(at), torch.tensor(-INF)).item() < q
    assert torch.nextafter(torch.tensor(above), torch.tensor(-INF)).item() <= q
    assert Fraction(near) == oracle.to_float32(q)


def test_names_of_roundings() -> None:
    rules = [Nearest(), Stochastic(), LogNearest(), LogNearest("mid", underflow="half")]
    names = ["nearest", "stochastic", "log-nearest(1.6)", "log-nearest(mid, underflow=half)"]
    assert [rounding_name(r) for r in rules] == names


def test_mid_is_the_arithmetic_midpoint() -> None:
    for base in (2, 3, 4, 8, 10, 16):
        fmt = LogFormat(base, 4)
        levels = fmt.magnitudes()
        for low, high, threshold in zip(levels, levels[1:], fmt.thresholds()[1:], strict=False):
            assert threshold == float32_at_least((low + high) / 2)
    assert FP4_RADIX4.thresholds() == FP4_RADIX4.thresholds(LogNearest("1.6"))


def test_ties_between_two_float32_go_to_the_even_one() -> None:
    for tie, even in ((2**24 + 1, 2**24), (2**24 + 3, 2**24 + 4), (-(2**24) - 1, -(2**24))):
        assert nearest_float32(Fraction(tie)) == even
        assert oracle.to_float32(Fraction(tie)) == even
