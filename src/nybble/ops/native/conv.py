"""The three Gemms of a convolution on packed codes (csrc/conv/): images NHWC, weights OHWI.

    output       y[n, oh, ow, o]  = float32(sum of x w) * (s_x * s_w[o]) + bias[o]
    grad_input   dx[n, h, w, c]   = float32(sum of g w) * (s_g * s_w[c])
    grad_weight  dw[o, kh, kw, c] = float32(sum of g x) * (s_g[o] * s_x[c])

Sums are exact integers; every float operation is one float32 rounding (ops/exactness.py). A scale
is one number, or one an index as above (`[c]` only without groups), or None for 1. Results are
contiguous in the order that the names of their dimensions say. A 1-d convolution is the case of
one line of pixels.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.ops.geometry import Geometry
from nybble.ops.native import core
from nybble.ops.native.buffers import span, threads, vector
from nybble.ops.native.codes import Codes
from nybble.ops.native.pool import result

__all__ = ["LIMIT", "conv_grad_input", "conv_grad_weight", "conv_output"]

LIMIT = 2**31 - 1
"""The largest magnitude that an int32 sum may reach; tests lower it to see sums spill."""

_Args = tuple[int, int, int, int, int, int, int]


def conv_output(
    x: Codes,
    w: Codes,
    geometry: Geometry,
    scale_x: Tensor | None,
    scale_w: Tensor | None,
    bias: Tensor | None = None,
    *,
    limit: int = LIMIT,
) -> Tensor:
    """The output Gemm: float32 [N, OH, OW, O] from x [N, H, W, C] and w [O, kh, kw, C / groups].

    >>> from nybble.formats import get_format
    >>> from nybble.quantizers.packing import pack4
    >>> ones = pack4(torch.ones(18, dtype=torch.uint8))
    >>> x = Codes.of(ones, (1, 3, 3, 2), get_format("uint4"))
    >>> w = Codes.of(ones, (1, 3, 3, 2), get_format("uint4"))
    >>> conv_output(x, w, Geometry("conv2d", (1, 1), (1, 1), (1, 1)), None, None)[0, :, :, 0]
    tensor([[ 8., 12.,  8.],
            [12., 18., 12.],
            [ 8., 12.,  8.]])
    """
    sizes, out_size = _sizes(geometry, x.shape, w.shape)
    out = result((x.shape[0], *out_size, w.shape[0]))
    scales = _Scales(scale_x, scale_w)
    _module().conv_output(
        sizes,
        _operand(x),
        _operand(w),
        *scales.spans,
        vector(bias, w.shape[0], "bias"),
        span(out, torch.float32, "result"),
        threads(),
        limit,
    )
    return out


def conv_grad_input(
    g: Codes,
    w: Codes,
    geometry: Geometry,
    x_shape: tuple[int, ...],
    scale_g: Tensor | None,
    scale_w: Tensor | None,
    out: Tensor | None = None,
    *,
    limit: int = LIMIT,
) -> Tensor:
    """The Gemm towards the input: float32 [N, H, W, C] from g [N, OH, OW, O] and the weight.

    out: contiguous memory of that shape to write to; it may be where g was quantised from.
    """
    sizes, out_size = _sizes(geometry, x_shape, w.shape)
    _same(g.shape, (x_shape[0], *out_size, w.shape[0]), "gradient")
    out = result(x_shape) if out is None else out
    _same(tuple(out.shape), tuple(x_shape), "out")
    scales = _Scales(scale_g, scale_w)
    _module().conv_grad_input(
        sizes,
        _operand(g),
        _operand(w),
        *scales.spans,
        span(out, torch.float32, "result"),
        threads(),
        limit,
    )
    return out


def conv_grad_weight(
    g: Codes,
    x: Codes,
    geometry: Geometry,
    w_shape: tuple[int, ...],
    scale_g: Tensor | None,
    scale_x: Tensor | None,
    *,
    limit: int = LIMIT,
) -> Tensor:
    """The Gemm towards the weight: float32 [O, kh, kw, C / groups] from g [N, OH, OW, O] and x."""
    sizes, out_size = _sizes(geometry, x.shape, w_shape)
    _same(g.shape, (x.shape[0], *out_size, w_shape[0]), "gradient")
    out = result(w_shape, lasting=True)
    scales = _Scales(scale_g, scale_x)
    _module().conv_grad_weight(
        sizes,
        _operand(g),
        _operand(x),
        *scales.spans,
        span(out, torch.float32, "result"),
        threads(),
        limit,
    )
    return out


class _Scales:
    """Two flat scales, kept alive as long as their addresses are used."""

    def __init__(self, row: Tensor | None, column: Tensor | None) -> None:
        self.row, self.column = _flat(row), _flat(column)

    @property
    def spans(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return (
            span(self.row, torch.float32, "scale"),
            span(self.column, torch.float32, "scale"),
        )


def _flat(scale: Tensor | None) -> Tensor:
    return (
        torch.ones(1, dtype=torch.float32)
        if scale is None
        else scale.detach().reshape(-1).contiguous()
    )


def _operand(codes: Codes) -> _Args:
    packed, table, bits, low, high = codes.operand
    return *packed, bits, *table, low, high


def _sizes(
    geometry: Geometry, x: tuple[int, ...], w: tuple[int, ...]
) -> tuple[list[int], tuple[int, int]]:
    """The sizes that csrc/conv/bind_conv.cpp wants, and (OH, OW)."""
    if geometry.kind != "conv2d" or len(x) != 4 or len(w) != 4:
        raise NybbleError(
            f"convolution: expected input [N, H, W, C] and weight [O, kh, kw, C / groups], got"
            f" {tuple(x)} and {tuple(w)} for {geometry.kind}"
        )
    if x[3] != w[3] * geometry.groups:
        raise NybbleError(
            f"convolution: a weight {tuple(w)} with {geometry.groups} groups reads"
            f" {w[3] * geometry.groups} channels, the input {tuple(x)} has {x[3]}"
        )
    nchw, oihw = (x[0], x[3], x[1], x[2]), (w[0], w[3], w[1], w[2])
    out = geometry.output_shape(nchw, oihw)[2:]
    if min(out) < 1:
        raise NybbleError(
            f"convolution: a kernel of {w[1]} x {w[2]} (dilation {geometry.dilation}) is larger"
            f" than the padded input of {x[1]} x {x[2]} (padding {geometry.padding})"
        )
    sizes = [*x, *w[:3], *geometry.stride, *geometry.padding, *geometry.dilation, geometry.groups]
    return sizes, (out[0], out[1])


def _same(got: tuple[int, ...], want: tuple[int, ...], what: str) -> None:
    if tuple(got) != want:
        raise NybbleError(f"convolution: the {what} has shape {tuple(got)}, expected {want}")


def _module() -> ModuleType:
    module, reason = core()
    if module is None:
        raise NybbleError(f"native convolution: {reason}")
    return module
