"""Three-dimensional convolutions of codes: 2-d ones whose channels hold the depth taps as well.

    x'[n, od, h, w, (c, kd)] = x[n, c, od s - p + kd d, h, w]        integer 0 where it is outside
    output, grad_weight      = the 2-d Gemms of x' and w[o, kh, kw, (c, kd)]
    g'[n, d, h, w, (o, kd)]  = g[n, o, (d + p - kd dil) / s, h, w]   0 where it is no whole number
    grad_input               = the 2-d Gemm of g' and w[(o, kd), kh, kw, c]

So each result is one exact sum over the whole contraction, as in `conv.py`, and no kernel is new:
only codes are copied, half a byte each, once for every depth tap. Where a format has no code of the
integer 0 (IBM's 16 levels), codes take a byte and one more code stands for it.

Not done here: kernels that read the depth taps in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from nybble.errors import NybbleError
from nybble.ops.geometry import Geometry
from nybble.ops.native import convolution
from nybble.ops.native.codes import Codes
from nybble.ops.native.layout import gathered
from nybble.quantizers.packing import pack_codes

__all__ = ["Volume", "grad_input", "grad_weight", "output", "wide_table"]


@dataclass(frozen=True)
class Volume:
    """Codes of `bits` bits of a 5-d tensor, uint8, one a byte, in torch's order; table, low and
    high as `Codes` has them."""

    codes: Tensor
    bits: int
    table: Tensor
    low: int
    high: int

    @property
    def nothing(self) -> int | None:
        """The code of the integer 0, None where the table has none."""
        return _nothing(self.table, self.bits)

    def planes(self, index: Tensor) -> Codes:
        """Codes [N R, H, W, C T] for a table [R, T] of depths, the depth -1 being 0."""
        n, c, _, h, w = self.codes.shape
        rows, taps = index.shape
        nothing = self.nothing
        padded = F.pad(self.codes, [0, 0, 0, 0, 0, 1], value=16 if nothing is None else nothing)
        found = padded[:, :, index]  # -1 is the plane that was added
        found = found.permute(0, 2, 4, 5, 1, 3).reshape(n * rows, h, w, c * taps)
        return self._pack(found, extended=nothing is None)

    def images(self) -> Codes:
        """[N D, H, W, C]."""
        n, c, d, h, w = self.codes.shape
        return self._pack(self.codes.permute(0, 2, 3, 4, 1).reshape(n * d, h, w, c))

    def kernel(self, *, rows: bool) -> Codes:
        """[O, kh, kw, (C, kd)], or with `rows` [(O, kd), kh, kw, C]."""
        o, c, d, h, w = self.codes.shape
        if rows:
            return self._pack(self.codes.permute(0, 2, 3, 4, 1).reshape(o * d, h, w, c))
        return self._pack(self.codes.permute(0, 3, 4, 1, 2).reshape(o, h, w, c * d))

    def _pack(self, codes: Tensor, *, extended: bool = False) -> Codes:
        shape = tuple(codes.shape)
        if not extended:
            packed, width = pack_codes(codes.contiguous(), self.bits), 4 if self.bits <= 4 else 8
            return Codes(packed, shape, self.table, self.low, self.high, width)
        if self.bits > 4:
            raise NybbleError(f"codes of {self.bits} bits without one of 0, and with none to spare")
        flat = codes.contiguous().view(-1)
        return Codes(flat, shape, wide_table(self.table), self.low, self.high, 8)


def output(
    x: Volume,
    w: Volume,
    geometry: Geometry,
    scale_x: Tensor | None,
    scale_w: Tensor | None,
    bias: Tensor | None,
    memory: Tensor | None = None,
) -> Tensor:
    """float32 [N, O, OD, OH, OW], in `memory` where that is as large."""
    n = x.codes.shape[0]
    index = _taps(geometry, x.codes.shape[2], w.codes.shape[2])
    y = convolution.output(
        x.planes(index), w.kernel(rows=False), _flat(geometry), scale_x, scale_w, bias
    )
    out = y.view(n, index.shape[0], *y.shape[1:])
    return gathered(out.permute(0, 4, 1, 2, 3), memory)


def grad_input(
    g: Volume,
    w: Volume,
    geometry: Geometry,
    x_shape: tuple[int, ...],
    scale_g: Tensor | None,
    scale_w: Tensor | None,
    memory: Tensor | None = None,
) -> Tensor:
    """float32, in `x_shape` [N, C, D, H, W], in `memory` where that is as large."""
    n, c, d, h, width = x_shape
    index = _sources(geometry, d, g.codes.shape[2], w.codes.shape[2])
    dx = convolution.grad_input(
        g.planes(index),
        w.kernel(rows=True),
        _flat(geometry),
        (n * d, h, width, c),
        scale_g,
        scale_w,
    )
    return gathered(dx.view(n, d, h, width, c).permute(0, 4, 1, 2, 3), memory)


def grad_weight(
    g: Volume,
    x: Volume,
    geometry: Geometry,
    w_shape: tuple[int, ...],
    scale_g: Tensor | None,
    scale_x: Tensor | None,
) -> Tensor:
    """float32, in `w_shape` [O, C / groups, kd, kh, kw]."""
    o, c, d, h, width = w_shape
    planes = x.planes(_taps(geometry, x.codes.shape[2], d))
    dw = convolution.grad_weight(
        g.images(), planes, _flat(geometry), (o, h, width, c * d), scale_g, scale_x
    )
    return gathered(dw.view(o, h, width, c, d).permute(0, 3, 4, 1, 2), lasting=True)


@lru_cache(maxsize=64)
def wide_table(table: Tensor) -> Tensor:
    """A table of 16 integers as one of 256: codes beyond 15 are the integer 0.

    >>> wide_table(torch.arange(16, dtype=torch.int16))[14:18].tolist()
    [14, 15, 0, 0]
    """
    # By identity: tables are few, and kept (codes.py).
    return F.pad(table, [0, 240])


@lru_cache(maxsize=256)
def _nothing(table: Tensor, bits: int) -> int | None:
    codes = (table[: 1 << bits] == 0).nonzero()  # by identity, as above
    return int(codes[0]) if codes.numel() else None


def _flat(geometry: Geometry) -> Geometry:
    return Geometry(
        "conv2d", geometry.stride[1:], geometry.padding[1:], geometry.dilation[1:], geometry.groups
    )


def _taps(geometry: Geometry, depth: int, kernel: int) -> Tensor:
    """[OD, kd]: which depth of the input each tap of an output reads, -1 outside.

    >>> _taps(Geometry("conv3d", (2, 1, 1), (1, 0, 0), (1, 1, 1)), 3, 3).tolist()
    [[-1, 0, 1], [1, 2, -1]]
    """
    stride, padding, dilation = geometry.stride[0], geometry.padding[0], geometry.dilation[0]
    count = (depth + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if count < 1:
        raise NybbleError(f"convolution: {kernel} taps in depth exceed the padded input of {depth}")
    at = torch.arange(count).mul_(stride).unsqueeze(1) - padding
    at = at + torch.arange(kernel).mul_(dilation)
    return at.masked_fill_((at < 0) | (at >= depth), -1)


def _sources(geometry: Geometry, depth: int, out: int, kernel: int) -> Tensor:
    """[D, kd]: which depth of the output each tap of an input went to, -1 for none.

    >>> _sources(Geometry("conv3d", (2, 1, 1), (1, 0, 0), (1, 1, 1)), 3, 2, 3).tolist()
    [[-1, 0, -1], [1, -1, 0], [-1, 1, -1]]
    """
    stride, padding, dilation = geometry.stride[0], geometry.padding[0], geometry.dilation[0]
    at = torch.arange(depth).add_(padding).unsqueeze(1) - torch.arange(kernel).mul_(dilation)
    to = at.div(stride, rounding_mode="floor")
    return to.masked_fill_((at % stride != 0) | (to < 0) | (to >= out), -1)
