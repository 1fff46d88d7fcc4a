"""Native quantise + pack against the reference backend: the same bytes, masks and statistics, for
every instruction set, thread count and memory format."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nybble.errors import NybbleError
from nybble.formats import (
    Format,
    Integer,
    LogFormat,
    LogNearest,
    Nearest,
    Rounding,
    Stochastic,
    Table16,
    ZeroLess,
    get_format,
    two_phase_integers,
)
from nybble.formats.breakpoints import breakpoints
from nybble.ops.native import core, quantize, statistics, streams
from nybble.ops.native.mask import mask_gradient_
from nybble.ops.reference.layer import clip_gradient
from nybble.ops.reference.operand import Draw, Operand, quantize_operand, restore, store
from nybble.ops.reference.storage import flatten, is_channels_last, pack_mask
from nybble.quantizers import (
    PACT,
    SAWB,
    AbsMax,
    MinMax,
    Quantizer,
    RandomKey,
    ScaleConfig,
    Unit,
    random24,
    tree_sum,
)
from nybble.quantizers.packing import pack4, pack_codes, unpack4
from nybble.quantizers.scales.gradscale import absolute_max
from nybble.quantizers.scales.sawb import row_statistics
from nybble.quantizers.sums import tree_sum_last

CORE = core()[0]
pytestmark = pytest.mark.skipif(CORE is None, reason="no compiled module")
ISAS = CORE.isas() if CORE is not None else ("generic",)

EVEN = LogFormat(4, 4)
FORMATS: dict[str, Format] = {
    "int4": get_format("int4"),
    "int4_sym": get_format("int4_sym"),
    "uint4": get_format("uint4"),
    "int3": Integer(3),
    "uint2": Integer(2, signed=False),
    "radix4": EVEN,
    "radix4_odd": EVEN.odd(),
    "radix4_odd_up": EVEN.odd(1),
    "radix2": LogFormat(2, 4),
    "radix16": LogFormat(16, 4),
    "radix3": LogFormat(3, 4),
    "radix4_3bit": LogFormat(4, 3),
    "e2m1": get_format("fp4_e2m1"),
    "zeroless": get_format("int4_zeroless"),
    "zeroless3": ZeroLess(3),
    "table": Table16((0, 1, 2, 3, 5, 8, 13, 21, -1, -2, -3, -5, -8, -13, -21, -34)),
    "table_equal": Table16((5, 5, 5, 0, 1, 1, 2, 7, -128, 127, -3, -3, 0, 0, 64, -64)),
}
LOG_RULES = (
    LogNearest("1.6"),
    LogNearest("1.848"),
    LogNearest("mid"),
    LogNearest("1.6", "half"),
    LogNearest("1.848", "half"),
    LogNearest("1.17", "half"),
    Nearest(),
)


def roundings(fmt: Format) -> tuple[Rounding, ...]:
    return LOG_RULES if isinstance(fmt, LogFormat) else (Nearest(),)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    assert CORE is not None
    CORE.use_isa(request.param)
    yield request.param
    CORE.use_isa("")


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The native calls take `COUNT` threads; the torch code that they are compared with, one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for module in (quantize, statistics):
        monkeypatch.setattr(module, "threads", lambda: COUNT[0])
    yield
    torch.set_num_threads(before)


def same(a: Tensor, b: Tensor) -> None:
    assert a.dtype == b.dtype and a.shape == b.shape
    if a.dtype == torch.float32:
        a, b = a.view(torch.int32), b.view(torch.int32)
    assert torch.equal(a, b), (a != b).nonzero()[:5]


def same_number(got: float, want: Tensor) -> None:
    assert np.float32(got) == want.item() or (got != got and bool(want.isnan()))


def numbers(n: int, seed: int, fmt: Format | None = None, spread: float = 3.0) -> Tensor:
    """Gaussian numbers over many octaves, with break points of the format and their neighbours,
    denormals, zeros of both signs and the largest floats among them."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=g) * torch.exp2(torch.randn(n, generator=g) * spread)
    special = [0.0, -0.0, 1e-45, -1e-45, 1e-39, -3e-39, 3.4e38, -3.4e38, 0.5, -0.5, 2.5]
    odd = torch.tensor(special)
    if fmt is not None:
        near = torch.from_numpy(breakpoints(fmt).neighbourhood())
        odd = torch.cat([odd, near[near.isfinite()]])
    where = torch.rand(n, generator=g) < 0.3
    picks = odd[torch.randint(len(odd), (n,), generator=g)]
    return torch.where(where, picks, x)


def shaped(x: Tensor, layout: str) -> Tensor:
    """x as a tensor of four dimensions in the given memory format, or flat."""
    n = x.numel()
    if layout == "flat":
        return x
    c = next(d for d in (7, 5, 3, 2, 1) if n % d == 0)
    w = next(d for d in (6, 4, 3, 2, 1) if (n // c) % d == 0)
    h = next(d for d in (5, 3, 2, 1) if (n // c // w) % d == 0)
    x = x.reshape(n // (c * w * h), c, h, w)
    return x.to(memory_format=torch.channels_last) if layout == "channels_last" else x


SIZES = st.sampled_from([0, 1, 2, 31, 33, 63, 64, 65, 127, 840, 1023, 1024, 4200, 40000])
THREADS = st.sampled_from([1, 1, 1, 1, 2, 3])
LAYOUTS = st.sampled_from(["flat", "contiguous", "channels_last"])
SEEDS = st.integers(0, 2**32 - 1)
MANY = settings(max_examples=25, deadline=None)


COUNT = [1]


def use(isa: str, count: int) -> None:
    assert CORE is not None
    CORE.use_isa(isa)
    COUNT[0] = count


# ---- packing ------------------------------------------------------------------------------------


def reference(
    x: Tensor, inv: float, fmt: Format, rounding: Rounding, random: Tensor | None = None
) -> Tensor:
    drawn = (
        None if random is None else flatten(torch.empty_like(x, dtype=torch.int32).copy_(random))
    )
    return pack_codes(fmt.encode(flatten(x) * torch.tensor(inv), rounding, drawn), fmt.bits)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("isa_name", ISAS)
def test_codes_of_every_rule(name: str, isa_name: str) -> None:
    fmt = FORMATS[name]
    rules = st.sampled_from(roundings(fmt))

    @settings(max_examples=4 * len(roundings(fmt)), deadline=None)
    @given(n=SIZES, seed=SEEDS, layout=LAYOUTS, count=THREADS, rounding=rules)
    def check(n: int, seed: int, layout: str, count: int, rounding: Rounding) -> None:
        use(isa_name, count)
        x = shaped(numbers(n, seed, fmt), layout)
        inv = float(np.float32(2.0 ** (seed % 5 - 2) if seed % 2 else 0.37))
        packed = quantize.pack(x, inv, fmt, rounding)
        finite = (x * inv).isfinite()
        assert (packed.poison == 0.0) == bool(finite.all())
        same(packed.codes, reference(x, inv, fmt, rounding))
        same_number(packed.amax, absolute_max(x))

    check()


@pytest.mark.parametrize("name", FORMATS)
def test_every_break_point_and_its_neighbours(name: str, isa: str) -> None:
    fmt = FORMATS[name]
    for rounding in roundings(fmt):
        x = torch.from_numpy(breakpoints(fmt, rounding).neighbourhood())
        x = torch.cat([x, torch.tensor([0.0, -0.0, 1e-45, -1e-45])])
        same(quantize.pack(x, 1.0, fmt, rounding).codes, reference(x, 1.0, fmt, rounding))
        both = x.to(torch.bfloat16)
        got = quantize.pack(both, 1.0, fmt, rounding).codes
        same(got, reference(both.float(), 1.0, fmt, rounding))


@pytest.mark.parametrize("name", ["uint4", "radix4", "e2m1"])
def test_random_bit_patterns(name: str, isa: str) -> None:
    fmt = FORMATS[name]
    g = torch.Generator().manual_seed(5)
    x = torch.randint(-(2**31), 2**31, (200_000,), generator=g).to(torch.int32).view(torch.float32)
    x = torch.where(x.isfinite(), x, 1.0)
    same(quantize.pack(x, 1.0, fmt).codes, reference(x, 1.0, fmt, fmt.default_rounding))


@pytest.mark.parametrize("isa_name", ISAS)
@MANY
@given(
    n=SIZES,
    seed=SEEDS,
    layout=LAYOUTS,
    first=st.sampled_from(["radix4", "radix4_odd", "radix4_odd_up", "radix2"]),
    second=st.sampled_from(["radix4", "radix4_odd", "radix4_odd_up", "radix2"]),
    rounding=st.sampled_from(LOG_RULES),
    exponent=st.integers(-40, 40),
    bf16=st.booleans(),
    count=THREADS,
)
def test_two_phases(
    isa_name: str,
    n: int,
    seed: int,
    layout: str,
    first: str,
    second: str,
    rounding: Rounding,
    exponent: int,
    bf16: bool,
    count: int,
) -> None:
    use(isa_name, count)
    one, two = FORMATS[first], FORMATS[second]
    assert isinstance(one, LogFormat) and isinstance(two, LogFormat)
    scale = 2.0**exponent
    x = shaped(numbers(n, seed, one), layout) / scale
    x = torch.where(x.isfinite(), x, 1.0)
    x = x.to(torch.bfloat16) if bf16 else x
    got = quantize.pack_two_phase(x, torch.tensor([scale]), one, two, rounding)
    y = x.float() * scale
    g1, g2 = two_phase_integers(y, one, two, rounding)
    same(got[0], pack_codes(one.integers_to_codes(flatten(g1)), 4))
    assert got[1] is not None
    same(got[1], pack_codes(two.integers_to_codes(flatten(g2)), 4))
    same_number(got[2], absolute_max(x))


def test_one_phase_and_equal_phases() -> None:
    x = numbers(1000, 3, EVEN)
    one = quantize.pack_two_phase(x, 1.0, EVEN, None)
    same_number(one[2], absolute_max(x))
    assert one[1] is None
    both = quantize.pack_two_phase(x, 1.0, EVEN, EVEN)
    assert both[1] is both[0]
    same(both[0], one[0])


SCALES: dict[str, tuple[str, ScaleConfig]] = {
    "pact": ("uint4", PACT("unsigned")),
    "pact_symmetric": ("int4_sym", PACT("symmetric")),
    "pact_two_sided": ("int4", PACT("two_sided")),
    "minmax": ("int4", MinMax()),
    "minmax_unsigned": ("uint4", MinMax()),
    "sawb": ("int4_sym", SAWB()),
    "sawb_clip": ("int4_sym", SAWB(ste="clip")),
    "sawb_channel": ("int4_sym", SAWB("luq", per_channel=True, ste="clip")),
    "sawb16": ("zeroless", SAWB("ibm16", ste="clip")),
    "sawb16_channel": ("zeroless", SAWB("ibm16", per_channel=True, ste="clip")),
    "absmax": ("e2m1", AbsMax()),
    "absmax_channel": ("radix2", AbsMax("channel")),
    "absmax_axis1": ("int4_sym", AbsMax("channel", axis=1)),
    "absmax_row": ("table", AbsMax("row")),
    "absmax_log": ("radix4", AbsMax("tensor", power_of_two=True)),
    "mx": ("e2m1", AbsMax.mx()),
    "nv": ("e2m1", AbsMax.nv()),
    "unit": ("int4", Unit()),
    "unit_e2m1": ("e2m1", Unit()),
    "pact_e2m1": ("e2m1", PACT("symmetric")),
}


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("isa_name", ISAS)
def test_operands_as_the_reference_stores_them(name: str, stochastic: bool, isa_name: str) -> None:
    format_name, scale = SCALES[name]
    fmt = FORMATS[format_name]
    rounding = Stochastic() if stochastic else None
    slot = Quantizer(fmt, scale, rounding)
    draw = Draw(seed=7, layer=3, call=11)

    @settings(max_examples=12, deadline=None)
    @given(
        shape=st.sampled_from(
            [(1, 1, 1, 1), (3, 5, 2, 3), (2, 64, 1, 1), (6, 4, 3, 3), (2, 3, 9, 8), (2, 70, 8, 9)]
        ),
        seed=SEEDS,
        last=st.booleans(),
        count=THREADS,
    )
    def check(shape: tuple[int, ...], seed: int, last: bool, count: int) -> None:
        use(isa_name, count)
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(shape, generator=g)
        if last:
            x = x.to(memory_format=torch.channels_last)
        alpha = torch.tensor([1.3, 0.9])[: scale.clips] if isinstance(scale, PACT) else None
        want = quantize_operand(x, slot, draw, 0, alpha, want_inside=True)
        codes, _, _, mask = store(want, slot, want.inside)
        fit = (
            scale.fit_alpha(alpha, fmt)
            if isinstance(scale, PACT) and alpha is not None
            else scale.fit(x, fmt)
        )
        again = restore(store(want, slot, want.inside), slot, None, shape, is_channels_last(x))
        assert torch.equal(again.tensor, want.tensor)  # but for the sign of zeros
        got = quantize.pack(
            x,
            fit._times(torch.ones_like(x), fit.inv),
            fmt,
            rounding,
            key=draw.key(0),
            zero_point=fit.zero_point,
            want_inside=want.inside is not None,
        )
        same(got.codes, codes)
        if want.inside is not None:
            assert got.mask is not None
            same(got.mask, mask)

    check()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 40, 63, 64, 99, 5000])
def test_poison(bad: float, at: int, isa: str) -> None:
    x = torch.ones(5001)
    for fmt in (get_format("uint4"), EVEN, get_format("fp4_e2m1")):
        assert quantize.pack(x, 1.0, fmt).poison == 0.0
    x[at] = bad
    for fmt in (get_format("uint4"), EVEN, get_format("fp4_e2m1")):
        for rounding in (None, Stochastic()):
            packed = quantize.pack(x, 1.0, fmt, rounding, key=RandomKey(), want_inside=True)
            assert packed.poison != packed.poison
            assert packed.amax == abs(bad) or (bad != bad and packed.amax != packed.amax)
    x[at] = 3e38
    assert quantize.pack(x, 8.0, EVEN).poison != 0.0
    rows = torch.full((5001, 1), 1.0)
    rows[at] = 8.0
    packed = quantize.pack(x.reshape(5001, 1), rows, EVEN)
    assert packed.poison != packed.poison and packed.amax == np.float32(3e38)


def test_instruction_sets_agree_on_what_is_unspecified() -> None:
    """NaN payloads and infinities: no meaning, yet the same bytes."""
    assert CORE is not None
    g = torch.Generator().manual_seed(1)
    x = torch.randint(-(2**31), 2**31, (50_000,), generator=g).to(torch.int32).view(torch.float32)
    x[::3] = float("nan")
    for fmt in FORMATS.values():
        for rounding in (*roundings(fmt), Stochastic()):
            found = []
            for name in ISAS:
                CORE.use_isa(name)
                found.append(
                    quantize.pack(x, 1.0, fmt, rounding, key=RandomKey(), want_inside=True)
                )
            CORE.use_isa("")
            for other in found[1:]:
                same(other.codes, found[0].codes)
                assert other.mask is not None and found[0].mask is not None
                same(other.mask, found[0].mask)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("isa_name", ISAS)
def test_stochastic(name: str, isa_name: str) -> None:
    fmt = FORMATS[name]

    @settings(max_examples=20, deadline=None)
    @given(n=SIZES, seed=SEEDS, layout=LAYOUTS, bf16=st.booleans(), count=THREADS)
    def check(n: int, seed: int, layout: str, bf16: bool, count: int) -> None:
        use(isa_name, count)
        x = shaped(numbers(n, seed, fmt, spread=1.5), layout)
        x = x.to(torch.bfloat16) if bf16 else x
        x = torch.where(x.isfinite(), x, 1.0)
        key = RandomKey(seed=seed, layer=5, call=9, operand=2)
        got = quantize.pack_stochastic(x, 1.0, fmt, key)
        random = random24(x.shape, key)
        same(got.codes, reference(x.float(), 1.0, fmt, Stochastic(), random))
        same_number(got.amax, absolute_max(x))

    check()


def test_refusals() -> None:
    int4 = get_format("int4")
    for x, fmt in (
        (torch.zeros(4, dtype=torch.float64), int4),
        (torch.zeros(4, 4)[:, :2], int4),
        (torch.zeros(4), get_format("fp8_143")),
        (torch.zeros(4), get_format("int8")),
    ):
        with pytest.raises(NybbleError):
            quantize.pack(x, 1.0, fmt)
    with pytest.raises(NybbleError, match="zero point"):
        quantize.pack(torch.zeros(4), 1.0, EVEN, zero_point=1.0)
    with pytest.raises(NybbleError, match="key"):
        quantize.pack(torch.zeros(4), 1.0, int4, Stochastic())


# ---- statistics ---------------------------------------------------------------------------------

LENGTHS = st.sampled_from(
    [
        0,
        1,
        2,
        9,
        27,
        511,
        513,
        1023,
        1024,
        1025,
        3000,
        8192,
        8193,
        9000,
        65536,
        65537,
        70001,
        150000,
    ]
)


def plain(n: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=g) * torch.exp2(torch.randn(n, generator=g) * 4)


@pytest.mark.parametrize("isa_name", ISAS)
@MANY
@given(n=LENGTHS, seed=SEEDS, count=THREADS)
def test_tree_sum(isa_name: str, n: int, seed: int, count: int) -> None:
    use(isa_name, count)
    x = plain(n, seed)
    same(quantize.tree_sum(x), tree_sum(x))
    w = x[: n // 7 * 7].reshape(7, -1)
    same(quantize.tree_sum_last(w), tree_sum_last(w))
    many = x[: n // 27 * 27].reshape(-1, 27)
    same(quantize.tree_sum_last(many), tree_sum_last(many))


@pytest.mark.parametrize("isa_name", ISAS)
@MANY
@given(n=LENGTHS, rows=st.sampled_from([1, 2, 7, 64]), seed=SEEDS, count=THREADS)
def test_moments(isa_name: str, n: int, rows: int, seed: int, count: int) -> None:
    use(isa_name, count)
    w = plain(n // rows * rows, seed).reshape(rows, -1)
    got = quantize.sawb_statistics(w)
    if w.numel() == 0:
        assert not got.any()
        return
    for one, want in zip(got, row_statistics(w), strict=True):
        assert np.array_equal(one.view(np.int32), np.atleast_1d(want).view(np.int32))
    same(quantize.absmax_rows(w, rows), w.abs().amax(1))
    same(quantize.absmax(w), w.abs().amax())


def test_statistics_of_what_is_not_finite(isa: str) -> None:
    x = torch.ones(3000)
    x[2999] = float("inf")
    assert quantize.sawb_statistics(x[None]).tolist() == [[float("inf")]] * 3
    x[0] = float("nan")
    assert np.isnan(quantize.sawb_statistics(x[None])).all()
    assert bool(quantize.absmax(x).isnan()) and bool(quantize.tree_sum(x).isnan())
    assert bool(quantize.absmax(x.to(torch.bfloat16)).isnan())
    same(quantize.tree_sum(torch.full((2000,), -0.0)), torch.tensor(0.0))
    same(quantize.absmax(torch.tensor([-0.0])), torch.tensor(0.0))


# ---- mask and clip gradient ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unsigned", "symmetric", "two_sided"])
@pytest.mark.parametrize("isa_name", ISAS)
def test_mask_gradient(kind: str, isa_name: str) -> None:
    fmt = get_format({"unsigned": "uint4", "symmetric": "int4_sym", "two_sided": "int4"}[kind])
    scale = PACT(kind)  # type: ignore[arg-type]
    slot = Quantizer(fmt, scale)

    @settings(max_examples=25, deadline=None)
    @given(
        n=st.sampled_from([1, 7, 63, 64, 65, 840, 1024, 1030, 9000, 70001]),
        seed=SEEDS,
        layout=LAYOUTS,
        spoil=st.booleans(),
        count=THREADS,
    )
    def check(n: int, seed: int, layout: str, spoil: bool, count: int) -> None:
        use(isa_name, count)
        x = shaped(plain(n, seed), layout)
        alpha = torch.tensor([1.5, 0.7])[: scale.clips]
        qx = quantize_operand(x, slot, Draw(0, 0, 0), 0, alpha, want_inside=True)
        codes, _, zero, mask = store(qx, slot, qx.inside)
        dx = torch.empty_like(x).copy_(shaped(numbers(n, seed + 1), layout))
        if spoil:
            flat = flatten(dx).clone()
            flat[n // 2], flat[n // 3] = float("nan"), float("inf")
            dx = torch.empty_like(dx).copy_(_unflat(flat, dx))
        assert qx.inside is not None
        want = clip_gradient(dx, qx, slot)
        expected = dx * qx.inside
        point = int(zero.item()) if zero.numel() else 0
        got = mask_gradient_(dx, mask, codes, fmt, point, two_sided=kind == "two_sided")
        assert got is not None
        if want.isnan().any():
            assert torch.equal(want.isnan(), got.isnan())
        else:
            same(got, want)
        same(dx.nan_to_num(1.0), expected.nan_to_num(1.0))

    check()


def _unflat(flat: Tensor, like: Tensor) -> Tensor:
    if like.is_contiguous():
        return flat.view(like.shape)
    n, c, h, w = like.shape
    return flat.view(n, h, w, c).permute(0, 3, 1, 2)


@pytest.mark.parametrize("n", [0, 1, 64, 100, 1025, 70000])
def test_mask_alone(n: int, isa: str) -> None:
    dx = numbers(n, 2)
    inside = (plain(n, 3) > 0).float()
    expected = dx * inside
    assert mask_gradient_(dx, pack_mask(inside)) is None
    same(dx, expected)


def test_the_side_of_a_zero_point_follows_the_integers(isa: str) -> None:
    fmt = get_format("int4")
    codes = torch.arange(16, dtype=torch.uint8)
    dx = torch.exp2(torch.arange(16.0))
    for point in (-8, -3, 0, 7):
        ints = fmt.integers(codes) - point
        operand = Operand(ints, torch.tensor(1.0), 16, torch.zeros(16))
        want = clip_gradient(dx, operand, Quantizer(fmt, PACT("two_sided")))
        got = mask_gradient_(
            dx.clone(), torch.zeros(2, dtype=torch.uint8), pack4(codes), fmt, point, two_sided=True
        )
        assert got is not None
        same(got, want)


# ---- random bits and layouts --------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 15, 16, 17, 1000, 33000, 70001])
def test_random24(n: int, isa: str) -> None:
    for key in (
        RandomKey(),
        RandomKey(2**64 - 1, 2**16 - 1, 2**16 - 2, 2**32 - 1, 2**16 - 3),
        RandomKey(seed=12345678901234, rank=1, layer=2, call=3, operand=4),
    ):
        same(streams.random24(n, key), random24((n,), key))


@pytest.mark.parametrize("isa_name", ISAS)
@MANY
@given(
    n=st.integers(0, 70),
    rows=st.integers(0, 40),
    columns=st.sampled_from([0, 1, 2, 9, 16, 17, 49, 64, 300]),
    count=THREADS,
)
def test_relayout(isa_name: str, n: int, rows: int, columns: int, count: int) -> None:
    use(isa_name, count)
    g = torch.Generator().manual_seed(n)
    codes = torch.randint(16, (n, rows, columns), generator=g, dtype=torch.uint8)
    got = streams.relayout(pack4(codes), n, rows, columns)
    same(got, pack4(codes.transpose(1, 2).contiguous()))


@pytest.mark.parametrize("shape", [(1, 3, 400_001), (2, 1_000_003, 1), (1, 65, 20_003)])
def test_relayout_of_large_matrices(shape: tuple[int, int, int], isa: str) -> None:
    codes = torch.randint(16, shape, dtype=torch.uint8)
    got = streams.relayout(pack4(codes), *shape)
    same(unpack4(got, codes.numel()), codes.transpose(1, 2).reshape(-1))


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=40)
@given(n=st.integers(0, 100_000), threads=st.integers(1, 2), seed=st.integers(0, 2**31))
def test_fingerprint(isa, n, threads, seed):
    """The sum of nn/calls.py, modulo 2^64, for any bits."""
    CORE.use_isa(isa)
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, (n,), generator=generator)
    weights = torch.arange(n).mul_(2).add_(1)
    found = streams.fingerprint(bits.to(torch.int32).view(torch.float32))
    assert found == int((bits * weights).sum())
