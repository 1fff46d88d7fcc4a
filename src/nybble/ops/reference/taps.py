"""Sums of a plane over what each tap of a kernel sees, without a convolution.

Tap i of a dimension multiplies output position y with input position y stride + i dilation - pad;
where that is padding, it multiplies zero. What it sees is one interval [first, last) of y, so

    sums[o, i, j] = sum of plane[o, y, x] over first_i <= y < last_i, first_j <= x < last_j

is a difference of running sums, one dimension after the other: float64 from the first addition to
the last, each line in ascending order, then one rounding to float32.

Tap i of a transposed convolution multiplies input position y with output position
y stride + i dilation - pad. Of the output's plane it sees every stride-th line; sums[o, i, j] is
the last of the running sums of those, made in the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nybble.ops.geometry import Geometry

__all__ = ["interval", "spread_tap_sums", "sum_of_images", "tap_sums"]


def interval(
    tap: int, size: int, out: int, stride: int, padding: int, dilation: int
) -> tuple[int, int]:
    """The output positions that a tap sees.

    >>> [interval(tap, 5, 5, 1, 1, 1) for tap in range(3)]
    [(1, 5), (0, 5), (0, 4)]
    """
    shift = tap * dilation - padding
    first = min(max(-(shift // stride), 0), out)
    last = min(max((size - 1 - shift) // stride + 1, first), out)
    return first, last


def tap_sums(
    plane: Tensor, geometry: Geometry, x_shape: tuple[int, ...], taps: tuple[int, ...]
) -> Tensor:
    """[O, taps] of a plane [O, output positions]; `x_shape`: the input's [N, C, positions].

    >>> geometry = Geometry("conv2d", (1, 1), (1, 1), (1, 1))
    >>> tap_sums(torch.ones(1, 2, 2), geometry, (1, 1, 2, 2), (3, 3)).tolist()
    [[[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]]
    """
    found = plane.to(torch.float64)
    for i, count in enumerate(taps):
        dim, out = 1 + i, plane.shape[1 + i]
        zero = found.new_zeros([1 if d == dim else s for d, s in enumerate(found.shape)])
        running = torch.cat([zero, found.cumsum(dim)], dim)
        ends = [
            interval(
                tap,
                x_shape[2 + i],
                out,
                geometry.stride[i],
                geometry.padding[i],
                geometry.dilation[i],
            )
            for tap in range(count)
        ]
        first, last = torch.tensor(ends, device=plane.device).unbind(1)
        found = running.index_select(dim, last) - running.index_select(dim, first)
    return found.to(torch.float32)


def spread_tap_sums(
    plane: Tensor, geometry: Geometry, x_shape: tuple[int, ...], taps: tuple[int, ...]
) -> Tensor:
    """`tap_sums` of a transposed convolution's plane [O, output positions].

    >>> geometry = Geometry("conv_transpose2d", (1, 2), (0, 1), (1, 1))
    >>> plane = torch.tensor([[[1.0, 2.0, 4.0]]])
    >>> spread_tap_sums(plane, geometry, (1, 1, 1, 2), (1, 3)).tolist()
    [[[2.0, 5.0, 2.0]]]
    """
    found = plane.to(torch.float64)
    for i, count in enumerate(taps):
        dim, out = 1 + i, plane.shape[1 + i]
        each = []
        for tap in range(count):
            shift = tap * geometry.dilation[i] - geometry.padding[i]
            seen = [y * geometry.stride[i] + shift for y in range(x_shape[2 + i])]
            lines = torch.tensor([y for y in seen if 0 <= y < out], dtype=torch.int64)
            zero = found.new_zeros([1 if d == dim else s for d, s in enumerate(found.shape)])
            some = torch.cat([zero, found.index_select(dim, lines.to(plane.device))], dim)
            each.append(some.cumsum(dim).select(dim, -1))
        found = torch.stack(each, dim)
    return found.to(torch.float32)


def sum_of_images(z: Tensor) -> Tensor:
    """The sum over the first dimension, image after image, one float32 add each.

    >>> sum_of_images(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([4., 6.])
    """
    if not len(z):
        return z.new_zeros(z.shape[1:])
    total = z[0].clone()
    for image in z[1:]:
        total += image
    return total
