"""A short training in float32, of which weights, inputs and gradients of one layer are kept.

What the page says about rulers and about small gradients is said of these numbers. The layer is
the middle one of those with a weight matrix; its gradients are those that training really has,
one number for each of the layer's outputs.

Not done here: more than one layer.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.reports.explain.networks import BATCH, begin
from nybble.training.data.base import ImageData
from nybble.training.data.batches import Batches


@dataclass(frozen=True)
class Snapshot:
    """One layer at one step: before the step its weight and input, then its output's gradient."""

    step: int
    weight: Tensor
    inputs: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Walk:
    """layer: its name; place, layers: the place among all layers, from 1, and how many there are;
    weights: parameters of the whole network."""

    layer: str
    kind: str
    place: int
    layers: int
    weights: int
    snapshots: tuple[Snapshot, ...]


def walk(model: str, data: ImageData, seed: int, steps: int, every: int) -> Walk:
    """Train for `steps` steps, and keep a snapshot of step 0, `every`, 2 `every`, ..."""
    started = begin(model, "fp32", data, seed, steps * 2)  # the rate does not fall to 0 here
    net, optimizer = started.model, started.optimizer
    layers = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if not layers:
        raise UserError(f"--model {model}: it has no convolution and no linear layer to look into.")
    place = len(layers) // 2
    name, layer = layers[place]
    seen: dict[str, Tensor] = {}
    layer.register_forward_hook(lambda *given: _listen(seen, *given))
    batches = Batches(data, BATCH, seed, "none")
    kept: list[Snapshot] = []
    for step in range(steps):
        started.rate(step)
        x, y = batches.batch(*divmod(step, batches.steps_per_epoch))
        weight = layer.weight.detach().clone()
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        if step % every == 0 or step == steps - 1:
            if seen.keys() != {"inputs", "gradient"}:
                raise UserError(f"--model {model}: no gradient reaches its layer {name}.")
            kept.append(Snapshot(step, weight, seen["inputs"], seen["gradient"]))
        seen.clear()
    count = sum(p.numel() for p in net.parameters())
    kind = "convolution" if isinstance(layer, nn.Conv2d) else "linear layer"
    return Walk(name, kind, place + 1, len(layers), count, _finite(kept, model))


def _listen(seen: dict[str, Tensor], layer: nn.Module, given: Any, result: Tensor) -> None:
    seen["inputs"] = given[0].detach().clone()
    if result.requires_grad:
        result.register_hook(lambda g: seen.__setitem__("gradient", g.detach().clone()))


def _finite(kept: list[Snapshot], model: str) -> tuple[Snapshot, ...]:
    """The snapshots before the first that is not usable: a network may run away."""
    good = itertools.takewhile(
        lambda s: all(
            bool(torch.isfinite(t).all()) and bool((t != 0).any())
            for t in (s.weight, s.inputs, s.gradient)
        ),
        kept,
    )
    found = tuple(good)
    if not found:
        raise UserError(f"--model {model}: its first step gives no finite gradient to show.")
    return found
