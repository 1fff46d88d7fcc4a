"""Layers whose sum is shorter than a block of their scales: then a scale serves fewer elements.

A block runs along the sum of its Gemm, which in a convolution is the channels of a group (a tap of
the kernel is a matrix product) and, in grad_weight, the batch. A depthwise convolution sums one
channel, so each of its weights has a scale of its own and nearly float32's precision: not what the
recipe's bits say, nor what hardware with blocks could run. `nybble.summary` names such layers.

Not done here: grad_weight, whose sum is as long as the batch, a length no layer knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import nn
from torch.nn.modules.conv import _ConvNd

from nybble.nn.registry import quantized_layers
from nybble.quantizers import AbsMax, Quantizer

__all__ = ["short_blocks"]

_WEIGHTS = {"output": "output_weight", "grad_input": "grad_input_weight"}


def short_blocks(model: nn.Module) -> tuple[tuple[str, str], ...]:
    """(layer, what is short there) in the order of the model.

    >>> import nybble
    >>> layers = nn.Sequential(nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 32, 1))
    >>> short_blocks(nybble.convert(layers, "ufp4:first_last=same"))
    (('0', 'blocks of 1 element, not 16, in output and grad_input'),)
    """
    found = []
    for name, layer in quantized_layers(model):
        if isinstance(layer, nn.Linear | _ConvNd):
            lengths = dict(_lengths(layer))
            sizes = dict.fromkeys(lengths.values())
            for size in sizes:
                gemms = " and ".join(gemm for gemm, found in lengths.items() if found == size)
                plural = "" if size[0] == 1 else "s"
                text = f"blocks of {size[0]} element{plural}, not {size[1]}, in {gemms}"
                found.append((name, text))
    return tuple(found)


def _lengths(layer: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    """(Gemm, (length of its sum, the block)) where the former is smaller."""
    spec, weight = layer._resolved_spec(), layer.weight
    transposed = getattr(layer, "transposed", False)
    for gemm, slot_name in _WEIGHTS.items():
        slot = spec.slot(slot_name)
        if not isinstance(slot, Quantizer) or getattr(slot.scale, "granularity", "") != "block":
            continue
        # A weight [O, C / groups, ...], or [C, O / groups, ...], is cut along its first dimension.
        dim = int((gemm == "output") != transposed)
        length = weight.shape[dim] // (getattr(layer, "groups", 1) if dim == 0 else 1)
        block = cast("AbsMax", slot.scale).block
        if length < block:
            yield gemm, (length, block)
