"""Where an operand stands in a Gemm: which of its dimensions is summed, and which one is free.

    Gemm          first operand          second operand          (contraction, free)
    output        input   (1, 0)         weight  (1, 0)          a transposed convolution: (0, 1)
    grad_input    grad    (1, 0)         weight  (0, 1)          a transposed convolution: (1, 0)
    grad_weight   grad    (0, 1)         input   (0, 1)

These are a matrix's dimensions and a convolution's alike: a tap of a kernel is a matrix product, so
channels are summed in output and grad_input and the batch in grad_weight; blocks of a scale and of
a transform run along the same dimension for every tap, and commute with im2col. In a batch of
matrix products the last dimension is summed in output, and every line along the sum is free. A
depthwise convolution sums one channel, and one image makes a batch of one: blocks are then as short
(nn/short_blocks.py).

`groups`: into how many independent parts the groups of a convolution cut the contraction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from nybble.ops.geometry import Geometry
from nybble.ops.reference.operand import GRAD_INPUT_GRAD, GRAD_WEIGHT_GRAD, INPUT

__all__ = ["GemmName", "Place", "places"]

GemmName = Literal["output", "grad_input", "grad_weight"]

FIRST_SLOT: dict[GemmName, int] = {
    "output": INPUT,
    "grad_input": GRAD_INPUT_GRAD,
    "grad_weight": GRAD_WEIGHT_GRAD,
}
"""The slot whose number a Gemm's own random bits carry: both operands turn by the same signs."""


@dataclass(frozen=True)
class Place:
    """See the module. free: None where every line along the contraction is."""

    gemm: GemmName
    contraction: int
    free: int | None
    groups: int = 1


@lru_cache(maxsize=512)
def places(geometry: Geometry, gemm: GemmName) -> tuple[Place, Place]:
    """The places of both operands.

    >>> places(Geometry("linear"), "grad_input")[1]
    Place(gemm='grad_input', contraction=0, free=1, groups=1)
    """
    if geometry.kind == "bmm":
        first, second = {"output": (2, 2), "grad_input": (2, 1), "grad_weight": (1, 1)}[gemm]
        return Place(gemm, first, None), Place(gemm, second, None)
    if gemm == "grad_weight":
        return Place(gemm, 0, 1), Place(gemm, 0, 1)
    groups = geometry.groups
    # A weight [O, C / groups, ...] is cut along O, not along C.
    along_channels = (gemm == "output") == (geometry.mirror is None)
    weight = Place(gemm, 1, 0) if along_channels else Place(gemm, 0, 1, groups)
    return Place(gemm, 1, 0, groups), weight
