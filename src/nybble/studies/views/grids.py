"""One tensor on the grid of one quantizer: where the levels lie, and how much misses them.

With y = fl(x * inv) and the codes that the format's own `encode` gives y:

    underflow    share of all elements that are not zero and get the code of zero
    saturation   share that is beyond the largest level, |y| > |value|, and is sent to it
    level        value * scale: where a code lies on the axis of x

Only scales that are one number a tensor have one such grid. Scales along rows or blocks, affine
scales and transforms are refused: their levels are other numbers in every row.

Source: the formats and scales of this package (nybble.formats, nybble.quantizers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.formats import Stochastic
from nybble.nn.state import QuantizedLayer
from nybble.ops.spec import is_composite
from nybble.quantizers import Quantizer, RandomKey, StatefulScale, random24
from nybble.quantizers.scales.fit import value_range
from nybble.studies.views.run import log2, short

MOST_BITS = 8
"""Wider formats have so many levels that lines would fill the axis."""


@dataclass(frozen=True)
class Scaled:
    """A quantizer with the factors that it has for one tensor: y = x * inv, x ~= value * scale."""

    quantizer: Quantizer
    inv: float
    scale: float


def fitted(quantizer: Quantizer, x: Tensor, what: str) -> Scaled:
    """The factors that the quantizer's scale finds in `x` itself.

    Raises:
        UserError: a format that is too wide to draw, or a scale that is not one number.
    """
    check(quantizer, what)
    fit = quantizer.scale.fit(x, quantizer.format)
    if fit.scale.numel() != 1 or fit.zero_point is not None:
        raise UserError(_refused(quantizer, what))
    return Scaled(quantizer, float(fit.inv), float(fit.scale))


def used(layer: nn.Module, quantizer: Quantizer, x: Tensor, what: str) -> Scaled:
    """The factors with which a layer has just quantised its output gradient `x`."""
    check(quantizer, what)
    if not isinstance(quantizer.scale, StatefulScale):
        return fitted(quantizer, x, what)
    assert isinstance(layer, QuantizedLayer)
    rule = layer.nybble_spec.grad_scale
    assert rule is not None  # a slot has a scale with a state
    state = layer.nybble_grad_scale
    # 0: every gradient so far was zero; a layer multiplies it by 1 then.
    inv, scale = rule[0].factors(torch.where(state > 0, state, torch.ones_like(state)), rule[1])
    return Scaled(quantizer, float(inv), float(scale))


def check(quantizer: Quantizer, what: str) -> None:
    """UserError where a quantizer has not one signed grid of few levels. What a scale finds in a
    tensor may still be more than one number: `fitted` refuses that."""
    if quantizer.format.bits > MOST_BITS:
        raise UserError(
            f"{what} is {quantizer.format.name}, whose levels are too many to draw; choose a layer "
            f"or a quantizer of at most {MOST_BITS} bits."
        )
    if not quantizer.format.signed:
        raise UserError(f"{what} is {quantizer.format.name}, but gradients have both signs.")
    one = getattr(quantizer.scale, "granularity", "tensor") == "tensor"
    if not one or is_composite(quantizer):
        raise UserError(_refused(quantizer, what))


def grid(scaled: Scaled, x: Tensor, divide: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """The grid as a dict: levels, shares, and what is told of them; see the module.

    divide: a loss scale that `x` still has and the axis should not.
    seed: of the random bits of stochastic rounding, which are this function's own.
    """
    quantizer = scaled.quantizer
    rounding = quantizer.rounding or quantizer.format.default_rounding
    random = None
    if isinstance(rounding, Stochastic):
        random = random24(x.shape, RandomKey(seed=seed), x.device)
    y = x.detach().float() * scaled.inv
    codes = quantizer.format.encode(y, rounding, random)
    values = quantizer.format.decode(codes)
    low, high = value_range(quantizer.format)
    top = torch.where(y < 0, -low, high)
    count = max(x.numel(), 1)
    lost = int(((values == 0) & (x != 0)).sum())
    beyond = int(((values.abs() >= top) & (y.abs() > values.abs())).sum())
    positive = sorted({v for v in quantizer.format.values() if 0.0 < v <= high})
    magnitudes = values.abs()
    levels = [v * scaled.scale / divide for v in positive]
    return {
        "quantizer": quantizer.short,
        "format": quantizer.format.name,
        "scale": scaled.scale / divide,
        "levels": levels,
        "log2_levels": [log2(v) for v in levels],
        "shares": [short(float((magnitudes == v).sum()) / count) for v in positive],
        "underflow": short(lost / count),
        "saturation": short(beyond / count),
        "codes_used": len(torch.unique(values)),
    }


def _refused(quantizer: Quantizer, what: str) -> str:
    return (
        f"{what} is {quantizer.short}, whose scale is not one number a tensor, so there is no one "
        "grid to draw; choose one such as fp4_radix4:gradscale or int4:absmax, or the recipe "
        "sun2020."
    )
