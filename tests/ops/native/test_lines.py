"""Scales for each line, against the torch expressions that define them: the same 32 bits, for every
instruction set and number of threads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.bits import same_bits
from torch import Tensor

from nybble.errors import NybbleError
from nybble.formats import Stochastic, Table16, get_format
from nybble.ops import native
from nybble.ops.native.codes import Codes
from nybble.ops.native.lines import (
    Factors,
    Folded,
    add_outer_,
    best_of_two,
    column_sums,
    folded_pack,
    folded_statistics,
    line_scales,
)
from nybble.quantizers import per_channel_sum, random24
from nybble.quantizers.packing import pack4, unpack4
from nybble.quantizers.random import RandomKey
from nybble.quantizers.scales.arithmetic import scale_of
from nybble.quantizers.sums import tree_sum_last

CORE, MISSING = native.core()
pytestmark = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")
ISAS = () if CORE is None else CORE.isas()

W20 = Table16((1, 3, 5, 7, 9, 12, 15, 20, -1, -3, -5, -7, -9, -12, -15, -20), "w20")
G31 = Table16((0, 1, 2, 4, 8, 13, 20, 31, 0, -1, -2, -4, -8, -13, -20, -31), "g31")
SIXTEEN = Table16((0, 1, 2, 4, 8, 12, 16, 24, 0, -1, -2, -4, -8, -12, -16, -24), "sixteen")
ODD = Table16((0, 1, 2, 4, 7, 13, 29, 127, -1, -2, -3, -5, -11, -23, -61, -128), "odd")
ROWS = st.one_of(st.integers(0, 40), st.sampled_from([127, 129, 1023, 1025, 2050, 3073, 4096]))
COLUMNS = st.one_of(st.integers(1, 70), st.sampled_from([64, 192, 256, 257, 520]))


def matrix(rows: int, columns: int, seed: int, bad: float | None = None) -> Tensor:
    """Numbers of many magnitudes, some zeros, maybe one that is not finite."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    x *= torch.exp2(torch.randint(-6, 7, (rows, 1), generator=generator).float())
    x[torch.rand(rows, columns, generator=generator) < 0.1] = 0.0
    if bad is not None and x.numel():
        x.view(-1)[seed % x.numel()] = bad
    return x


def positive(n: int, seed: int) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) + 0.01


BAD = st.sampled_from([None, None, None, float("nan"), float("inf"), 3e38])


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=60)
@given(
    rows=ROWS,
    columns=COLUMNS,
    along=st.booleans(),
    across=st.booleans(),
    bad=BAD,
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)
def test_folded_statistics(isa, rows, columns, along, across, bad, threads, seed):
    CORE.use_isa(isa)
    torch.set_num_threads(threads)
    columns = min(columns, 200_000 // max(rows, 1) + 1)
    x = matrix(rows, columns, seed, bad)
    a = positive(columns, seed + 1) if along else None
    b = positive(rows, seed + 2) * 3 if across else None
    tops, column_tops, sums = folded_statistics(x, a, b)
    z1 = x if a is None else x * a
    z2 = x if b is None else x * b[:, None]
    assert same_bits(tops, _top(z1, 1))
    assert same_bits(column_tops, _top(z2, 0))
    assert sums is not None
    assert same_bits(sums, per_channel_sum(z2, 1))
    again = folded_statistics(x, a, b, want_sums=False)
    assert same_bits(again[0], tops) and same_bits(again[1], column_tops) and again[2] is None


def _top(z: Tensor, dim: int) -> Tensor:
    return z.abs().amax(dim) if z.shape[dim] else z.new_zeros(z.shape[1 - dim])


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=60)
@given(
    fmt=st.sampled_from([G31, SIXTEEN, ODD, *map(get_format, ("int4", "int4_sym", "fp4_radix2"))]),
    rows=st.integers(1, 80),
    columns=COLUMNS,
    beyond=st.booleans(),
    threads=st.integers(1, 2),
    wanted=st.sampled_from([(True, True), (True, False), (False, True)]),
    seed=st.integers(0, 2**31),
)
@example(SIXTEEN, 3, 128, False, 1, (True, True), 1)  # whole numbers, one of them not allowed
@example(G31, 3, 128, True, 1, (True, True), 2)
@example(get_format("int4_sym"), 3, 192, False, 2, (True, True), 3)
def test_folded_pack_of_a_matrix(isa, fmt, rows, columns, beyond, threads, wanted, seed):
    CORE.use_isa(isa)
    torch.set_num_threads(threads)
    x = matrix(rows, columns, seed)
    s_w, s_x = positive(columns, seed + 1), positive(rows, seed + 2)
    z1, z2 = x * s_w, x * s_x[:, None]
    inv1 = scale_of(z1.abs().amax(1), fmt.max_value).reciprocal()
    inv2 = scale_of(z2.abs().amax(0), fmt.max_value).reciprocal()
    if beyond:  # numbers above the top level, which is what they become
        inv1, inv2 = inv1 * 3.0, inv2 * 1e20
    keys = [RandomKey(seed=seed, layer=3, call=9, operand=i) for i in (2, 3)]
    one = Folded(fmt, keys[0], Factors(inv1, columns), Factors(s_w))
    two = Folded(fmt, keys[1], Factors(inv2), Factors(s_x, columns))
    found = folded_pack(x, columns, one if wanted[0] else None, two if wanted[1] else None)
    for i, y in enumerate((z1 * inv1[:, None], z2 * inv2)):
        codes = found[i]
        if not wanted[i]:
            assert codes is None
            continue
        assert codes is not None
        expected = fmt.encode(y, Stochastic(), random24(y.shape, keys[i]))
        assert torch.equal(codes, pack4(expected))


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=40)
@given(
    images=st.integers(1, 3),
    channels=st.one_of(st.integers(1, 9), st.sampled_from([16, 64, 80, 128])),
    side=st.integers(1, 9),
    last=st.booleans(),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)
def test_folded_pack_of_images(isa, images, channels, side, last, threads, seed):
    """A scale for each image folded by channels, and a scale for each channel."""
    CORE.use_isa(isa)
    torch.set_num_threads(threads)
    x = matrix(images, channels * side * (side + 1), seed).view(images, channels, side, side + 1)
    pixels = side * (side + 1)
    fold, inv1, inv2 = (positive(n, seed + n) for n in (channels, images, channels))
    keys = [RandomKey(seed=seed, operand=i) for i in (2, 3)]
    last = last and channels > 1
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
        by_image, by_channel = Factors(inv1, channels * pixels), Factors(inv2)
        one, two = Folded(G31, keys[0], by_image, Factors(fold)), Folded(G31, keys[1], by_channel)
        found = folded_pack(x, channels, one, two, (channels, pixels))
    else:
        by_image, by_channel = Factors(inv1, channels * pixels), Factors(inv2, pixels)
        one = Folded(G31, keys[0], by_image, Factors(fold, pixels))
        found = folded_pack(x, pixels, one, Folded(G31, keys[1], by_channel))
    each = (1, -1, 1, 1)
    for codes, y, key in zip(
        found,
        (x * fold.view(each) * inv1.view(-1, 1, 1, 1), x * inv2.view(each)),
        keys,
        strict=True,
    ):
        expected = G31.encode(y, Stochastic(), random24(y.shape, key))
        expected = expected.permute(0, 2, 3, 1) if last else expected
        assert codes is not None and torch.equal(codes, pack4(expected.contiguous()))


@pytest.mark.parametrize("fmt", [G31, get_format("int4_sym")])
def test_rounding_of_what_is_no_number_is_the_same_everywhere(fmt):
    """A NaN or an infinity makes the scale NaN, so that its code has no meaning; still one code."""
    x = matrix(3, 128, 5)
    x.view(-1)[:6] = torch.tensor([float("nan"), -float("nan"), 1e38, -1e38, 3e-45, -0.0])
    x.view(-1)[6:8] = torch.tensor([float("inf"), -float("inf")])
    one = Folded(fmt, RandomKey(seed=3), Factors(torch.ones(3), 128))
    found = []
    for isa in ISAS:
        CORE.use_isa(isa)
        found.append(folded_pack(x, 128, one, None)[0])
    assert all(torch.equal(found[0], other) for other in found)


def best_of_two_by_torch(x: Tensor, fmt, rms: float) -> tuple[Tensor, Tensor]:
    """quantizers/scales/best.py, written down once more."""
    rows, n = x.shape
    if not rows or not n:
        return torch.ones(rows), torch.ones(rows)
    mean = tree_sum_last(x * x) / torch.tensor(float(n))
    root = mean.double().sqrt().float() * torch.tensor(rms)
    top = x.abs().amax(1)
    empty = 1.0 if 0.0 in fmt.values() else 2.0**-126
    by_top = torch.where(top == 0, empty, scale_of(top, fmt.max_value))
    scales = [by_top, torch.where(mean == 0, 1.0, root)]
    errors = []
    for scale in scales:
        miss = fmt.round(x * scale.reciprocal()[:, None]) * scale[:, None] - x
        errors.append(tree_sum_last(miss * miss))
    scale = torch.where(errors[1] < errors[0], scales[1], scales[0])
    return scale, scale.reciprocal()


def test_line_scales():
    tops = torch.tensor([0.0, 1e-45, 1e-38, 3.0, 62.0, 3e38, float("inf"), float("nan")])
    for levels in (31.0, 7.0, 20.0 / 0.96):
        scale, inverse = line_scales(tops, levels)
        assert same_bits(scale, scale_of(tops, levels))
        assert same_bits(inverse, scale_of(tops, levels).reciprocal())


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=60)
@given(
    fmt=st.sampled_from([W20, ODD, *map(get_format, ("int4_sym", "int4", "uint4", "fp4_e2m1"))]),
    rows=st.integers(0, 12),
    columns=st.one_of(st.integers(0, 70), st.sampled_from([512, 1023, 1025, 3000, 5200, 9000])),
    bad=BAD,
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)
def test_best_of_two(isa, fmt, rows, columns, bad, threads, seed):
    CORE.use_isa(isa)
    torch.set_num_threads(threads)
    x = matrix(rows, columns, seed, bad)
    if rows > 2 and columns:
        x[0] = 0.0
        x[1] = 1e-40
    scale, inv = best_of_two(x, fmt, 0.1362)
    expected = best_of_two_by_torch(x, fmt, 0.1362)
    assert same_bits(scale, expected[0])
    assert same_bits(inv, expected[1])


def test_best_of_two_takes_either():
    """Both candidates win somewhere, else the test above proves little."""
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    x[32:] = x[32:].sign()
    scale, _ = best_of_two(x, W20, 0.1362)
    by_top = scale == x.abs().amax(1) / 20
    assert 0 < int(by_top.sum()) < 64


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=40)
@given(
    fmt=st.sampled_from([W20, G31, ODD, get_format("uint4")]),
    rows=st.sampled_from([0, 1, 7, 31, 32, 33, 256, 600]),
    columns=st.one_of(COLUMNS, st.sampled_from([64, 2048, 2112])),
    extreme=st.booleans(),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)
def test_column_sums(isa, fmt, rows, columns, extreme, threads, seed):
    CORE.use_isa(isa)
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (rows, columns), dtype=torch.uint8, generator=generator)
    if extreme:
        codes.fill_(15 if fmt is ODD else 7)
    made = Codes.of(pack4(codes), (rows, columns), fmt, encoded=False)
    assert torch.equal(column_sums(made), fmt.integers(codes).long().sum(0))
    assert torch.equal(unpack4(made.packed, codes.numel()), codes.view(-1))


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=30)
@given(rows=st.integers(0, 40), columns=st.integers(1, 70), seed=st.integers(0, 2**31))
def test_add_outer(isa, rows, columns, seed):
    CORE.use_isa(isa)
    out, e, mu = matrix(rows, columns, seed), positive(rows, seed), positive(columns, seed + 1)
    expected = out + e[:, None] * mu
    assert add_outer_(out, e, mu) is out
    assert same_bits(out, expected)


def test_refuses_what_does_not_fit():
    x = torch.zeros(4, 6)
    with pytest.raises(NybbleError, match="6 numbers"):
        folded_statistics(x, torch.ones(5), None)
    with pytest.raises(NybbleError, match="matrix"):
        best_of_two(torch.zeros(3), W20, 0.1)
    with pytest.raises(ValueError, match="whole rows"):
        folded_pack(x, 6, Folded(G31, RandomKey(), Factors(torch.ones(3), 2)), None)
    with pytest.raises(NybbleError, match="matrix"):
        column_sums(Codes.of(torch.zeros(32, dtype=torch.uint8), (1, 2, 3), G31))
