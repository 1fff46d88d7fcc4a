"""The operands of the two backward Gemms, where they are more than one each.

    each, one,  one operand a Gemm; with samples = n, grad_weight has n, rounded independently
    shared
    mean        both Gemms have both operands: the grids of two-phase rounding, say
    random      one operand a Gemm, of the slot that one random bit chooses (`drawn`)

    result = fl(fl(fl(p_1 + p_2) + ..) * fl(1 / n))        p_i: the products, in this order

The first sample of grad_weight is that of grad_input where `gradient_pair` is "one": then n
samples are n roundings in all, as in LUQ (ICLR 2023). Where it is "shared", the first samples of
both have the same random bits, each with a scale of its own. Sample i > 0 has bits of its own.

Not done here: the quantising and the products; each backend brings its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from torch import Tensor

from nybble.ops.reference.operand import GRAD_INPUT_GRAD, GRAD_WEIGHT_GRAD, PAIR, SAMPLE, Draw
from nybble.ops.spec import LayerSpec, Slot
from nybble.quantizers import random24

__all__ = ["both_ways", "drawn", "gradient_key", "gradient_operands", "mean_"]

Entry = tuple[Any, Slot]


def gradient_key(spec: LayerSpec, index: int, sample: int) -> int:
    """The operand number whose random bits round the gradient for Gemm `index` (0: grad_input).

    >>> gradient_key(LayerSpec(), 1, 0) == GRAD_WEIGHT_GRAD
    True
    >>> gradient_key(LayerSpec(gradient_pair="one"), 1, 0) == GRAD_INPUT_GRAD
    True
    """
    if index == 0 or (spec.gradient_pair in ("one", "shared") and sample == 0):
        return GRAD_INPUT_GRAD
    return GRAD_WEIGHT_GRAD + SAMPLE * sample


def gradient_operands(
    quantize: Callable[..., tuple[Any, Any, Tensor, Tensor]],
    grad: Tensor,
    spec: LayerSpec,
    state: Tensor,
    draw: Draw,
    wanted: tuple[bool, bool],
) -> tuple[list[Entry], list[Entry], Tensor, Tensor]:
    """([(operand, slot)] of grad_input, the same of grad_weight, amax, scale used).

    `quantize`: a backend's `quantize_gradient`.
    """
    slots = (spec.grad_input_grad, spec.grad_weight_grad)
    if spec.gradient_pair == "mean" and any(wanted):
        first, second, amax, scale = quantize(grad, spec, state, draw, (True, True))
        both = [(first, slots[0]), (second, slots[1])]
        return both if wanted[0] else [], both if wanted[1] else [], amax, scale
    first, second, amax, scale = quantize(grad, spec, state, draw, wanted)
    for_input = [(first, slots[0])] if first is not None else []
    for_weight = [(second, slots[1])] if second is not None else []
    if for_weight:
        for sample in range(1, spec.samples):
            more = quantize(grad, spec, state, draw, (False, True), sample=sample)[1]
            for_weight.append((more, slots[1]))
    return for_input, for_weight, amax, scale


def mean_(products: list[Tensor]) -> Tensor:
    """The mean of the products, in the memory of the first.

    >>> import torch
    >>> mean_([torch.tensor([1.0]), torch.tensor([4.0])])
    tensor([2.5000])
    """
    total = products[0]
    for product in products[1:]:
        total.add_(product)
    return total if len(products) == 1 else total.mul_(1.0 / len(products))


def drawn(spec: LayerSpec, draw: Draw) -> LayerSpec:
    """`spec` with a random pair decided for this layer and call.

    >>> drawn(LayerSpec(), Draw(0, 0, 0)) == LayerSpec()
    True
    """
    if spec.gradient_pair != "random":
        return spec
    first, second = (int(bits) >> 23 for bits in random24((2,), draw.key(PAIR)))
    return _chosen(spec, first, second)


def both_ways(spec: LayerSpec) -> tuple[LayerSpec, ...]:
    """The specs whose Gemms a backward pass may come to: one, or those of both slots.

    >>> len(both_ways(LayerSpec()))
    1
    """
    if spec.gradient_pair not in ("mean", "random"):
        return (spec,)
    return _chosen(spec, 0, 0), _chosen(spec, 1, 1)


@lru_cache(maxsize=1024)
def _chosen(spec: LayerSpec, first: int, second: int) -> LayerSpec:
    slots = (spec.grad_input_grad, spec.grad_weight_grad)
    return replace(
        spec,
        grad_input_grad=slots[first],
        grad_weight_grad=slots[second],
        gradient_pair="each",
    )
