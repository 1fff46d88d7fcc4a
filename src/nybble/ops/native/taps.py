"""The control variate of a convolution on the compiled backend: ops/reference/taps.py, natively.

    image_error     (sum over the images of z) - (sums of its rounded integers) * scale
    tap_sums        the sums of such a plane over what each tap of a 2-d kernel sees

Both give the bits of the reference's expressions; csrc/lines/images.hpp has the order of the adds.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.ops.geometry import Geometry
from nybble.ops.native.buffers import own, require, span, threads, vector
from nybble.ops.reference.taps import interval

__all__ = ["image_error", "tap_sums"]


def image_error(
    x: Tensor, channels_last: bool, factors: Tensor | None, sums: Tensor, scale: Tensor
) -> Tensor:
    """float32 [C * H * W], in the order of one image of `x` [N, C, H, W] in memory.

    x is dense, in the order that `channels_last` says. factors: float32 [N], what each image is
    multiplied by; None for ones. sums: int64 [C * H * W] of the rounded integers, in the same
    order. scale: float32 [C].

    >>> x = torch.tensor([1.0, 2.0, 5.0, 8.0]).view(2, 1, 1, 2)
    >>> image_error(x, False, None, torch.tensor([3, 4]), torch.tensor([2.0]))
    tensor([0., 2.])
    """
    n, c, h, w = x.shape
    out = torch.empty(c * h * w, dtype=torch.float32)
    if sums.dtype != torch.int64 or sums.numel() != out.numel() or not sums.is_contiguous():
        raise NybbleError(f"image_error: {out.numel()} sums are needed, got {tuple(sums.shape)}")
    require().image_error(
        span(x, torch.float32, "x"),
        n,
        c,
        h * w,
        channels_last,
        vector(factors, n, "factors"),
        own(sums),
        vector(scale, c, "scale"),
        own(out),
        threads(),
    )
    return out


def tap_sums(
    plane: Tensor,
    shape: tuple[int, int, int],
    channels_last: bool,
    geometry: Geometry,
    x_size: tuple[int, int],
    taps: tuple[int, int],
) -> Tensor:
    """float32 [C, kh, kw] of a plane of `shape` (C, H, W), flat and in the order of its memory.

    >>> geometry = Geometry("conv2d", (1, 1), (1, 1), (1, 1))
    >>> tap_sums(torch.ones(4), (1, 2, 2), False, geometry, (2, 2), (3, 3)).tolist()
    [[[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]]
    """
    c, h, w = shape
    out = torch.empty((c, *taps), dtype=torch.float32)
    require().tap_sums(
        span(plane, torch.float32, "plane"),
        c,
        h,
        w,
        channels_last,
        _seen(geometry, 0, x_size[0], h, taps[0]),
        _seen(geometry, 1, x_size[1], w, taps[1]),
        own(out),
        threads(),
    )
    return out


@lru_cache(maxsize=1024)
def _seen(geometry: Geometry, dim: int, size: int, out: int, taps: int) -> list[tuple[int, int]]:
    stride, padding = geometry.stride[dim], geometry.padding[dim]
    dilation = geometry.dilation[dim]
    return [interval(tap, size, out, stride, padding, dilation) for tap in range(taps)]
