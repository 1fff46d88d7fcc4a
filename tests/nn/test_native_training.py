"""Two hundred steps of real training on either backend end in the same weights, bit for bit.

One thread count, channels-last images (batch norm sums in the order of the memory, so the layout is
part of the definition), no fused elementwise kernels.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nybble
from nybble.ops import native
from nybble.training.models.resnet import ResNet

pytestmark = pytest.mark.skipif(not native.available(), reason="needs the compiled module")


class Mixer(nn.Module):
    """Linear layers of the shapes that a transformer has, GELU between them (signed inputs)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 40)
        self.up, self.down = nn.Linear(40, 70), nn.Linear(70, 40)
        self.norm = nn.LayerNorm(40)
        self.head = nn.Linear(40, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x.flatten(1))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x)


def train(model: nn.Module, shape: tuple[int, ...], steps: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(
        nybble.param_groups(model, lr=0.05), lr=0.05, momentum=0.9, weight_decay=1e-4
    )
    for _ in range(steps):
        x = torch.randn(shape, generator=generator)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        target = (x.flatten(1)[:, :5]).argmax(1)
        optimizer.zero_grad()
        F.cross_entropy(model(x), target).backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("recipe", ["sun2020", "sun2020:factor=stochastic"])
@pytest.mark.parametrize("kind", ["resnet", "mixer"])
def test_two_hundred_steps_end_in_equal_weights(kind: str, recipe: str) -> None:
    results = []
    for backend in ("reference", "native"):
        torch.manual_seed(0)
        model: nn.Module = Mixer()
        shape: tuple[int, ...] = (16, 12)
        if kind == "resnet":
            model, shape = ResNet((1, 1), 5, 3, width=16), (8, 3, 8, 8)
            model = model.to(memory_format=torch.channels_last)
        nybble.convert(model, recipe, backend=backend, accumulate="exact", seed=4)
        results.append(train(model, shape, 200))
    expected, ours = results
    assert expected.keys() == ours.keys()
    for name, value in expected.items():
        assert value.isfinite().all(), name
        assert torch.equal(value, ours[name]), name
