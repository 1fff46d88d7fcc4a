"""The phases of a converted model: `start_tail` for loops of your own.

    model = nybble.convert(model, "luq:tail=0.1")
    for step in range(total):
        if step == nybble.get_recipe("luq:tail=0.1").tail.begins(total):
            nybble.start_tail(model)

The layers change what they do, nothing else: weights, statistics, optimizer and references stay.
`nybble train` does this by itself (training/phases.py), also where a run is resumed.

Not done here: the way back, which no recipe asks for; convert again instead.
"""

from __future__ import annotations

from torch import nn

from nybble.errors import UserError
from nybble.nn.registry import quantized_layers

__all__ = ["in_tail", "start_tail"]


def start_tail(model: nn.Module) -> nn.Module:
    """Begin the last phase of the recipe in all layers, in place; returns the same module.

    Raises UserError for a model whose recipe has no tail. A tail that has begun goes on.

    >>> import nybble
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    >>> model = start_tail(nybble.convert(model, "luq:tail=0.1"))
    >>> model[2].nybble_spec.output_input.short, model[2].nybble_spec.output_weight.short
    ('fp16·unit', 'int4_sym·sawb(ibm15)')
    """
    layers = [layer for _, layer in quantized_layers(model)]
    if not any(layer.nybble_tail is not None for layer in layers):
        raise UserError(
            "start_tail: no layer of this model has a tail: convert it with a recipe that has one,"
            " such as luq:tail=0.1"
        )
    for layer in layers:
        if layer.nybble_tail is not None:
            layer.become_(layer.nybble_tail)
    return model


def in_tail(model: nn.Module) -> bool:
    """Whether the tail has begun.

    >>> import nybble
    >>> in_tail(nybble.convert(nn.Sequential(nn.Linear(4, 8)), "luq:tail=0.1"))
    False
    """
    return any(
        layer.nybble_tail is not None and layer.nybble_spec == layer.nybble_tail
        for _, layer in quantized_layers(model)
    )
