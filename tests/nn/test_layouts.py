"""Both backends agree whatever the layout and the gaps of what lies between their layers.

In two dimensions both lie channels-last, as `convert` puts a network on the native backend.
"""

from __future__ import annotations

import pytest
import torch
from tests.bits import same_bits
from torch import Tensor, nn

import nybble
from nybble.ops import native

CORE, MISSING = native.core()
pytestmark = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")


class Joined(nn.Module):
    """The end of a U-Net: the gradient of `up` is a part of a joined tensor's, with gaps."""

    def __init__(self, dims: int, transposed: bool) -> None:
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        up = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
        self.up = up(16, 8, 2, stride=2) if transposed else conv(16, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(16) if dims == 2 else nn.BatchNorm3d(16)
        self.down = conv(16, 8, 3, padding=1)
        self.cropped = conv(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        joined = torch.cat([torch.ones_like(y), y], 1)
        return self.cropped(self.down(self.norm(joined))[:, :, 1:])


def results(backend: str, recipe: str, dims: int, transposed: bool, last: bool) -> list[Tensor]:
    torch.manual_seed(0)
    form = torch.channels_last if dims == 2 else torch.channels_last_3d
    form = form if last else torch.contiguous_format
    model = Joined(dims, transposed).to(memory_format=form)
    rules = {"re:.": recipe}  # the first and the last layer too
    model = nybble.convert(model, recipe, rules=rules, backend=backend, accumulate="exact", seed=5)
    x = torch.randn(3, 16, *(6,) * dims).contiguous(memory_format=form).requires_grad_()
    y = model(x)
    y.square().mean().backward()
    return [y, x.grad, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("recipe", ["nybble4", "nybble4-hadamard", "sun2020"])
@pytest.mark.parametrize(("dims", "last"), [(2, True), (3, False), (3, True)])
@pytest.mark.parametrize("transposed", [False, True])
def test_both_backends_give_the_same_bits(
    recipe: str, dims: int, transposed: bool, last: bool
) -> None:
    expected = results("reference", recipe, dims, transposed, last)
    found = results("native", recipe, dims, transposed, last)
    for a, b in zip(expected, found, strict=True):
        assert same_bits(a, b) and a.stride() == b.stride()
