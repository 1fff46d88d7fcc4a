"""The torch.library operators: opcheck, fake kernels, and the Gemm alone."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import nybble
from nybble.nn.function import LayerCall
from nybble.nn.inputs import signed_input
from nybble.ops.geometry import Geometry
from nybble.quantizers import AbsMax, MinMax, Quantizer
from nybble.recipes import get_recipe

CONV = Geometry("conv2d", (2, 1), (1, 1), (1, 1), 2)


def forward_args(recipe: str, geometry: Geometry, save: bool = True):
    spec = get_recipe(recipe).spec
    call = LayerCall(spec, geometry, "fast", "reference", 3, 1, 2)
    torch.manual_seed(0)
    if geometry.kind == "linear":
        x, w = torch.rand(5, 6), torch.randn(4, 6)
    else:
        x, w = torch.rand(2, 4, 6, 6), torch.randn(6, 2, 3, 3)
    return (x, w, torch.randn(w.shape[0]), torch.tensor([0.7]), *call.arguments(), save), call


def backward_args(recipe: str, geometry: Geometry):
    args, call = forward_args(recipe, geometry)
    y, saved = torch.ops.nybble.layer_forward(*args)
    x, w = args[0], args[1]
    return (
        torch.randn_like(y),
        x,
        w,
        saved,
        torch.zeros(1),
        list(x.shape),
        list(w.shape),
        *call.arguments(),
        [False, False],
        [True, True, True],
    )


@pytest.mark.parametrize("geometry", [Geometry("linear"), CONV], ids=["linear", "conv2d"])
@pytest.mark.parametrize(
    "recipe",
    [
        "sun2020",
        "sun2020:factor=stochastic",
        "sun2020:sawb=ibm16",
        "sun2020:sawb_channel=yes",
        "sun2020:ste=clip+phases=even-even",
        "sun2020:accumulator=chunked",
        "sun2020-strict",
        "hfp8",
        "fp16",
    ],
)
def test_opcheck(recipe, geometry):
    args, _ = forward_args(recipe, geometry)
    torch.library.opcheck(torch.ops.nybble.layer_forward.default, args)
    torch.library.opcheck(torch.ops.nybble.layer_backward.default, backward_args(recipe, geometry))


@pytest.mark.parametrize("signed", ["symmetric", "two_sided", "sawb"])
def test_opcheck_of_signed_inputs(signed):
    spec = signed_input(get_recipe(f"sun2020:signed={signed}").spec)
    x, w = torch.randn(5, 6), torch.randn(4, 6)
    alpha = {"symmetric": torch.tensor([0.7]), "two_sided": torch.tensor([0.7, 0.4])}.get(signed)
    call = LayerCall(spec, Geometry("linear"), "fast", "reference", 3, 1, 2)
    args = (x, w, None, alpha, *call.arguments(), True)
    torch.library.opcheck(torch.ops.nybble.layer_forward.default, args)
    y, saved = torch.ops.nybble.layer_forward(*args)
    back = (torch.randn_like(y), x, w, saved, torch.zeros(1), [5, 6], [4, 6], *call.arguments())
    args = (*back, [False, False], [True, True, alpha is not None])
    torch.library.opcheck(torch.ops.nybble.layer_backward.default, args)


@pytest.mark.parametrize("needs", [(False, True, False), (True, False, False), (True, True, False)])
def test_opcheck_of_gradients_that_are_not_needed(needs):
    args = (*backward_args("sun2020", CONV)[:-1], list(needs))
    torch.library.opcheck(torch.ops.nybble.layer_backward.default, args)


def test_opcheck_matmul():
    args = (torch.ones(3, 4), torch.ones(4, 2), torch.tensor(0.5), None, 7, 7, "exact")
    torch.library.opcheck(torch.ops.nybble.matmul.default, args)


def test_fake_shapes_are_the_real_ones():
    args, _ = forward_args("sun2020", CONV)
    real = torch.ops.nybble.layer_forward(*args)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args]
        fake = torch.ops.nybble.layer_forward(*fakes)
    for a, b in zip([real[0], *real[1]], [fake[0], *fake[1]], strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype


def test_saving_is_optional():
    args, _ = forward_args("sun2020", CONV, save=False)
    assert torch.ops.nybble.layer_forward(*args)[1] == []


@pytest.mark.parametrize("scale", [AbsMax(), AbsMax("row"), MinMax()], ids=lambda s: s.short)
@pytest.mark.parametrize("accumulate", ["fast", "exact"])
def test_numeric_matmul_equals_dequantised_product(scale, accumulate):
    fmt = nybble.get_format("int4" if isinstance(scale, MinMax) else "int4_sym")
    quantizer = Quantizer(fmt, scale)
    torch.manual_seed(0)
    a, b = torch.randn(5, 33), torch.randn(33, 4)
    qa = nybble.quantize(a, quantizer)
    qb = nybble.quantize(b, Quantizer(nybble.get_format("int4_sym"), AbsMax()))
    product = nybble.matmul(qa, qb, accumulate=accumulate)
    torch.testing.assert_close(product, qa.dequantize() @ qb.dequantize(), rtol=1e-5, atol=1e-5)


def test_numeric_matmul_takes_numpy_through_quantize_and_refuses_floats():
    quantizer = Quantizer(nybble.get_format("int4_sym"), AbsMax())
    q = nybble.quantize(torch.randn(2, 3).numpy(), quantizer)
    assert nybble.matmul(q, nybble.quantize(torch.randn(3, 2), quantizer)).shape == (2, 2)
    with pytest.raises(nybble.UserError, match="not a QTensor"):
        nybble.matmul(q, torch.randn(3, 2))
    with pytest.raises(nybble.UserError, match="do not fit"):
        nybble.matmul(q, q)
    with pytest.raises(nybble.UserError, match="accumulate"):
        nybble.matmul(q, q, accumulate="no")
