"""Pooling: which place of its window a maximum came from; averages keep nothing at all.

MaxPool2d   code = row * kernel width + column inside the window, 4 or 8 bits an output value
            (torch keeps the input and 8 bytes an output value); the gradient is exact
AvgPool2d   dx depends on shapes only (torch keeps the input)
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.nn.memory.base import MemoryLayer, compresses
from nybble.nn.memory.pack import layout
from nybble.nn.once import once_differentiable
from nybble.ops.reference.storage import flatten, unflatten
from nybble.quantizers.packing import pack4, unpack4

Pair = tuple[int, int]


def pair(value: Any) -> Pair:
    """torch's size arguments: a number stands for both directions.

    >>> pair(3), pair((1, 2))
    ((3, 3), (1, 2))
    """
    return (int(value[0]), int(value[1])) if isinstance(value, tuple | list) else (int(value),) * 2


class MaxPoolFunction(torch.autograd.Function):
    """`apply(x, kernel, stride, padding, dilation, ceil_mode)` for [N, C, H, W]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kernel: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        ceil_mode: bool,
    ) -> Tensor:
        y, index = F.max_pool2d_with_indices(
            x, kernel, stride, padding, dilation, ceil_mode=ceil_mode
        )
        rows, columns = _origins(y, stride, padding)
        width = x.shape[3]
        row = (index // width).sub_(rows).div_(dilation[0], rounding_mode="floor")
        column = (index % width).sub_(columns).div_(dilation[1], rounding_mode="floor")
        codes = row.mul_(kernel[1]).add_(column).to(torch.uint8)
        small = kernel[0] * kernel[1] <= 16
        flat = flatten(codes)
        ctx.save_for_backward(pack4(flat) if small else flat)
        ctx.where, ctx.small = layout(codes), small
        ctx.like = (x.shape, x.stride(), x.dtype)
        ctx.window = (kernel, stride, padding, dilation, ceil_mode)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (packed,) = ctx.saved_tensors
        kernel, stride, padding, dilation, ceil_mode = ctx.window
        shape, last = ctx.where
        flat = unpack4(packed, grad.numel()) if ctx.small else packed
        codes = unflatten(flat, shape, last).to(torch.int64)
        rows, columns = _origins(codes, stride, padding)
        row = (codes // kernel[1]).mul_(dilation[0]).add_(rows)
        column = (codes % kernel[1]).mul_(dilation[1]).add_(columns)
        index = row.mul_(ctx.like[0][3]).add_(column)
        dx = torch.ops.aten.max_pool2d_with_indices_backward(
            grad, _shape_only(ctx.like, grad), kernel, stride, padding, dilation, ceil_mode, index
        )
        return dx, None, None, None, None, None


def _origins(y: Tensor, stride: Pair, padding: Pair) -> tuple[Tensor, Tensor]:
    """Row and column of the first pixel of each window, to broadcast against [N, C, h, w]."""
    rows = torch.arange(y.shape[2], device=y.device) * stride[0] - padding[0]
    columns = torch.arange(y.shape[3], device=y.device) * stride[1] - padding[1]
    return rows.view(-1, 1), columns


def _shape_only(like: tuple[Any, Any, torch.dtype], grad: Tensor) -> Tensor:
    """A tensor of the input's shape and strides, whose values nobody reads or writes."""
    shape, strides, dtype = like
    return torch.empty_strided(shape, strides, dtype=dtype, device=grad.device)


class MaxPool2d(MemoryLayer, nn.MaxPool2d):
    """Exact, in 4 bits an output value for windows of up to 16 pixels, else 8."""

    memory_kind = "pool"
    memory_keeps = "4 or 8 bits an output value"

    def forward(self, input: Tensor) -> Any:
        """torch's maximum pooling."""
        kernel = pair(self.kernel_size)
        odd = self.return_indices or kernel[0] * kernel[1] > 256 or input.dim() not in (3, 4)
        if odd or not compresses(input):
            return super().forward(input)
        x = input if input.dim() == 4 else input.unsqueeze(0)
        stride = kernel if self.stride is None else pair(self.stride)
        y = MaxPoolFunction.apply(  # type: ignore[no-untyped-call]
            x, kernel, stride, pair(self.padding), pair(self.dilation), self.ceil_mode
        )
        return y if input.dim() == 4 else y.squeeze(0)


class AvgPoolFunction(torch.autograd.Function):
    """`apply(x, arguments)`: torch's average; the backward pass needs the shape only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, arguments: tuple[Any, ...]) -> Tensor:
        ctx.like, ctx.arguments = (x.shape, x.stride(), x.dtype), arguments
        return F.avg_pool2d(x, *arguments)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        dx = torch.ops.aten.avg_pool2d_backward(grad, _shape_only(ctx.like, grad), *ctx.arguments)
        return dx, None


class AvgPool2d(MemoryLayer, nn.AvgPool2d):
    """Exact, and keeps nothing."""

    memory_kind = "pool"
    memory_keeps = "nothing"

    def forward(self, input: Tensor) -> Tensor:
        """torch's average pooling."""
        if not compresses(input):
            return super().forward(input)
        kernel = pair(self.kernel_size)
        arguments = (
            kernel,
            pair(self.stride if self.stride is not None else kernel),
            pair(self.padding),
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )
        return cast(Tensor, AvgPoolFunction.apply(input, arguments))  # type: ignore[no-untyped-call]


class AdaptiveAvgPoolFunction(torch.autograd.Function):
    """`apply(x, size)`: as `AvgPoolFunction`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: Any) -> Tensor:
        ctx.like = (x.shape, x.stride(), x.dtype)
        return F.adaptive_avg_pool2d(x, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        like = _shape_only(ctx.like, grad)
        return torch.ops.aten._adaptive_avg_pool2d_backward(grad, like), None


class AdaptiveAvgPool2d(MemoryLayer, nn.AdaptiveAvgPool2d):
    """Exact, and keeps nothing; the global average is a mean, which torch does as well."""

    memory_kind = "pool"
    memory_keeps = "nothing"

    def forward(self, input: Tensor) -> Tensor:
        """torch's adaptive average pooling."""
        if not compresses(input) or self.output_size in (1, (1, 1)):
            return super().forward(input)
        return cast(Tensor, AdaptiveAvgPoolFunction.apply(input, self.output_size))  # type: ignore[no-untyped-call]
