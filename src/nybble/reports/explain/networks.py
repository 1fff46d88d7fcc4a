"""The network that the page trains, how it is trained, and the recipe that is INT4 everywhere.

The small network: five 3x3 convolutions of 16, 16, 32, 32, 32 channels (the third and the fifth
halve the image), then linear layers of 64 and of 10, ReLU between them and no normalisation. Deep
enough for gradients to pass through seven layers, small enough for a laptop to train it in seconds.

`int4_everywhere`: every operand of every Gemm of every layer on the same 15 evenly spaced levels,
the largest number deciding the step, rounded to nearest. It is nobody's published recipe: it is
what one would do who takes "4 bits" literally.

Not done here: weight decay, augmentation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import nybble
from nybble.errors import UserError, suggest
from nybble.quantizers import get_quantizer
from nybble.recipes import Recipe
from nybble.recipes.parts import forward_backward
from nybble.training.data.base import ImageData
from nybble.training.models.registry import MODELS, build_model, training_of
from nybble.training.seeds import derive

SMALL = "small"
BATCH = 32
RATE = 0.05  # peak learning rate of the small network; it falls to 0 along half a cosine


def int4_everywhere() -> Recipe:
    """Linear INT4 in all six slots, first and last layer included.

    >>> int4_everywhere().spec.grad_input_grad.short
    'int4_sym·absmax(tensor)'
    """
    one = get_quantizer("int4_sym:absmax")
    return Recipe("int4-everywhere", "INT4 everything", "", forward_backward(one, one))


def small_network(classes: int = 10, channels: int = 1, side: int = 14) -> nn.Sequential:
    """The small network, with initial weights from torch's global generator (He et al. 2015).

    >>> sum(p.numel() for p in small_network().parameters())
    59098
    """
    layers: list[nn.Module] = []
    for out, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (32, 2)):
        layers += [nn.Conv2d(channels, out, 3, stride, 1), nn.ReLU()]
        channels, side = out, -(-side // stride)
    flat = channels * side * side
    layers += [nn.Flatten(), nn.Linear(flat, 64), nn.ReLU(), nn.Linear(64, classes)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Trained:
    """A network, its optimizer, and `rate(step)`, which sets the learning rate of that step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    peaks: tuple[float, ...]
    steps: int

    def rate(self, step: int) -> None:
        """Half a cosine from the peak to zero (Loshchilov and Hutter 2017)."""
        factor = 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor


def begin(name: str, recipe: str | Recipe, data: ImageData, seed: int, steps: int) -> Trained:
    """The network `name` with the initial weights of `seed`, converted, and its optimizer.

    Raises:
        UserError: an unknown model, or one that cannot take these images.
    """
    torch.manual_seed(derive(seed, "explain weights"))
    classes, (channels, side, _) = len(data.classes), data.shape
    how: dict[str, Any] = {"optimizer": "sgd", "lr": RATE}
    if name == SMALL:
        model: nn.Module = small_network(classes, channels, side)
    else:
        if name not in MODELS and ":" not in name:
            raise UserError(
                f"--model {name}: choose {SMALL}, {', '.join(MODELS)}, or your own as"
                f" module:function.{suggest(name, (SMALL, *MODELS))}"
            )
        model = build_model(name, classes, channels, size=side)
        how = training_of(name, BATCH, None)
        _try(name, model, data)
    nybble.convert(model, recipe, seed=seed)
    groups = nybble.param_groups(model, lr=how["lr"], weight_decay=0.0)
    if how["optimizer"] == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=how["lr"])
    else:
        optimizer = torch.optim.SGD(groups, lr=how["lr"], momentum=0.9)
    return Trained(model, optimizer, tuple(g["lr"] for g in optimizer.param_groups), steps)


def _try(name: str, model: nn.Module, data: ImageData) -> None:
    """One image through the model, in inference, so that nothing of it changes."""
    shape = (1, *data.shape)
    try:
        with torch.no_grad():
            given = model.eval()(torch.zeros(shape))
    except Exception as error:
        raise UserError(
            f"--model {name}: given images {list(shape)} it raised {type(error).__name__}: {error}"
        ) from error
    model.train()
    if not isinstance(given, torch.Tensor) or given.shape != (1, len(data.classes)):
        raise UserError(
            f"--model {name}: for the race it must return one number for each of the"
            f" {len(data.classes)} digits, as a tensor [images, {len(data.classes)}]."
        )
