"""How the gradient scale of a converted layer moves (GradScale of sun2020).

GradScale moves once an iteration: gradients only note their maximum; the next training forward
applies the rule to it. A layer that is used twice in a step, or recomputed under checkpointing,
therefore moves its scale once, by its largest gradient (`immediate`: by its first one; `fit` has
no state to move and fits every gradient). Layers under one scale (`scope="global"`) form a group:
each keeps the same number, and the first training forward of an iteration moves all of them. A
training forward is one in training mode, or one in eval mode with gradients enabled and needed:
validation belongs under `torch.no_grad()`. Not done: moving the scale of a layer that trains in
eval mode under reentrant checkpointing only.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nybble.ops.spec import LayerSpec
from nybble.quantizers import GradScale
from nybble.quantizers.scales.gradscale import is_number, usable

if TYPE_CHECKING:
    from nybble.nn.state import QuantizedLayer

__all__ = ["group_scales", "held", "move_", "observe_"]


@lru_cache(maxsize=256)
def held(spec: LayerSpec) -> LayerSpec:
    """`spec` with a GradScale that uses its state as it is (Hindsight always does)."""
    slots = {
        name: replace(slot, scale=replace(slot.scale, mode="delayed"))
        for name in ("grad_input_grad", "grad_weight_grad")
        if (slot := spec.slot(name)) is not None and isinstance(slot.scale, GradScale)
    }
    return replace(spec, **slots)  # type: ignore[arg-type]


def observe_(layer: QuantizedLayer, amax: Tensor, scale: Tensor) -> None:
    """Keep the scale that was used and note the gradient's maximum."""
    if amax.numel() == 0:
        return
    rule = layer.nybble_spec.grad_scale
    if rule is not None and rule[0].mode == "immediate" and not layer._nybble_moved:
        layer._nybble_moved = bool(usable(amax))  # a zero or bad gradient moves nothing
    kept, noted = layer.nybble_grad_scale, layer.nybble_grad_amax
    if layer._nybble_group and float(kept) != float(scale):  # the first gradient of all
        for other in layer._nybble_group:
            other.nybble_grad_scale.copy_(scale)
    if is_number(amax) and is_number(noted):
        used, largest = scale.item(), amax.item()
        if kept.item() != used:
            kept.fill_(used)
        if noted.item() < largest < math.inf:
            noted.fill_(largest)
        return
    kept.copy_(scale)
    finite = torch.where(torch.isfinite(amax), amax, torch.zeros_like(amax))
    torch.maximum(noted, finite, out=noted)


def move_(layer: QuantizedLayer) -> None:
    """Apply the delayed rule to what was noted since the scale last moved."""
    rule = layer.nybble_spec.grad_scale
    if rule is None or rule[0].mode != "delayed":
        return
    config, top = rule
    scale, amax = layer.nybble_grad_scale, layer.nybble_grad_amax
    if layer._nybble_group:
        noted = [other.nybble_grad_amax for other in layer._nybble_group]
        amax.copy_(torch.stack([one.to(amax.device) for one in noted]).amax(0))
    if is_number(amax) and is_number(scale):  # `update` and its product, without tensors
        largest, now = amax.item(), scale.item()
        if largest != 0.0:  # 0: no gradient came
            moved = config.advance_number(now, largest, top)
            if moved != now:
                scale.fill_(moved)
            amax.zero_()
    else:
        scale.copy_(config.advance(scale, amax, top))
        amax.zero_()
    for other in layer._nybble_group:
        other.nybble_grad_scale.copy_(scale)
        other.nybble_grad_amax.zero_()


def group_scales(layers: list[QuantizedLayer]) -> None:
    """Join the layers of a model whose gradients have one scale for all of them."""
    joined = [
        layer
        for layer in layers
        if (rule := layer.nybble_spec.grad_scale) is not None and rule[0].scope == "global"
    ]
    for layer in joined:
        layer._nybble_group = joined
