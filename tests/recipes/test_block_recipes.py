"""Recipes with block scales: every operand is the oracle's, bit for bit, and Gemms follow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.recipes import layer_oracle as oracle

from nybble.nn.inputs import signed_input
from nybble.ops.calls import BackwardCall, ForwardCall
from nybble.ops.geometry import Geometry
from nybble.ops.reference import composite, composite_backward
from nybble.ops.reference.composite_operand import Streams, quantize, turn, values
from nybble.ops.reference.operand import Draw
from nybble.ops.reference.places import GemmName, Place, places
from nybble.ops.spec import LayerSpec
from nybble.quantizers import AbsMax, FourOverSix, Quantizer, SplitRows
from nybble.recipes import get_recipe

LINEAR = Geometry("linear")
DRAW = Draw(5, 3, 7)
RECIPES = [
    "ufp4",
    "ufp4:hadamard=32+grid=e2m1+signs=fixed",
    "four-over-six",
    "four-over-six:error=mae+hadamard=none",
    "four-over-six:weights=tile",
    "four-over-six:weights=tile+error=absmax+backward_weight=nvfp4",
    "fp4-all-the-way:headroom=yes",
    "wang2025:dge=none+outliers=none",
    "wang2025:dge=none+outliers=none+gradient=fp8+backward=bf16",
    "quartet",
    "quartet:backward=stochastic",
    "quartet:backward=quest+forward=absmax",
    "quartet2",
    "quartet2:source=tensor+hadamard=16",
    "tetrajet:qema=none",
    "tetrajet2:reset=none",
    "tetrajet2:reset=none+source=tensor+hadamard=none",
    "tseng2025",
    "nvfp4",
    "nvfp4:weights=block+headroom=yes",
]


def data(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x [rows, inputs], w [outputs, inputs], dy [rows, outputs] of shape (rows, inputs, outputs);
    some inputs are much larger than others."""
    rows, inputs, outputs = shape
    g = torch.Generator().manual_seed(1)
    x = torch.randn(rows, inputs, generator=g) * torch.randn(inputs, generator=g).exp()
    weight = torch.randn(outputs, inputs, generator=g) / 7
    return x, weight, torch.randn(rows, outputs, generator=g) / 1000


def backward(
    spec: LayerSpec,
    x: torch.Tensor,
    weight: torch.Tensor,
    grad: torch.Tensor,
    saved: list[torch.Tensor],
    draw: Draw,
) -> tuple[torch.Tensor, ...]:
    """The layer's (dx, dw, ...)."""
    call = BackwardCall(
        x if spec.slot("grad_weight_input") is None else None,
        weight,
        saved,
        torch.zeros(1),
        tuple(x.shape),
        tuple(weight.shape),
        spec,
        LINEAR,
        "fast",
        draw,
        (False, False),
        [True, True, False],
    )
    return composite_backward.layer_backward(grad, call)


def of(recipe: str) -> LayerSpec:
    return get_recipe(recipe).spec


@pytest.mark.parametrize("recipe", RECIPES)
def test_operands_and_gemms_equal_the_oracle(recipe: str) -> None:
    spec = of(recipe)
    # No dimension is a multiple of a block; where scales are shared by 128, more than that.
    x, weight, grad = data((5, 150, 6) if recipe == "tetrajet2:reset=none" else (20, 34, 10))
    operands, y, dx, dw = oracle.layer(x, weight, grad, spec, DRAW)
    for name, axis, tensor in (
        ("output_input", 1, x),
        ("output_weight", 1, weight),
        ("grad_input_grad", 1, grad),
        ("grad_weight_grad", 0, grad),
    ):
        gemm = name.rpartition("_")[0]
        side = 0 if name.endswith("grad") or name == "output_input" else 1
        place = places(LINEAR, gemm)[side]  # type: ignore[arg-type]
        assert place.contraction == axis
        slot = spec.slot(name)
        found = quantize(tensor, slot, place, Streams(DRAW, oracle.SLOT[name]))[0]
        assert torch.equal(values(found), operands[name]), name
    call = ForwardCall(None, None, spec, LINEAR, "fast", DRAW, save=True)
    out, saved = composite.layer_forward(x, weight, call)
    assert torch.allclose(out.double(), y, rtol=1e-4, atol=1e-5)
    back = backward(spec, x, weight, grad, saved, DRAW)
    for got, want in zip(back[:2], (dx, dw), strict=True):
        size = float(want.abs().max())
        assert torch.allclose(got.double(), want, rtol=1e-4, atol=1e-5 * size)


def average(
    recipe: str, runs: int = 150, of_codes: bool = False
) -> list[tuple[float, float, float]]:
    """(squared bias, variance, length along the true one) of dx and dw over random bits, as shares
    of the gradient of what the forward pass multiplied (without `double` or `of_codes`, of the
    tensors)."""
    spec = of(recipe)
    x, weight, grad = data((32, 32, 16))
    hx, hw = x, weight
    if spec.signed_slot is not None:
        spec = signed_input(spec)
    if spec.double or of_codes:
        found = [
            quantize(t, spec.slot(n), places(LINEAR, "output")[side], Streams(DRAW, side))[0]
            for n, t, side in (("output_input", x, 0), ("output_weight", weight, 1))
        ]
        hx, hw = (values(q) for q in found)
    want = [(grad @ hw).double(), (grad.T @ hx).double()]
    total, square = [torch.zeros_like(t) for t in want], [torch.zeros_like(t) for t in want]
    for call in range(runs):
        draw = Draw(5, 3, call)
        forward = ForwardCall(None, None, spec, LINEAR, "fast", draw, save=True)
        saved = composite.layer_forward(x, weight, forward)[1]
        back = backward(spec, x, weight, grad, saved, draw)
        for i in range(2):
            total[i] += back[i].double()
            square[i] += back[i].double() ** 2
    shares = []
    for mean, squares, true in zip(total, square, want, strict=True):
        variance = (squares / runs - (mean / runs) ** 2) * runs / (runs - 1)
        bias = (mean / runs - true) ** 2 - variance / runs
        size = float(true.square().sum())
        along = float((mean / runs * true).sum()) / size
        shares.append((float(bias.sum()) / size, float(variance.sum()) / size, along))
    return shares


@pytest.mark.parametrize("recipe", ["quartet2", "tetrajet:qema=none", "tetrajet2:reset=none"])
def test_backward_is_unbiased(recipe: str) -> None:
    """On average, the backward Gemms are those of what the forward pass multiplied."""
    assert of(recipe).double  # so `average` compares with what the forward pass multiplied
    for bias, variance, along in average(recipe):
        assert along == pytest.approx(1.0, abs=4e-3)  # nearest NV after a Hadamard: 0.988 to 0.992
        assert abs(bias) < 1e-3
        assert 0.005 < variance < 0.1


def test_nybble4_is_unbiased_and_so_is_what_reaches_nvfp4_s_inputs() -> None:
    for bias, variance, along in average("nybble4", of_codes=True):
        assert along == pytest.approx(1.0, abs=4e-3) and abs(bias) < 1e-3
        assert 0.001 < variance < 0.1
    # NVIDIA's update quantises its input once more, to nearest; its grad_input is of codes.
    bias, variance, along = average("nvfp4:headroom=yes", of_codes=True)[0]
    assert along == pytest.approx(1.0, abs=4e-3) and abs(bias) < 1e-3
    assert 0.005 < variance < 0.1


def test_tseng2025_is_unbiased_because_of_its_three_quarters() -> None:
    for bias, variance, along in average("tseng2025"):
        assert along == pytest.approx(1.0, abs=4e-3) and abs(bias) < 1e-3
        assert 0.005 < variance < 0.2
    slot = of("tseng2025").grad_weight_grad
    assert gain_and_variance(slot)[0] == pytest.approx(1.0, abs=5e-3)
    assert gain_and_variance(replace(slot, scale=AbsMax.mx()))[0] < 0.97


def test_a_hadamard_bounds_the_variance_of_random_rounding() -> None:
    """Tseng et al.: on gradients with outliers; the blocks of a row share what the outlier adds."""
    slot = of("tseng2025").grad_weight_grad
    assert gain_and_variance(slot)[1] < 0.5 * gain_and_variance(replace(slot, transform=None))[1]


def gain_and_variance(slot: Quantizer, runs: int = 100) -> tuple[float, float]:
    """Of a gradient with a large column and a large row, over random bits."""
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    x[:, 5] *= 50
    x[3] *= 20
    total, square = torch.zeros_like(x).double(), torch.zeros_like(x).double()
    place = Place("grad_weight", 1, 0)
    for call in range(runs):
        draw = Draw(1, 2, call)
        found = values(quantize(x, slot, place, Streams(draw, 3))[0])
        if slot.transform is not None:
            found = turn(found, slot.transform, place, draw, back=True)
        total += found.double()
        square += found.double() ** 2
    mean, size = total / runs, float(x.double().square().sum())
    return float((mean * x).sum()) / size, float((square / runs - mean * mean).sum()) / size


def test_nearest_is_not() -> None:
    for bias, variance, _ in average("tetrajet:qema=none+backward=nearest", runs=2):
        assert bias > 5e-3
        assert variance == 0.0


def test_eden_has_less_than_half_of_the_noise_of_stochastic_rounding() -> None:
    """The claim of Quartet II, here of the results of both backward Gemms."""
    eden, stochastic = average("quartet2", 60), average("quartet2:backward=stochastic", 60)
    for (_, ours, _), (_, theirs, _) in zip(eden, stochastic, strict=True):
        assert ours < 0.5 * theirs


def test_an_update_is_unbiased_only_if_both_operands_are() -> None:
    """FP4 All the Way: stochastic rounding of the gradient alone leaves the input's bias."""
    both = average("fp4-all-the-way:headroom=yes")[1][0]
    one = average("fp4-all-the-way:headroom=yes+update_input=nearest")[1][0]
    assert abs(both) < 1e-3
    assert one > 3e-3


@pytest.mark.parametrize(("gemm", "slot"), [("grad_input", 2), ("grad_weight", 3)])
def test_xi2023_s_rows_run_over_the_channels_in_both_gemms(gemm: GemmName, slot: int) -> None:
    """A row is a sample of a linear layer, a pixel of a convolution, whichever Gemm it is for."""
    quantizer = of("xi2023").slot(f"{gemm}_grad")
    assert quantizer is not None
    assert isinstance(quantizer.scale, SplitRows)
    for shape, geometry in (((20, 6), LINEAR), ((3, 6, 4, 5), Geometry("conv2d"))):
        grad = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
        place, streams = places(geometry, gemm)[0], Streams(DRAW, slot)
        found = quantize(grad, quantizer, place, streams)[0]
        assert torch.equal(
            values(found), quantizer.scale.estimate(grad, 1, streams.on(grad.device))
        )


def test_tiles_of_four_over_six_are_the_weights_of_both_passes() -> None:
    spec = get_recipe("four-over-six:weights=tile").spec
    assert spec.output_weight.scale == FourOverSix(granularity="tile")
    assert spec.grad_input_weight == "same" and spec.output_input.scale == FourOverSix()
