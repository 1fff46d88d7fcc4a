"""NaN and infinity in an operand reach the results in every recipe: a loss scaler must see them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import nybble
from nybble.ops.reference import sliced
from nybble.recipes import RECIPES, get_recipe

LAYERS = {
    "linear": (lambda: nn.Linear(7, 5), (3, 7)),
    "conv": (lambda: nn.Conv2d(3, 5, 3, padding=1), (4, 3, 6, 5)),
    "conv1x1": (lambda: nn.Conv2d(3, 5, 1), (4, 3, 6, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 5, 2, stride=2), (4, 3, 4, 5)),
}
QUANTISED = [name for name in RECIPES if name not in ("fp32",)]


def layer(recipe: str, kind: str, backend: str) -> tuple[nn.Module, Tensor]:
    """The layer as the recipe has those in the middle of a network, and an input of it."""
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    middle = replace(get_recipe(recipe), rules=())
    return nybble.convert(nn.Sequential(make()), middle, backend=backend)[0], torch.randn(shape)


@pytest.fixture(params=["whole", "slices"])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide layers whole, and one image at a time."""
    if request.param == "slices":
        monkeypatch.setattr(sliced, "SLICE", 1)


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("recipe", QUANTISED)
@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_nothing_that_is_not_finite_becomes_a_number(recipe, kind, backend, bad) -> None:
    def step(where: str) -> tuple[Tensor, Tensor, Tensor]:
        m, x = layer(recipe, kind, backend)
        m(x)  # learned clips and steps start from good data
        if where == "x":
            x[(-1,) * x.dim()] = bad
        if where == "weight":
            with torch.no_grad():
                m.weight[(0,) * m.weight.dim()] = bad
        x.requires_grad_()
        y = m(x)
        grad = torch.randn(y.shape)
        if where == "grad":
            grad[(0,) * grad.dim()] = bad
        y.backward(grad)
        return y, x.grad, m.weight.grad

    y, _, dw = step("x")
    assert not y.isfinite().all() and not dw.isfinite().all()
    y, dx, _ = step("weight")
    assert not y.isfinite().all() and not dx.isfinite().all()
    _, dx, dw = step("grad")
    assert not dx.isfinite().all() and not dw.isfinite().all()
