"""Operands in blocks and their Hadamard, against the torch code that defines them: the same 32
bits, for every instruction set, layout and number of threads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bits import same_bits
from torch import Tensor

from nybble.errors import NybbleError
from nybble.formats import Nearest, Stochastic, get_format
from nybble.ops import native
from nybble.ops.geometry import Geometry
from nybble.ops.native import block_operand
from nybble.ops.native.blocks import (
    block_tops,
    grid_of,
    hadamard,
    has_levels,
    round_blocks,
    scale_blocks,
)
from nybble.ops.reference import composite_operand as reference
from nybble.ops.reference.composite_operand import Blocks, Streams
from nybble.ops.reference.operand import Draw, round_operand
from nybble.ops.reference.places import places
from nybble.quantizers import AbsMax, FourOverSix, Hadamard, Quantizer, random24
from nybble.quantizers.layout import is_channels_last
from nybble.quantizers.random import RandomKey
from nybble.quantizers.scales.blocks import block_max, tile_max
from nybble.quantizers.scales.fit import times_blocks

CORE, MISSING = native.core()
pytestmark = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")
ISAS = () if CORE is None else CORE.isas()
FORMATS = ("fp4_e2m1", "int4", "int4_sym", "uint4", "fp4_radix4", "fp4_radix2", "g31")
E2M1 = get_format("fp4_e2m1")
SHAPES = st.one_of(
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.tuples(st.integers(1, 20), st.integers(1, 33), st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from([(64, 64), (16, 4096), (70000,), (3, 128, 300), (130, 16, 9, 9)]),
)
BAD = st.sampled_from([None, None, None, float("nan"), float("inf"), 3e38])


def tensor(shape, seed: int, last: bool = False, bad: float | None = None) -> Tensor:
    """Numbers of many magnitudes, some zeros of either sign, maybe one that is not finite."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator)
    x *= torch.exp2(torch.randint(-6, 7, x.shape, generator=generator).float())
    chance = torch.rand(x.shape, generator=generator)
    x[chance < 0.1] = 0.0
    x[chance < 0.05] = -0.0
    if bad is not None:
        x.view(-1)[seed % x.numel()] = bad
    return x.contiguous(memory_format=torch.channels_last) if last and x.dim() == 4 else x


def layout_of(x: Tensor) -> torch.memory_format:
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def use(isa: str, threads: int) -> None:
    CORE.use_isa(isa)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=60)
@given(SHAPES, st.data(), st.sampled_from([1, 3, 4, 16, 32, 100]), st.booleans(), BAD)
def test_tops_are_the_maxima(isa, shape, data, block, last, bad) -> None:
    use(isa, data.draw(st.sampled_from([1, 2])))
    x = tensor(shape, block + len(shape), last, bad)
    axis = data.draw(st.integers(0, x.dim() - 1))
    assert same_bits(block_tops(x, (axis,), block), block_max(x, axis, block).abs())
    if x.dim() > 1:
        assert same_bits(block_tops(x, (0, 1), block), tile_max(x, block).abs())


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=80)
@given(
    SHAPES,
    st.data(),
    st.sampled_from([1, 3, 8, 16, 32, 100, 3000]),
    st.booleans(),
    BAD,
    st.sampled_from(FORMATS),
    st.booleans(),
)
def test_rounding_and_scaling(isa, shape, data, block, last, bad, name, drawn) -> None:
    use(isa, data.draw(st.sampled_from([1, 2])))
    fmt, x = get_format(name), tensor(shape, block, last, bad)
    axis = data.draw(st.integers(0, x.dim() - 1))
    scale = AbsMax("block", axis=axis, block=block)
    fit = scale.fit(x, fmt)
    rounding = Stochastic() if drawn else fmt.default_rounding
    key = RandomKey(seed=3, layer=1, call=7, operand=2)
    random = random24(x.shape, key) if drawn else None
    y = fit.scaled(x)
    slot = Quantizer(fmt, scale, rounding)
    wanted = round_operand(y.clone(), fmt, slot, random, fit).tensor
    found = round_blocks(x, fit.inv, block, fmt, rounding, key)
    assert found.is_contiguous(memory_format=layout_of(x))
    keep = ~y.isnan()  # codes of NaN are not specified; the scale makes NaN of their values
    assert same_bits(found.where(keep, 0.0), wanted.where(keep, 0.0))
    multiplier = fit.scale * fmt.require_unit()
    values = scale_blocks(found, multiplier, block)
    assert same_bits(values, times_blocks(wanted, multiplier, block))


def test_random_bits_of_a_part_of_a_sequence() -> None:
    x, key = tensor((6, 20), 1), RandomKey(seed=5)
    inv = torch.ones(6, 2)
    whole = round_blocks(x, inv, 16, E2M1, Stochastic(), key)
    part = round_blocks(x[2:5].contiguous(), inv[2:5], 16, E2M1, Stochastic(), key, first=40)
    assert torch.equal(whole[2:5], part)


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=80)
@given(
    SHAPES,
    st.data(),
    st.sampled_from([1, 2, 8, 16, 32, 128]),
    st.sampled_from(["none", "fixed", "random"]),
    st.sampled_from(["consecutive", "strided"]),
    st.booleans(),
    st.booleans(),
)
def test_hadamard(isa, shape, data, block, kind, order, last, back) -> None:
    use(isa, data.draw(st.sampled_from([1, 2])))
    x = tensor(shape, block, last)
    axis = data.draw(st.integers(0, x.dim() - 1))
    groups = data.draw(st.sampled_from([g for g in (1, 2, 3) if x.shape[axis] % g == 0]))
    turn = Hadamard(block, kind, order)

    def bits(stream, shape):
        return random24(shape, RandomKey(seed=9, operand=stream))

    wanted = (turn.inverse if back else turn.apply)(x, axis, bits, groups)
    signs = turn.sign_vector(x.shape[axis] // groups, bits, x.device)
    strided = order == "strided"
    found = hadamard(x, axis, block, signs, groups, back=back, strided=strided)
    assert found.is_contiguous(memory_format=layout_of(x)) and same_bits(found, wanted)
    assert found.stride() == wanted.stride() or 1 in x.shape


SCALES = (
    AbsMax.nv(),
    AbsMax.nv(headroom=17 / 16),
    AbsMax.nv(outer=64),
    AbsMax.mx(),
    AbsMax.mx(exponent="ceil", headroom=4 / 3),
    AbsMax("tile", block=16, scale_format="fp8_e4m3"),
    AbsMax("block", block=16),
    AbsMax("block", block=16, power_of_two=True),
    FourOverSix(),
    FourOverSix(error="mae"),
    FourOverSix(error="absmax"),
    FourOverSix(granularity="tile"),
    FourOverSix(error="mae", granularity="tile"),
)


@settings(deadline=None, max_examples=120)
@given(
    st.sampled_from(SCALES),
    st.sampled_from(["linear", "conv2d"]),
    st.sampled_from(["output", "grad_input", "grad_weight"]),
    st.integers(0, 1),
    st.sampled_from([None, Hadamard(16, "fixed"), Hadamard(32), Hadamard(8, "random", "strided")]),
    st.booleans(),
    st.booleans(),
    BAD,
    st.integers(0, 99),
)
def test_operands_are_the_references(
    scale, kind, gemm, side, transform, drawn, last, bad, seed
) -> None:
    shape = (2 + seed % 40, 3 + seed % 37)
    if kind == "conv2d":
        shape = (*shape, *((3, 2), (1, 1))[seed % 5 == 0])
    name = "int4_sym" if getattr(scale, "scale_format", "") is None else "fp4_e2m1"
    rounding = Stochastic() if drawn else Nearest()
    slot = Quantizer(get_format(name), scale, rounding, transform)
    place = places(Geometry(kind), gemm)[side]
    last = last and len(shape) == 4
    x = tensor(shape, seed, last, bad)
    streams = Streams(Draw(3, 1, 4), 2, sample=seed % 3)
    wanted, fit = reference.quantize(x, slot, place, streams)
    found, mine = block_operand.quantize(x, slot, place, streams)
    assert (fit is None) == (mine is None) and isinstance(found, Blocks) == isinstance(
        wanted, Blocks
    )
    assert same_bits(reference.values(found), reference.values(wanted))
    assert found.limit == wanted.limit
    # Strides too, also those of one element: torch's convolutions choose by them.
    assert found.facing(0, 0, x.dim())[0].stride() == wanted.facing(0, 0, x.dim())[0].stride()
    if isinstance(found, Blocks):
        assert same_bits(found.facing(0, 0, x.dim())[0], wanted.facing(0, 0, x.dim())[0])
    if bad is None:
        for a, b in zip(
            reference.store(found, slot, mine, last), reference.store(wanted, slot, fit, last),
            strict=True,
        ):  # fmt: skip
            assert a.shape == b.shape and torch.equal(a, b)


def test_rows_of_a_time_loop_take_their_own_bits() -> None:
    slot = Quantizer(E2M1, AbsMax.nv(), Stochastic())
    place = places(Geometry("linear"), "grad_input")[0]
    streams = Streams(Draw(1, 2, 3), 2, total=12).step(4, 5)
    x = tensor((5, 40), 0)
    wanted, _ = reference.quantize(x, slot, place, streams)
    found, _ = block_operand.quantize(x, slot, place, streams)
    assert same_bits(found.tensor, wanted.tensor)


def test_what_the_kernels_do_not_have_goes_to_the_reference() -> None:
    assert not any(has_levels(get_format(name)) for name in ("fp8_e4m3", "int8"))
    place = places(Geometry("linear"), "output")[0]
    x = tensor((8, 40), 0)
    for slot, given_x in (
        (None, x),
        (Quantizer(get_format("fp8_e4m3"), AbsMax.mx()), x),
        (Quantizer(E2M1, AbsMax.nv()), x.t()),
        (Quantizer(E2M1, AbsMax.nv()), x.double()),
        (Quantizer(E2M1, AbsMax.nv()), x[:0]),
    ):
        wanted, _ = reference.quantize(given_x, slot, place, Streams(Draw(0, 0, 0), 0))
        found, _ = block_operand.quantize(given_x, slot, place, Streams(Draw(0, 0, 0), 0))
        assert same_bits(reference.values(found).float(), reference.values(wanted).float())


def test_mistakes_of_a_caller() -> None:
    x = torch.ones(4, 32)
    with pytest.raises(NybbleError, match="for"):
        round_blocks(x, torch.ones(4, 3), 16, E2M1, Nearest())
    with pytest.raises(NybbleError, match="needs a key"):
        round_blocks(x, torch.ones(4, 2), 16, E2M1, Stochastic())
    with pytest.raises(NybbleError, match="32 signs are needed"):
        hadamard(x, 1, 16, torch.ones(16), 1, back=False)
    with pytest.raises(NybbleError, match="gaps"):
        scale_blocks(x.t(), torch.ones(32, 1), 16)
    assert grid_of((1, 1), (1, 1), 16) == [(1, 1)]
