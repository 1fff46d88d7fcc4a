"""Winograd equals the direct sums: every bit, every instruction set, every thread count."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nybble.errors import NybbleError
from nybble.formats import get_format
from nybble.ops import native
from nybble.ops.exactness import finish_
from nybble.ops.geometry import Geometry
from nybble.ops.native import winograd
from nybble.ops.native.codes import Codes
from nybble.ops.reference import gemm as reference
from nybble.quantizers.packing import pack4, unpack4

CORE, MISSING = native.core()
pytestmark = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")
ISAS = CORE.isas() if CORE is not None else ()

IMAGES = [("uint4", 0), ("int4_sym", 0), ("int4", 0), ("uint4", 6), ("fp4_e2m1", 0)]
WEIGHTS = [("int4_sym", 0), ("int4", 0), ("fp4_e2m1", 0)]
GRADIENTS = [("fp4_radix4", 0), ("fp4_radix4_odd", 0), ("int4", 0), ("fp4_radix2", 0)]


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    if CORE is not None:
        CORE.use_isa(ISAS[0])


def allowed(codes: Codes) -> Tensor:
    """The codes whose integers lie within the promised bounds."""
    inside = (codes.table >= codes.low) & (codes.table <= codes.high)
    return torch.arange(16, dtype=torch.uint8)[inside]


def codes(shape: tuple[int, ...], name: str, zero: int, seed: int) -> Codes:
    blank = Codes.of(torch.empty(0, dtype=torch.uint8), shape, get_format(name), zero)
    choice = allowed(blank)
    picked = choice[
        torch.randint(len(choice), shape, generator=torch.Generator().manual_seed(seed))
    ]
    return Codes.of(pack4(picked), shape, get_format(name), zero)


def filled(like: Codes, integer: int) -> Codes:
    """The same operand with one integer everywhere."""
    code = int((like.table == integer).nonzero()[0])
    packed = torch.full(((prod(like.shape) + 63) // 64 * 32,), code * 17, dtype=torch.uint8)
    return Codes(packed, like.shape, like.table, like.low, like.high)


def integers(c: Codes) -> Tensor:
    """[N, C, H, W], or [O, C, 3, 3]."""
    values = c.table.double()[unpack4(c.packed, prod(c.shape)).long()].view(c.shape)
    return values.permute(0, 3, 1, 2)


def geometry_of(padding: tuple[int, int]) -> Geometry:
    return Geometry("conv2d", (1, 1), padding, (1, 1))


def nhwc(acc: Tensor) -> Tensor:
    return acc.permute(0, 2, 3, 1).contiguous()


def want_output(x: Codes, w: Codes, padding, sx, sw, bias) -> Tensor:
    acc = reference.output(
        integers(x),
        integers(w),
        geometry_of(padding),
        max_x=x.limit,
        max_weight=w.limit,
        accumulate="exact",
    )
    rows = None if sx is None else sx.view(-1, 1, 1, 1)
    return finish_(nhwc(acc), rows, sw, bias)


def want_grad_input(g: Codes, w: Codes, padding, x_shape, sg, sw) -> Tensor:
    n, h, width, c = x_shape
    acc = reference.grad_input(
        integers(g),
        integers(w),
        geometry_of(padding),
        (n, c, h, width),
        max_grad=g.limit,
        max_weight=w.limit,
        accumulate="exact",
    )
    return finish_(nhwc(acc), sg, sw)


def want_grad_weight(g: Codes, x: Codes, padding, sg, sx) -> Tensor:
    acc = reference.grad_weight(
        integers(g),
        integers(x),
        geometry_of(padding),
        (g.shape[3], x.shape[3], 3, 3),
        max_grad=g.limit,
        max_x=x.limit,
        accumulate="exact",
    )
    rows = None if sg is None else sg.view(-1, 1, 1, 1)
    return finish_(nhwc(acc), rows, sx)


def same(got: Tensor, want: Tensor) -> None:
    assert got.shape == want.shape
    assert got.is_contiguous()
    assert torch.equal(got.view(torch.int32), want.view(torch.int32))


def scales(count: int, seed: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) * 0.1 + 1e-3


@st.composite
def cases(draw: st.DrawFn) -> dict:
    ph, pw = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    channels = st.one_of(st.integers(1, 40), st.sampled_from([16, 32, 64, 96]))
    return {
        "n": draw(st.integers(1, 4)),
        "h": draw(st.integers(max(1, 3 - 2 * ph), 13)),
        "w": draw(st.integers(max(1, 3 - 2 * pw), 40)),
        "c": draw(channels),
        "o": draw(channels),
        "padding": (ph, pw),
        "isa": draw(st.sampled_from(ISAS)),
        "threads": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 2**20)),
    }


def shapes(case: dict) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    n, h, w, c, o = (case[k] for k in "nhwco")
    ph, pw = case["padding"]
    return (n, h, w, c), (o, 3, 3, c), (n, h + 2 * ph - 2, w + 2 * pw - 2, o)


def prepare(case: dict) -> None:
    CORE.use_isa(case["isa"])
    torch.set_num_threads(case["threads"])


@given(cases(), st.sampled_from(IMAGES), st.sampled_from(WEIGHTS), st.booleans(), st.booleans())
@settings(max_examples=80)
def test_output(case: dict, image, weight, many: bool, with_bias: bool) -> None:
    x_shape, w_shape, _ = shapes(case)
    x, w = codes(x_shape, *image, case["seed"]), codes(w_shape, *weight, case["seed"] + 1)
    sx, sw = scales(x_shape[0] if many else 1, 2), scales(case["o"] if many else 1, 3)
    bias = scales(case["o"], 4) - 0.05 if with_bias else None
    prepare(case)
    got = winograd.output(x, w, case["padding"], sx, sw, bias)
    same(got, want_output(x, w, case["padding"], sx, sw, bias))


@given(cases(), st.sampled_from(GRADIENTS), st.sampled_from(WEIGHTS), st.booleans())
@settings(max_examples=80)
def test_grad_input(case: dict, gradient, weight, many: bool) -> None:
    x_shape, w_shape, g_shape = shapes(case)
    g, w = codes(g_shape, *gradient, case["seed"]), codes(w_shape, *weight, case["seed"] + 1)
    sg, sw = scales(1, 2), scales(case["c"] if many else 1, 3)
    prepare(case)
    got = winograd.grad_input(g, w, case["padding"], x_shape, sg, sw)
    same(got, want_grad_input(g, w, case["padding"], x_shape, sg, sw))


@given(
    cases(),
    st.sampled_from(GRADIENTS),
    st.sampled_from(IMAGES),
    st.booleans(),
    st.sampled_from([2, 3, 7, 40, 2**31 - 1]),
)
@settings(max_examples=80)
def test_grad_weight(case: dict, gradient, image, many: bool, spill: int) -> None:
    x_shape, _, g_shape = shapes(case)
    g, x = codes(g_shape, *gradient, case["seed"]), codes(x_shape, *image, case["seed"] + 1)
    sg, sx = scales(case["o"] if many else 1, 2), scales(case["c"] if many else 1, 3)
    prepare(case)
    got = winograd.grad_weight(g, x, case["padding"], sg, sx, spill=spill)
    same(got, want_grad_weight(g, x, case["padding"], sg, sx))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
def test_extremes_of_one_sign(isa: str, signs: tuple[int, int]) -> None:
    c, o = (512, 24) if isa != "generic" else (96, 16)
    CORE.use_isa(isa)
    torch.set_num_threads(1)

    def extreme(like: Codes, sign: int) -> Codes:
        return filled(like, like.high if sign > 0 or like.low == 0 else like.low)

    for weight in WEIGHTS:
        w = extreme(codes((o, 3, 3, c), *weight, 0), signs[1])
        for image in IMAGES:
            x = extreme(codes((1, 4, 6, c), *image, 0), signs[0])
            got = winograd.output(x, w, (1, 1), None, None)
            same(got, want_output(x, w, (1, 1), None, None, None))
        w = extreme(codes((c, 3, 3, o), *weight, 0), signs[1])
        for gradient in GRADIENTS:
            g = extreme(codes((1, 4, 6, c), *gradient, 0), signs[0])
            got = winograd.grad_input(g, w, (1, 1), (1, 4, 6, o), None, None)
            same(got, want_grad_input(g, w, (1, 1), (1, 4, 6, o), None, None))


@pytest.mark.parametrize("isa", ISAS)
def test_the_largest_contraction_that_is_accepted(isa: str) -> None:
    # 36 * C * 4096 * 8 <= 2^31 - 1
    c = (2**31 - 1) // (36 * 4096 * 8)
    CORE.use_isa(isa)
    g = filled(codes((1, 3, 3, c), "fp4_radix4", 0, 0), 4096)
    w = filled(codes((c, 3, 3, 2), "int4", 0, 0), -8)
    table = w.table
    w = Codes(w.packed, w.shape, table, -8, 7)
    got = winograd.grad_input(g, w, (1, 1), (1, 3, 3, 2), None, None)
    same(got, want_grad_input(g, w, (1, 1), (1, 3, 3, 2), None, None))
    more = codes((1, 3, 3, c + 1), "fp4_radix4", 0, 0)
    kernels = codes((c + 1, 3, 3, 2), "int4", 0, 0)
    kernels = Codes(kernels.packed, kernels.shape, table, -8, 7)
    with pytest.raises(ValueError, match="do not fit"):
        winograd.grad_input(more, kernels, (1, 1), (1, 3, 3, 2), None, None)
    geometry = geometry_of((1, 1))
    assert not winograd.supports("grad_input", more, kernels, geometry, (1, 3, 3, 2))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sign", [1, -1])
def test_weight_gradients_beyond_32_bits(isa: str, sign: int) -> None:
    # 15 * 4096 * pixels: 4 dw leaves int32 after 8738 pixels, dw after 34952.
    CORE.use_isa(isa)
    size = 64 if isa != "generic" else 48
    g = filled(codes((16, size, size, 3), "fp4_radix4", 0, 0), sign * 4096)
    x = filled(codes((16, size, size, 2), "uint4", 0, 0), 15)
    got = winograd.grad_weight(g, x, (1, 1), None, None)
    assert got.abs().max() > 2**31
    same(got, want_grad_weight(g, x, (1, 1), None, None))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("width", "outputs"), [(64, 32), (63, 40)])
def test_results_too_large_for_the_caches(isa: str, width: int, outputs: int) -> None:
    """From 4 MiB on, results are written past the caches."""
    CORE.use_isa(isa)
    torch.set_num_threads(2)
    x = codes((8, 65, width, 12), "uint4", 0, 5)
    w = codes((outputs, 3, 3, 12), "int4_sym", 0, 6)
    scale, bias = scales(outputs, 7), scales(outputs, 8)
    for added in (None, bias):
        got = winograd.output(x, w, (1, 1), scales(1, 9), scale, added)
        assert got.numel() * 4 >= 4 << 20
        same(got, want_output(x, w, (1, 1), scales(1, 9), scale, added))


def test_scales_make_no_negative_zero() -> None:
    x = filled(codes((1, 4, 4, 16), "uint4", 0, 0), 0)
    w = codes((16, 3, 3, 16), "int4_sym", 0, 1)
    got = winograd.output(x, w, (1, 1), torch.tensor([2.0]), torch.tensor([0.5]))
    assert torch.equal(got.view(torch.int32), torch.zeros_like(got, dtype=torch.int32))


def test_an_empty_batch() -> None:
    x, w = codes((0, 4, 4, 16), "uint4", 0, 0), codes((16, 3, 3, 16), "int4_sym", 0, 1)
    g = codes((0, 4, 4, 16), "fp4_radix4", 0, 0)
    assert winograd.output(x, w, (1, 1), None, None).shape == (0, 4, 4, 16)
    assert winograd.grad_input(g, w, (1, 1), (0, 4, 4, 16), None, None).shape == (0, 4, 4, 16)
    assert not winograd.grad_weight(g, x, (1, 1), None, None).any()


def test_what_is_supported() -> None:
    x, w = codes((2, 8, 8, 32), "uint4", 0, 0), codes((16, 3, 3, 32), "int4_sym", 0, 0)
    g = codes((2, 8, 8, 16), "fp4_radix4", 0, 0)
    plain = geometry_of((1, 1))
    assert winograd.supports("output", x, w, plain, x.shape)
    assert winograd.supports("grad_input", g, w, plain, x.shape)
    assert winograd.supports("grad_weight", g, x, plain, x.shape)
    for geometry in (
        Geometry("linear"),
        Geometry("conv2d", (2, 2), (1, 1), (1, 1)),
        Geometry("conv2d", (1, 1), (1, 1), (2, 2)),
        Geometry("conv2d", (1, 1), (1, 1), (1, 1), 2),
    ):
        assert not winograd.supports("output", x, w, geometry, x.shape)
    assert not winograd.supports("grad_input", g, w, geometry_of((3, 3)), x.shape)
    few = codes((2, 8, 8, 3), "uint4", 0, 0)
    assert not winograd.supports(
        "output", few, codes((16, 3, 3, 3), "int4", 0, 0), plain, few.shape
    )


def test_wrong_shapes_are_one_clear_line() -> None:
    x, w = codes((1, 4, 4, 16), "uint4", 0, 0), codes((16, 3, 3, 8), "int4_sym", 0, 1)
    with pytest.raises(NybbleError, match="do not belong"):
        winograd.output(x, w, (1, 1), None, None)
    with pytest.raises(NybbleError, match="do not belong"):
        winograd.grad_weight(x, x, (0, 0), None, None)
    short = Codes(x.packed[:32], x.shape, x.table, x.low, x.high)
    fine = codes((16, 3, 3, 16), "int4_sym", 0, 1)
    with pytest.raises(ValueError, match="bytes are needed"):
        winograd.output(short, fine, (1, 1), None, None)
