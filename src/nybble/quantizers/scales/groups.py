"""Groups of elements that share a scale, as rows of a matrix: what a statistic reads.

    "tensor"    one row of all elements
    "channel"   a row for each index of dimension `axis`
    "row"       a row for each line along dimension `axis`, by default the last (torchao's
                per-token)
    "free"      what only a Gemm knows: one scale for each index of the dimension of its operand
                that is not summed over. `along` puts "channel" and that axis in its place, or
                "row" in a batch of products, where each line of the sum has a scale.

Within a row the elements keep the order in which they lie in memory (layout.py): a sum of a
channels-last tensor is then the same sum in both backends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.quantizers.layout import in_memory_order, is_channels_last
from nybble.quantizers.scales.arithmetic import MIN_SCALE, scale_of

if TYPE_CHECKING:
    from nybble.formats import Format
    from nybble.quantizers.scales.fit import ScaleConfig

__all__ = [
    "along",
    "block_rows",
    "check_groups",
    "largest_scale",
    "rows_of",
    "scale_layout",
    "tile_rows",
]

GROUPS = ("tensor", "channel", "row", "free")

S = TypeVar("S", bound="ScaleConfig")


def check_groups(name: str, granularity: str, axis: int | None) -> None:
    """Raise UserError unless `granularity` is one of this module's and may have that axis.

    >>> check_groups("AbsMax", "channel", 1)
    """
    if granularity not in GROUPS:
        raise UserError(
            f"{name}: granularity must be one of {', '.join(GROUPS)}, got {granularity!r}"
        )
    if axis is not None and granularity not in ("channel", "row"):
        raise UserError(f"{name}: granularity {granularity!r} takes no axis, got {axis}")


def along(scale: S, granularity: str, contraction: int, free: int | None) -> S:
    """`ScaleConfig.along` of a scale with the fields `granularity` and `axis`. Tiles are those of a
    weight, whose first two dimensions are a matrix; in a batch of products they are blocks.

    >>> from nybble.quantizers import AbsMax
    >>> [along(AbsMax(g), g, 1, free).short for g, free in (("free", 0), ("free", None))]
    ['absmax(channel)', 'absmax(row, axis 1)']
    >>> along(AbsMax("block", block=16), "block", 0, 1).short
    'absmax(block16, axis 0)'
    """
    changes: dict[str, Any] = {}
    if granularity == "block":
        changes = {"axis": contraction}
    elif granularity == "tile" and free is None:
        changes = {"granularity": "block", "axis": contraction}
    elif granularity == "free" and free is None:
        changes = {"granularity": "row", "axis": contraction}
    elif granularity == "free":
        changes = {"granularity": "channel", "axis": free}
    return replace(scale, **changes) if changes else scale  # type: ignore[type-var]


def scale_layout(
    name: str, x: Tensor, granularity: str, axis: int | None
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The shape of the scales of `x`, and what a `Fit` is told about them.

    >>> scale_layout("AbsMax", torch.zeros(2, 3), "channel", 1)
    ((1, 3), {'granularity': 'channel', 'axis': 1})
    """
    if granularity == "tensor":
        return (), {}
    if granularity == "free":
        raise UserError(
            f"{name}: granularity 'free' is for an operand of a layer, which knows the dimension "
            "that is not summed over; use granularity='channel' with that axis"
        )
    if x.dim() == 0:
        raise UserError(f"{name}: granularity {granularity!r} needs at least 1 dimension")
    default = -1 if granularity == "row" else 0
    chosen = default if axis is None else axis
    if not -x.dim() <= chosen < x.dim():
        raise UserError(f"{name}: axis {chosen} of a tensor with {x.dim()} dimensions")
    chosen %= x.dim()
    if granularity == "row":
        # Of a matrix, the scales of the lines along one dimension vary along the other.
        place = 1 - chosen if x.dim() == 2 else None
        return (*x.shape[:chosen], 1, *x.shape[chosen + 1 :]), {"granularity": "row", "axis": place}
    shape = tuple(size if d == chosen else 1 for d, size in enumerate(x.shape))
    return shape, {"granularity": "channel", "axis": chosen}


def largest_scale(top: Tensor, format: Format) -> Tensor:
    """`scale_of` the largest magnitudes, but 2**-126 for an all-zero group of a format without a
    zero, whose levels next to 0 would otherwise make ones of it.

    >>> from nybble.formats import get_format
    >>> largest_scale(torch.tensor([0.0, 40.0]), get_format("w20")).tolist() == [2.0**-126, 2.0]
    True
    >>> largest_scale(torch.tensor([0.0, 14.0]), get_format("int4_sym"))
    tensor([1., 2.])
    """
    scale = torch.as_tensor(scale_of(top, format.max_value))
    return scale if 0.0 in format.values() else torch.where(top == 0, MIN_SCALE, scale)


def rows_of(x: Tensor, granularity: str, axis: int | None) -> Tensor:
    """The groups of `x` as a matrix [groups, elements]; arguments as in `scale_layout`.

    >>> rows_of(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "channel", 1)
    tensor([[1., 3.],
            [2., 4.]])
    """
    if granularity == "tensor":
        return in_memory_order(x).reshape(1, x.numel())
    if granularity == "row":
        lines = x.movedim(-1 if axis is None else axis, -1)
        return lines.reshape(math.prod(lines.shape[:-1]), lines.shape[-1])
    place = (axis or 0) % x.dim()
    if is_channels_last(x):
        place = (0, 3, 1, 2)[place]
    moved = in_memory_order(x).movedim(place, 0)
    return moved.reshape(moved.shape[0], math.prod(moved.shape[1:]))


def block_rows(
    x: Tensor, axis: int, block: int, statistic: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """The blocks of `block` elements along `axis` as a matrix, a short last one filled up with 0;
    or, with a `statistic` of its rows, one number for each block, as a block scale lies.

    >>> block_rows(torch.tensor([1.0, 2.0, 3.0]), 0, 2)
    tensor([[1., 2.],
            [3., 0.]])
    >>> block_rows(torch.tensor([1.0, 2.0, 3.0]), 0, 2, lambda rows: rows.sum(1))
    tensor([3., 3.])
    """
    size = x.shape[axis]
    count = -(-size // block)
    lines = x.movedim(axis, -1)
    if count * block > size:
        lines = torch.nn.functional.pad(lines, (0, count * block - size))
    rows = lines.reshape(math.prod(lines.shape[:-1]) * count, block)
    if statistic is None:
        return rows
    numbers = statistic(rows) if rows.numel() else rows.new_zeros(rows.shape[0])
    return numbers.view(*lines.shape[:-1], count).movedim(-1, axis)


def tile_rows(x: Tensor, block: int, statistic: Callable[[Tensor], Tensor]) -> Tensor:
    """A statistic of every tile, block x block elements of the first two dimensions, of which it
    sees one row: the tile's rows one after the other, with 0 beyond the tensor.

    >>> tile_rows(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), 2, lambda rows: rows.sum(1))
    tensor([[12.,  9.]])
    """
    down, across = (-(-size // block) for size in x.shape[:2])
    rest = x.shape[2:]
    missing = (down * block - x.shape[0], across * block - x.shape[1])
    if any(missing):
        pads = [0, 0] * len(rest) + [0, missing[1], 0, missing[0]]
        x = torch.nn.functional.pad(x, pads)
    tiles = x.unflatten(1, (across, block)).unflatten(0, (down, block))
    tiles = tiles.movedim((1, 3), (-2, -1))  # [down, across, rest, block, block]
    rows = tiles.reshape(down * across * math.prod(rest), block * block)
    numbers = statistic(rows) if rows.numel() else rows.new_zeros(rows.shape[0])
    return numbers.view(down, across, *rest)
