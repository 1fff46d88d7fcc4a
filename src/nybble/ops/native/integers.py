"""The backward products of operands that are integers already, as `ops/reference/gemm.py` has them.

For layers whose backward operands are made of the forward codes (those with a transform):
the operands come as float32 tensors of integers, go to the kernels as 8-bit codes, one a byte, and
the sums come back as the reference's exact sums would, in its layout. Operands that hold other
numbers (a NaN, or integers beyond 127) are multiplied by the reference.

Not done here: convolutions in three dimensions, transposed ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nybble.ops.geometry import Geometry
from nybble.ops.native import convolution
from nybble.ops.native.codes import Codes
from nybble.ops.native.gemm import gemm
from nybble.ops.native.layout import torch_layout
from nybble.ops.reference import gemm as reference
from nybble.ops.reference.storage import is_channels_last
from nybble.ops.spec import EXACT, Accumulator

__all__ = ["LARGEST", "covers", "grad_input", "grad_weight"]

LARGEST = 127
"""Of the integers that a byte holds with either sign."""


def covers(geometry: Geometry) -> bool:
    """Whether there are kernels for its two backward products.

    >>> covers(Geometry("linear")), covers(Geometry("bmm"))
    (True, False)
    """
    return geometry.kind in ("linear", "conv2d")


def grad_input(
    grad: Tensor,
    weight: Tensor,
    geometry: Geometry,
    x_shape: tuple[int, ...],
    *,
    max_grad: int | None = None,
    max_weight: int | None = None,
    accumulate: str = "exact",
    accumulator: Accumulator = EXACT,
) -> Tensor:
    """float32 sums of grad [M, N] times weight [N, K]; of a convolution, in `x_shape`.

    >>> dx = grad_input(torch.tensor([[3.0]]), torch.tensor([[2.0, -5.0]]), Geometry("linear"),
    ...     (1, 2), max_grad=3, max_weight=5)
    >>> dx
    tensor([[  6., -15.]])
    """
    if _fits(geometry, accumulator, (grad, max_grad), (weight, max_weight)):
        g, w = _codes(grad, max_grad), _codes(weight, max_weight)
        if geometry.kind == "linear":
            return gemm(g, w)
        n, c, height, width = x_shape
        dx = convolution.grad_input(g, w, geometry, (n, height, width, c), None, None)
        return torch_layout(dx, is_channels_last(grad) or is_channels_last(weight))
    return reference.grad_input(
        grad,
        weight,
        geometry,
        x_shape,
        max_grad=max_grad,
        max_weight=max_weight,
        accumulate="exact",
        accumulator=accumulator,
    )


def grad_weight(
    grad: Tensor,
    x: Tensor,
    geometry: Geometry,
    weight_shape: tuple[int, ...],
    *,
    max_grad: int | None = None,
    max_x: int | None = None,
    accumulate: str = "exact",
    accumulator: Accumulator = EXACT,
) -> Tensor:
    """float32 sums of grad [M, N] transposed times x [M, K]; of a convolution, in
    `weight_shape`."""
    if _fits(geometry, accumulator, (grad, max_grad), (x, max_x)):
        g, codes_x = _codes(grad, max_grad), _codes(x, max_x)
        if geometry.kind == "linear":
            return gemm(g, codes_x, trans_a=True)
        o, c, height, width = weight_shape
        dw = convolution.grad_weight(g, codes_x, geometry, (o, height, width, c), None, None)
        return torch_layout(dw, is_channels_last(grad) or is_channels_last(x), lasting=True)
    return reference.grad_weight(
        grad,
        x,
        geometry,
        weight_shape,
        max_grad=max_grad,
        max_x=max_x,
        accumulate="exact",
        accumulator=accumulator,
    )


def _fits(
    geometry: Geometry, accumulator: Accumulator, *operands: tuple[Tensor, int | None]
) -> bool:
    return (
        covers(geometry)
        and accumulator.format is None
        and all(limit is not None and limit <= LARGEST for _, limit in operands)
        and all(math.isfinite(float(x.sum())) for x, _ in operands)  # integers: no overflow
    )


def _codes(x: Tensor, limit: int | None) -> Codes:
    """Of a matrix, or of an image or kernel with its channels moved to the end."""
    if x.dim() == 4:
        x = x.permute(0, 2, 3, 1)
    packed = x.to(torch.int8).contiguous().view(torch.uint8).reshape(-1)
    bound = LARGEST if limit is None else limit
    return Codes(packed, tuple(x.shape), _TABLE, -bound, bound, bits=8)


_TABLE = torch.arange(256).to(torch.uint8).view(torch.int8).to(torch.int16)
