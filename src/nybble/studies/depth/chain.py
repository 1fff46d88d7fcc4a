"""Chains of equal blocks, and a task for them that any machine has.

    plain       x -> norm(relu(W x))
    residual    x -> x + W relu(norm(x))                      (pre-activation, one layer a block)

`linear`: W is [width, width], norm a LayerNorm, inputs are vectors of `width` numbers. `conv`: W is
a 3x3 convolution of `width` channels on 8x8 images, norm a batch norm. Before the blocks stands a
stem, behind them a linear head: the first and the last layer, which recipes treat apart, so every
block's W is a layer of few bits. Weights are drawn as He et al. 2015 do for ReLU.

Data: ten classes, each a fixed point drawn from N(0, 1), the inputs that point plus N(0, 1) noise.
It can be learned, it needs no file, and everything is a function of the seed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nybble.errors import UserError, suggest
from nybble.training.seeds import generator

KINDS = ("plain", "residual")
LAYERS = ("linear", "conv")
CLASSES = 10
SIDE = 8


class Block(nn.Module):
    """One block; `layer` is what is quantised."""

    def __init__(self, kind: str, layers: str, width: int) -> None:
        super().__init__()
        self.residual = kind == "residual"
        self.layer: nn.Module
        self.norm: nn.Module
        if layers == "conv":
            self.layer = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(width)
        else:
            self.layer = nn.Linear(width, width, bias=False)
            self.norm = nn.LayerNorm(width)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if self.residual:
            added: Tensor = x + self.layer(self.relu(self.norm(x)))
            return added
        out: Tensor = self.norm(self.relu(self.layer(x)))
        return out


class Chain(nn.Module):
    """Stem, `depth` blocks, head: [N, width] or [N, 3, 8, 8] -> [N, 10].

    >>> Chain("residual", "linear", depth=3, width=16)(torch.zeros(2, 16)).shape
    torch.Size([2, 10])
    """

    def __init__(self, kind: str, layers: str, depth: int, width: int) -> None:
        super().__init__()
        _check("kind", kind, KINDS)
        _check("layers", layers, LAYERS)
        self.conv = layers == "conv"
        self.stem: nn.Module = (
            nn.Conv2d(3, width, 3, padding=1, bias=False)
            if self.conv
            else nn.Linear(width, width, bias=False)
        )
        self.blocks = nn.ModuleList(Block(kind, layers, width) for _ in range(depth))
        self.head = nn.Linear(width, CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean((2, 3)) if self.conv else x)
        return logits


def batch(seed: int, number: int, layers: str, width: int, size: int) -> tuple[Tensor, Tensor]:
    """Batch `number` of the seed's task: (inputs [size, ...], classes [size])."""
    shape = (3, SIDE, SIDE) if layers == "conv" else (width,)
    centres = torch.randn(CLASSES, *shape, generator=generator(seed, "depth/classes"))
    random = generator(seed, "depth/batch", number)
    target = torch.randint(0, CLASSES, (size,), generator=random)
    return centres[target] + torch.randn(size, *shape, generator=random), target


def _check(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(
            f"unknown {what} '{value}'; choose one of {', '.join(known)}.{suggest(value, known)}"
        )
