"""Every kind of Gemm: reference against torch, native against reference-exact, in every bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.native.test_layer import (
    CASES,
    compare,
    run,
    same_bits,
    spec_of,
    with_threads_and_isa,
)
from torch import Tensor

import nybble
from nybble.errors import NybbleError
from nybble.formats import get_format
from nybble.ops import native
from nybble.ops.calls import BackwardCall, ForwardCall
from nybble.ops.geometry import KINDS, Geometry
from nybble.ops.native import shaped
from nybble.ops.native.layer import layer_backward, layer_forward
from nybble.ops.native.plan import GEMMS, why_not
from nybble.ops.reference import gemm as reference
from nybble.ops.reference.operand import Draw
from nybble.ops.reference.storage import is_channels_last
from nybble.ops.spec import Accumulator, LayerSpec
from nybble.quantizers import AbsMax, Quantizer
from nybble.quantizers.packing import pack_codes
from nybble.recipes import get_recipe

CORE, MISSING = native.core()
needs_core = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")

KIND = ["conv3d", "conv_transpose2d", "conv_transpose3d"]


@st.composite
def shapes(draw: st.DrawFn, kind: str) -> tuple[Geometry, tuple[int, ...], tuple[int, ...]]:
    """A geometry with shapes of input and weight that fit it."""
    if kind == "bmm":
        b, m, n, k = (draw(st.integers(1, top)) for top in (5, 20, 20, 70))
        if draw(st.booleans()):  # whole blocks of codes
            m, n, k = 8, 16, draw(st.sampled_from([8, 24]))
        return Geometry("bmm"), (b, m, k), (b, n, k)
    dims = int(kind[-2])
    groups = draw(st.sampled_from([1, 1, 2]))
    inputs, outputs = (groups * draw(st.integers(1, 5)) for _ in range(2))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    padding = tuple(draw(st.integers(0, 1)) for _ in range(dims))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(dims))
    more = [draw(st.integers(0, 4)) for _ in range(dims)]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    batch = draw(st.integers(1, 3))
    if kind.startswith("conv_transpose"):
        extra = tuple(draw(st.integers(0, s - 1)) for s in stride)
        # Two of padding may not take all of a single element's output.
        size = tuple(1 + 2 * p + m for p, m in zip(padding, more, strict=True))
        geometry = Geometry(kind, stride, padding, dilation, groups, extra)
        return geometry, (batch, inputs, *size), (inputs, outputs // groups, *kernel)
    size = tuple(max(r - 2 * p, 1) + m for r, p, m in zip(reach, padding, more, strict=True))
    geometry = Geometry(kind, stride, padding, dilation, groups)
    return geometry, (batch, inputs, *size), (outputs, inputs // groups, *kernel)


def torchs(geometry: Geometry, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The operator of torch that the geometry names."""
    if geometry.kind == "bmm":
        return x @ weight.transpose(1, 2)
    arguments = (geometry.stride, geometry.padding)
    if geometry.kind.startswith("conv_transpose"):
        f = getattr(F, geometry.kind)
        more = (geometry.output_padding, geometry.groups, geometry.dilation)
        return f(x, weight, bias, *arguments, *more)
    return getattr(F, geometry.kind)(
        x, weight, bias, *arguments, geometry.dilation, geometry.groups
    )


@pytest.mark.parametrize("kind", [*KIND, "bmm"])
@settings(max_examples=10)
@given(data=st.data(), seed=st.integers(0, 99))
def test_float32_slots_are_torchs_operator(kind: str, data: st.DataObject, seed: int) -> None:
    geometry, x_shape, w_shape = data.draw(shapes(kind))
    torch.manual_seed(seed)
    x, weight = torch.randn(x_shape, requires_grad=True), torch.randn(w_shape, requires_grad=True)
    out = geometry.output_shape(x_shape, w_shape)
    bias = None if kind == "bmm" else torch.randn(out[1])
    y = torchs(geometry, x, weight, bias)
    assert tuple(y.shape) == out
    grad = torch.randn(out)
    dx, dw = torch.autograd.grad(y, (x, weight), grad)
    results = run(
        "reference",
        LayerSpec(),
        geometry,
        x.detach(),
        weight.detach(),
        bias,
        None,
        grad,
        torch.zeros(1),
    )
    for ours, theirs in zip((results[0], *results[9:11]), (y, dx, dw), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_scale_may_follow_the_dimensions_that_leave_the_sum(kind: str, groups: int) -> None:
    """`Geometry.follow`: operands scaled along them give the result scaled along its own."""
    torch.manual_seed(0)
    dims = int(kind[-2]) if kind.startswith("conv") else 0
    if dims:
        ones = (1,) * dims
        geometry = Geometry(kind, ones, ones, ones, groups)
        x, weight = torch.randn(2, 4, *(3,) * dims), torch.randn(4, 4 // groups, *(3,) * dims)
    else:
        geometry = Geometry(kind)
        lead = (2,) if kind == "bmm" else ()
        x, weight = torch.randn(*lead, 3, 4), torch.randn(*lead, 5, 4)
    grad = torch.randn(geometry.output_shape(tuple(x.shape), tuple(weight.shape)))
    products = {
        "output": (x, weight, lambda a, b: reference.output(a, b, geometry)),
        "grad_input": (
            grad,
            weight,
            lambda a, b: reference.grad_input(a, b, geometry, tuple(x.shape)),
        ),
        "grad_weight": (
            grad,
            x,
            lambda a, b: reference.grad_weight(a, b, geometry, tuple(weight.shape)),
        ),
    }
    followed = 0
    for gemm, (a, b, product) in products.items():
        plain = product(a, b)
        for i, (free, to) in enumerate(geometry.follow(gemm)):
            if free < 0:
                continue
            followed += 1
            operand = (a, b)[i]
            scale = torch.rand(operand.shape[free]) + 0.5
            scaled = operand * _along(scale, free, operand.dim())
            got = product(scaled, b) if i == 0 else product(a, scaled)
            wanted = plain * _along(scale, to, plain.dim())
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert followed == (6 if groups == 1 or not dims else 4)


def _along(scale: Tensor, dim: int, rank: int) -> Tensor:
    shape = [1] * rank
    shape[dim] = -1
    return scale.view(shape)


@needs_core
@pytest.mark.parametrize("kind", [*KIND, "bmm"])
@settings(max_examples=20)
@given(
    data=st.data(),
    which=st.sampled_from(CASES),
    last=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    state=st.sampled_from([0.0, 2.0**-10, 2.0**20]),
    isa=st.integers(0, 3),
    seed=st.integers(0, 2**20),
)
def test_native_is_the_reference(kind: str, data, which, last, state, isa, seed) -> None:
    geometry, x_shape, w_shape = data.draw(shapes(kind))
    torch.manual_seed(seed)
    spec = spec_of(*which)
    x = torch.randn(x_shape) if which[1] else torch.rand(x_shape) * 2
    weight = torch.randn(w_shape)
    out = geometry.output_shape(x_shape, w_shape)
    grad = torch.randn(out) * 10.0 ** -(seed % 9)
    bias = None if kind == "bmm" or seed % 2 else torch.randn(out[1])
    tensors = [
        t.contiguous(memory_format=torch.channels_last) if yes and t.dim() == 4 else t
        for t, yes in zip((x, weight, grad), last, strict=True)
    ]
    with with_threads_and_isa(1 + seed % 3, isa):
        compare(spec, geometry, *tensors, bias=bias, state=state)


@needs_core
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "linear"])
@pytest.mark.parametrize("last", [True, False])
def test_the_input_gradient_in_the_memory_of_the_outputs(kind: str, last: bool) -> None:
    """Where nobody else holds it, and it is as large: the same bits, and no memory of its own."""
    torch.manual_seed(0)
    dims = 0 if kind == "bmm" else int(kind[-2])
    ones = (1,) * dims
    geometry = Geometry(kind, ones, ones, ones)
    x, weight = torch.rand(2, 6, *(5,) * max(dims, 1)), torch.randn(6, 6, *(3,) * dims)
    if kind == "bmm":
        weight = torch.randn(2, 5, 5)
    if last and dims == 2:
        x, weight = (t.to(memory_format=torch.channels_last) for t in (x, weight))
    spec, draw, alpha = spec_of("", False), Draw(3, 1, 2), torch.tensor([1.5])
    forward = ForwardCall(None, alpha, spec, geometry, "exact", draw, True)
    _, saved = layer_forward(x, weight, forward)
    shape = geometry.output_shape(tuple(x.shape), tuple(weight.shape))
    grad = torch.empty_like(x).copy_(torch.randn(shape))  # as large as the input
    found = []
    for overwrite in (False, True):
        given = grad.clone()
        call = BackwardCall(
            None,
            None,
            saved,
            torch.ones(1),
            tuple(x.shape),
            tuple(weight.shape),
            spec,
            geometry,
            "exact",
            draw,
            (is_channels_last(x), is_channels_last(weight)),
            [True, True, True],
        )
        results = layer_backward(given, call, overwrite)
        found.append(results)
        assert (results[0].data_ptr() == given.data_ptr()) == (
            overwrite and not (kind == "conv_transpose2d" and last)  # the kernel's own result
        )
        assert overwrite or torch.equal(given, grad)
    assert all(same_bits(a, b) for a, b in zip(*found, strict=True))


@needs_core
@pytest.mark.parametrize("kind", [*KIND, "bmm"])
@pytest.mark.parametrize("recipe", ["hfp8", "sun2020-strict"])
def test_wider_slots_are_the_same_in_both_backends(kind: str, recipe: str) -> None:
    torch.manual_seed(0)
    dims = 0 if kind == "bmm" else int(kind[-2])
    ones = (1,) * dims
    geometry = Geometry(kind, ones, ones, ones) if dims else Geometry("bmm")
    x, weight = torch.rand(2, 6, *(5,) * max(dims, 1)), torch.randn(2, 6, *(3,) * dims)
    if kind == "bmm":
        weight = torch.randn(2, 4, 5)
    elif kind == "conv3d":
        weight = torch.randn(4, 6, *(3,) * dims)
    else:
        weight = torch.randn(6, 4, *(3,) * dims)
    grad = torch.randn(geometry.output_shape(tuple(x.shape), tuple(weight.shape)))
    compare(get_recipe(recipe).spec, geometry, x, weight, grad)


@needs_core
@pytest.mark.parametrize("kind", KINDS)
def test_every_gemm_of_the_default_recipe_is_native(kind: str) -> None:
    spec = spec_of("", False)
    geometry = Geometry(kind)
    assert [why_not(spec, geometry, gemm) for gemm in GEMMS] == [None] * 3
    channel = spec_of("sawb_channel=yes", False)
    reasons = {gemm: why_not(channel, geometry, gemm) for gemm in GEMMS}
    # A scale for each index of dimension 0 leaves a sum over something else only.
    assert (reasons["output"] is None) == (kind in ("linear", "conv2d", "conv3d"))
    assert reasons["grad_weight"] is None
    assert all(r is None or not r.by_recipe for r in reasons.values())


@needs_core
def test_a_weight_that_asks_for_more_than_int32_spills() -> None:
    """The batch's sums are made in int64 where the limit is low: the same bits."""
    fmt = get_format("int4_sym")
    slot = Quantizer(fmt, AbsMax())
    torch.manual_seed(0)
    ints = [torch.randint(-7, 8, (3, 8, 24)), torch.randint(-7, 8, (3, 16, 24))]
    stored = [
        shaped.Stored(
            pack_codes(fmt.integers_to_codes(t.float()), 4),
            slot,
            torch.empty(0),
            tuple(t.shape),
            False,
            None,
        )
        for t in ints
    ]
    expected = (ints[0] @ ints[1].transpose(1, 2)).float()
    for limit in (2**31 - 1, 1000):
        assert torch.equal(shaped.batched_gemm(*stored, trans_b=True, limit=limit), expected)
    with pytest.raises(NybbleError, match="do not fit"):
        shaped.batched_gemm(*stored)


@needs_core
def test_the_module_refuses_matrices_that_start_inside_a_byte() -> None:
    """gemm_batch: 4-bit matrices of a batch are whole blocks of codes."""
    codes = torch.zeros(64, dtype=torch.uint8)
    table = torch.zeros(16, dtype=torch.int16)
    operand = ((codes.data_ptr(), 64), (table.data_ptr(), 32), 4, -7, 7, False)
    out = torch.empty(2, 3, 3)
    with pytest.raises(ValueError, match="whole blocks"):
        CORE.gemm_batch(
            2, 3, 3, 5, operand, operand, (0, 0), (0, 0), (out.data_ptr(), 72), 1, 2**31 - 1
        )


@pytest.mark.parametrize("kind", KIND)
def test_chunked_sums_are_near_and_rounded(kind: str) -> None:
    """A long chunk in FP16 is the exact sum rounded; chunks of 4 stay near it."""
    torch.manual_seed(0)
    dims = int(kind[-2])
    geometry = Geometry(kind, (2,) * dims, (1,) * dims, (1,) * dims, 2)
    x = torch.rand(2, 4, *(5,) * dims)
    weight = torch.randn(4, 2, *(3,) * dims)
    grad = torch.randn(geometry.output_shape(tuple(x.shape), tuple(weight.shape)))
    fmt = get_format("fp16")
    plain = run("reference", LayerSpec(), geometry, x, weight, None, None, grad, torch.zeros(1))
    for chunk, tolerance in ((4096, 2e-3), (4, 1e-2)):
        spec = replace(LayerSpec(), accumulator=Accumulator("fp16", chunk))
        found = run("reference", spec, geometry, x, weight, None, None, grad, torch.zeros(1))
        for i in (0, 9, 10):
            torch.testing.assert_close(found[i], plain[i], rtol=tolerance, atol=tolerance)
            assert torch.equal(found[i], fmt.round(found[i]))


@needs_core
@pytest.mark.parametrize("last", [True, False])
def test_one_line_of_pixels_is_a_1d_convolution(last: bool) -> None:
    """Conv1d's view of its operands: height 1 in either memory format keeps the same codes."""
    torch.manual_seed(0)
    x = torch.randn(3, 9, 6) if last else torch.randn(3, 6, 9)
    x = (x.transpose(1, 2) if last else x).unsqueeze(2)
    weight, geometry = torch.randn(5, 6, 1, 3), Geometry("conv2d", (1, 2), (0, 1), (1, 1))
    grad = torch.randn(geometry.output_shape(tuple(x.shape), tuple(weight.shape)))
    compare(spec_of("", True), geometry, x, weight, grad)
    twin = [
        run(
            "native",
            spec_of("", True),
            geometry,
            t,
            weight,
            None,
            torch.tensor([1.5]),
            grad,
            torch.zeros(1),
        )
        for t in (x, x.contiguous())
    ]
    assert same_bits(twin[0][0], twin[1][0])


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(nybble.UserError, match="unknown kind"):
        Geometry("conv4d")  # type: ignore[arg-type]
    with pytest.raises(nybble.UserError, match="below the stride"):
        Geometry("conv_transpose2d", (1, 2), (0, 0), (3, 3), 1, (1, 1))
