"""More bits for a layer that is in trouble: 4 bits become 8, 8 bits become 16.

    raise_precision(layer)   the layer's six slots become those of the recipe `int8`, then of `fp16`

The class, the parameters and the state stay; the layer does something else from its next forward
on, as with a recipe's tail. A PACT clip that the new slots do not use stays in the state_dict.

Not done here: the way back.
"""

from __future__ import annotations

from typing import Final

from nybble.nn.state import QuantizedLayer
from nybble.ops.spec import SLOTS, LayerSpec
from nybble.recipes import get_recipe

__all__ = ["STEPS", "bits_of", "raise_precision", "set_precision"]

STEPS: Final = ("int8", "fp16")
"""Recipes whose plain layer is taken, from few bits to many."""


def bits_of(spec: LayerSpec) -> int:
    """The fewest bits of an operand; 32 where nothing is quantised.

    >>> bits_of(get_recipe("sun2020").spec), bits_of(get_recipe("fp16").spec)
    (4, 16)
    """
    slots = [spec.slot(name) for name in SLOTS]
    return min((32 if slot is None else slot.format.bits for slot in slots), default=32)


def raise_precision(layer: QuantizedLayer) -> str | None:
    """Give the layer the next wider operands; the recipe that they are of, None where it has the
    widest already.

    >>> import nybble
    >>> from torch import nn
    >>> layer = nybble.convert(nn.Sequential(nn.Linear(4, 4)), "sun2020:first_last=int4")[0]
    >>> raise_precision(layer), raise_precision(layer), raise_precision(layer)
    ('int8', 'fp16', None)
    """
    now = bits_of(layer.nybble_spec)
    for name in STEPS:
        if bits_of(get_recipe(name).spec) > now:
            set_precision(layer, name)
            return name
    return None


def set_precision(layer: QuantizedLayer, name: str) -> None:
    """Give the layer the operands of a recipe of `STEPS`; a tail of the recipe it had is over."""
    layer.become_(get_recipe(name).spec)
    layer.nybble_tail = None
