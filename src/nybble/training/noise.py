"""How far a step's gradient is above the noise of its quantisation (Chmiel et al., NeurIPS 2025).

    ratio = ||g|| / ||g_q - g||       over the weights of all layers with few-bit gradients

of one batch. Layers whose gradients have 16 bits or more (the last one, which is near the loss and
has a large gradient) have hardly any noise: with them the ratio would hide that of the others.
Where all are such, all count.

g_q is the gradient of the step. g is that of the same batch, dropout and random bits with output
gradients in float32, which meet the operands of the forward pass: one more forward and backward
pass, after which statistics, scales and counters are put back, so a look changes no number of the
run. The paper's watch strikes below sqrt(3). Its norm is that of the expected gradient; g here is
of one batch and holds the noise of the batch as well, so the ratio is an upper estimate, and the
switch comes later rather than sooner.

Not done here: weights behind a parametrisation (weight_norm), which are no parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from nybble.nn.registry import quantized_layers
from nybble.ops.spec import SAME, LayerSpec

__all__ = ["gradient_to_noise"]

WIDE = 16
"""Bits from which the noise of a gradient does not count."""


def gradient_to_noise(
    model: nn.Module,
    before: list[tuple[Tensor, Tensor]],
    loss: Callable[[], Tensor],
    scale: float,
) -> float:
    """||g|| / ||g_q - g||, infinite where nothing is quantised; see the module.

    The weights' `.grad` are g_q. before: the model's buffers and their values before the step.
    loss: runs the step's forward pass again. scale: the loss scale.
    """
    layers = [layer for _, layer in quantized_layers(model)]
    counted = [layer for layer in layers if _rounds(layer.nybble_spec)] or layers
    weights = [
        layer.weight
        for layer in counted
        if isinstance(layer.weight, nn.Parameter) and layer.weight.grad is not None
    ]
    if not weights:
        return math.inf
    after = [(buffer, buffer.clone()) for buffer, _ in before]
    specs = [layer.nybble_spec for layer in layers]
    try:
        _put_back(before)
        for layer in layers:
            layer.become_(without_rounding(layer.nybble_spec))
        found = torch.autograd.grad(loss() * scale, weights, allow_unused=True)
    finally:
        for layer, spec in zip(layers, specs, strict=True):
            layer.become_(spec)
        _put_back(after)
    signal = noise = 0.0
    for weight, exact in zip(weights, found, strict=True):
        quantised = weight.grad
        if exact is None or quantised is None:
            continue
        g = exact.double() / scale
        signal += float(g.square().sum())
        noise += float((quantised.double() - g).square().sum())
    return math.sqrt(signal / noise) if noise > 0 else math.inf


def _rounds(spec: LayerSpec) -> bool:
    """Whether output gradients have few bits in one of the Gemms."""
    slots = (spec.grad_input_grad, spec.grad_weight_grad)
    return any(slot is not None and slot.format.bits < WIDE for slot in slots)


@lru_cache(maxsize=256)
def without_rounding(spec: LayerSpec) -> LayerSpec:
    """`spec` with output gradients in float32, multiplied by what the forward pass kept.

    >>> without_rounding(LayerSpec()) == LayerSpec()
    True
    """
    return replace(
        spec,
        grad_input_grad=None,
        grad_weight_grad=None,
        grad_input_weight=SAME,
        grad_weight_input=SAME,
        samples=1,
        gradient_pair="each",
        fold=False,
        control_variate=False,
        double=False,
    )


def _put_back(buffers: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for buffer, value in buffers:
            if buffer.shape == value.shape:
                buffer.copy_(value)
