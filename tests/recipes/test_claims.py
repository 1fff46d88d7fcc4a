"""Small claims of the papers, on the very operands that their recipes multiply."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nybble.ops.calls import BackwardCall, ForwardCall
from nybble.ops.geometry import Geometry
from nybble.ops.reference import composite, composite_backward
from nybble.ops.reference.composite_operand import Streams, quantize, turn, values
from nybble.ops.reference.estimator import factor, levels_of
from nybble.ops.reference.operand import Draw
from nybble.ops.reference.outliers import split_outliers
from nybble.ops.reference.places import Place
from nybble.ops.spec import DGE
from nybble.recipes import get_recipe

PLACE = Place("output", 1, 0)
DRAW = Draw(1, 2, 3)


def operand(x: Tensor, recipe: str, slot: str) -> tuple[Tensor, Tensor]:
    """(what the Gemm multiplies, what it would multiply without quantising), in its basis."""
    quantizer = get_recipe(recipe).spec.slot(slot)
    assert quantizer is not None
    found = quantize(x, quantizer, PLACE, Streams(DRAW, 0))[0]
    return values(found), turn(x, quantizer.transform, PLACE, DRAW)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(x: Tensor, recipe: str, slot: str = "output_input") -> float:
    """Squared error as a share of the squared operand."""
    got, exact = operand(x, recipe, slot)
    return float((got - exact).square().sum() / exact.square().sum())


# ---- quartet ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "slot", "expected"),
    [
        ("quartet", "output_input", 1.32e-2),
        ("quartet", "grad_input_grad", 1.37e-2),
        ("quartet:backward=stochastic", "grad_input_grad", 2.77e-2),
    ],
)
def test_quartet_s_errors_on_gaussian_data(recipe: str, slot: str, expected: float) -> None:
    """Its table: QuEST 1.32e-2, nearest by AbsMax 1.37e-2, stochastic 2.77e-2; Gaussians of all
    sizes within an octave, since scales are powers of two."""
    size = 2.0 ** torch.rand(8000, 1, generator=torch.Generator().manual_seed(1))
    got, exact = operand(normal(8000, 32) * size, recipe, slot)
    found = float(((got - exact) / size).square().mean())
    assert found == pytest.approx(expected, rel=0.02)


# ---- ufp4 -------------------------------------------------------------------------------------


def shrinkage(recipe: str) -> float:
    """1 - <x, Q(x)> / <x, x> on Gaussian data, which a Hadamard makes of any."""
    got, exact = operand(normal(8000, 64), recipe, "output_input")
    return 1.0 - float((got * exact).sum() / exact.square().sum())


def test_e2m1_shrinks_and_a_uniform_grid_does_not() -> None:
    assert shrinkage("ufp4:grid=e2m1") > 3e-3
    assert abs(shrinkage("ufp4")) < 1.5e-3


def test_a_hadamard_helps_the_uniform_grid_and_hurts_e2m1() -> None:
    """On data with outliers: the paper's reason for its grid."""
    x = normal(4000, 64) * normal(4000, 64, seed=1).exp()
    assert error(x, "ufp4") < 0.6 * error(x, "ufp4:hadamard=none")
    assert error(x, "ufp4:grid=e2m1") > 1.2 * error(x, "ufp4:grid=e2m1+hadamard=none")
    assert error(x, "ufp4") < 0.8 * error(x, "ufp4:grid=e2m1+hadamard=none")


# ---- four-over-six ----------------------------------------------------------------------------


def test_four_over_six_has_less_error_than_nvfp4() -> None:
    x = normal(1000, 128)
    assert error(x, "four-over-six") < 0.9 * error(x, "fp4-all-the-way")
    assert error(x, "four-over-six") <= error(x, "four-over-six:error=absmax")


# ---- headroom ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("headroom", "biased"), [("yes", False), ("no", True)])
def test_stochastic_rounding_saturates_without_headroom(headroom: str, biased: bool) -> None:
    """E4M3 may round a block's scale down: its maximum then lies beyond 6 (17/16 mends it)."""
    x = normal(64, 64)
    quantizer = get_recipe(f"fp4-all-the-way:headroom={headroom}").spec.grad_input_grad
    total = torch.zeros(64, 64).double()
    runs = 400
    for call in range(runs):
        found = quantize(x, quantizer, PLACE, Streams(Draw(1, 2, call), 2))[0]
        total += values(found).double()
    blocks = x.view(-1, 16)
    top = blocks.abs() == blocks.abs().amax(1, keepdim=True)
    lost = 1.0 - float((total / runs / x).view(-1, 16)[top].mean())
    assert (lost > 5e-3) == biased


# ---- wang2025 ---------------------------------------------------------------------------------


def test_dge_is_the_slope_of_a_staircase() -> None:
    """f(x) = delta / 2 (1 + sign(u) |u|^(1/k)), u = 2 x / delta - 1, between levels delta apart."""
    levels = levels_of(get_recipe("wang2025").spec.output_weight)  # type: ignore[arg-type]
    for low, high in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        delta = high - low
        x = torch.linspace(0.02, 0.98, 49, dtype=torch.float64) * delta
        x = x[(2 * x / delta - 1).abs() > 0.05].requires_grad_()

        u = 2 * x / delta - 1
        f = delta / 2 * (1 + u.sign() * u.abs() ** (1 / 5))
        (slope,) = torch.autograd.grad(f.sum(), x)
        found = factor((low + x.detach()).float(), levels, DGE())
        assert torch.allclose(found.double(), slope.clamp(max=3.0), rtol=1e-3)
    assert float(factor(torch.tensor([(levels[0] + levels[1]) / 2]), levels, DGE())) == 3.0


def test_dge_multiplies_the_weight_s_gradient() -> None:
    geometry = Geometry("linear")
    x, weight, grad = normal(9, 24), normal(7, 24, seed=1), normal(9, 7, seed=2)
    found = []
    for recipe in ("wang2025:outliers=none", "wang2025:outliers=none+dge=none"):
        spec = get_recipe(recipe).spec
        call = ForwardCall(None, None, spec, geometry, "fast", DRAW, save=True)
        _, saved = composite.layer_forward(x, weight, call)
        found.append(
            composite_backward.layer_backward(grad, BackwardCall(
                None, weight, saved, torch.zeros(1), (9, 24), (7, 24), spec, geometry,
                "fast", DRAW, (False, False), [False, True, False],
            ))[1]
        )  # fmt: skip
    scale = weight.abs().amax(1, keepdim=True) / 6.0
    slope = factor(weight / scale, levels_of(spec.output_weight), DGE())  # type: ignore[arg-type]
    near = (slope - found[0] / found[1]).abs() < 1e-3 * slope
    assert float(near.float().mean()) > 0.98  # the scale's last bit decides at a level


def test_outlier_compensation_mends_what_clamping_breaks() -> None:
    """OCC: activations with outliers; at a = 0.99 at most 2 % of them are multiplied apart."""
    x, weight = normal(64, 256) * normal(256, seed=3).mul(1.5).exp(), normal(48, 256, seed=4)
    exact = x @ weight.T
    errors = {}
    for outliers in ("0.99", "0.999", "none"):
        spec = get_recipe(f"wang2025:outliers={outliers}").spec
        call = ForwardCall(None, None, spec, Geometry("linear"), "fast", DRAW, save=False)
        y = composite.layer_forward(x, weight, call)[0]
        errors[outliers] = float((y - exact).norm() / exact.norm())
    assert errors["0.99"] < errors["0.999"] < errors["none"]
    inner, outer = split_outliers(x, 0.99)
    assert outer is not None
    assert 0.002 <= float((outer != 0).float().mean()) <= 0.0201
    assert torch.allclose(inner + outer, x)
