"""Products of operands that are integers already, as `ops/reference/gemm.py` has them.

For layers whose operands are made by the reference's quantizers (those that turn and round the
forward codes again, and convolutions that lines.py has no kernels for): the operands come as
float32 tensors of integers, go to the kernels as 8-bit codes, one a byte, and the sums come back as
the reference's exact sums would, in its layout. Operands that hold other numbers (a NaN, or
integers beyond 127) are multiplied by the reference.

`accumulate` is the reference's argument: sums are exact whatever it says.

Not done here: batches of products; a table of its own for each format, so that codes stay packed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.ops.geometry import Geometry
from nybble.ops.native import convolution, volume
from nybble.ops.native.codes import Codes
from nybble.ops.native.gemm import gemm
from nybble.ops.native.layout import torch_layout
from nybble.ops.native.volume import Volume
from nybble.ops.reference import gemm as reference
from nybble.ops.reference.storage import is_channels_last
from nybble.ops.spec import EXACT, Accumulator

__all__ = ["LARGEST", "covers", "grad_input", "grad_weight", "output"]

LARGEST = 127
"""Of the integers that a byte holds with either sign."""


def covers(geometry: Geometry) -> bool:
    """Whether there are kernels for its three products.

    >>> covers(Geometry("conv3d")), covers(Geometry("bmm"))
    (True, False)
    """
    return geometry.kind != "bmm"


def output(
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    *,
    max_x: int | None = None,
    max_weight: int | None = None,
    accumulate: str = "exact",
    accumulator: Accumulator = EXACT,
) -> Tensor:
    """float32 sums of x [M, K] times weight [N, K] transposed, or of a convolution.

    >>> output(torch.tensor([[3.0, 1.0]]), torch.tensor([[2.0, -5.0]]), Geometry("linear"),
    ...     max_x=3, max_weight=5)
    tensor([[1.]])
    """
    if not _fits(geometry, accumulator, (x, max_x), (weight, max_weight)):
        return reference.output(
            x,
            weight,
            geometry,
            max_x=max_x,
            max_weight=max_weight,
            accumulate="exact",
            accumulator=accumulator,
        )
    if geometry.kind == "linear":
        return gemm(_codes(x, max_x), _codes(weight, max_weight), trans_b=True)
    if geometry.mirror is not None:
        shape = geometry.output_shape(tuple(x.shape), tuple(weight.shape))
        return _towards_input((x, max_x), (weight, max_weight), geometry.mirror, shape)
    return _outwards((x, max_x), (weight, max_weight), geometry)


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
    if not _fits(geometry, accumulator, (grad, max_grad), (weight, max_weight)):
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
    if geometry.kind == "linear":
        return gemm(_codes(grad, max_grad), _codes(weight, max_weight))
    if geometry.mirror is not None:
        return _outwards((grad, max_grad), (weight, max_weight), geometry.mirror)
    return _towards_input((grad, max_grad), (weight, max_weight), geometry, x_shape)


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
    if not _fits(geometry, accumulator, (grad, max_grad), (x, max_x)):
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
    if geometry.kind == "linear":
        return gemm(_codes(grad, max_grad), _codes(x, max_x), trans_a=True)
    a, b = (grad, max_grad), (x, max_x)
    if geometry.mirror is not None:
        a, b, geometry = b, a, geometry.mirror
    if geometry.kind == "conv3d":
        return volume.grad_weight(_volume(*a), _volume(*b), geometry, weight_shape, None, None)
    o, c, height, width = weight_shape
    dw = convolution.grad_weight(
        _codes(*a), _codes(*b), geometry, (o, height, width, c), None, None
    )
    return torch_layout(dw, is_channels_last(grad) or is_channels_last(x), lasting=True)


_Limited = tuple[Tensor, int | None]
"""Integers and the largest magnitude of their format."""


def _outwards(x: _Limited, w: _Limited, geometry: Geometry) -> Tensor:
    """A convolution's output."""
    if geometry.kind == "conv3d":
        return volume.output(_volume(*x), _volume(*w), geometry, None, None, None)
    y = convolution.output(_codes(*x), _codes(*w), geometry, None, None)
    return torch_layout(y, is_channels_last(x[0]) or is_channels_last(w[0]))


def _towards_input(g: _Limited, w: _Limited, geometry: Geometry, shape: tuple[int, ...]) -> Tensor:
    """A convolution's grad_input."""
    if geometry.kind == "conv3d":
        return volume.grad_input(_volume(*g), _volume(*w), geometry, shape, None, None)
    n, c, height, width = shape
    dx = convolution.grad_input(_codes(*g), _codes(*w), geometry, (n, height, width, c), None, None)
    return torch_layout(dx, is_channels_last(g[0]) or is_channels_last(w[0]))


def _fits(geometry: Geometry, accumulator: Accumulator, *operands: _Limited) -> bool:
    return (
        covers(geometry)
        and accumulator.format is None
        and all(limit is not None and limit <= LARGEST for _, limit in operands)
        and all(math.isfinite(float(x.sum())) for x, _ in operands)  # integers: no overflow
    )


def _bytes(x: Tensor) -> Tensor:
    return x.to(torch.int8).contiguous().view(torch.uint8)


def _codes(x: Tensor, limit: int | None) -> Codes:
    """Of a matrix, or of an image or kernel with its channels moved to the end."""
    if x.dim() == 4:
        x = x.permute(0, 2, 3, 1)
    bound = _known(limit)
    return Codes(_bytes(x).reshape(-1), tuple(x.shape), _TABLE, -bound, bound, bits=8)


def _volume(x: Tensor, limit: int | None) -> Volume:
    bound = _known(limit)
    return Volume(_bytes(x), 8, _TABLE, -bound, bound)


def _known(limit: int | None) -> int:
    if limit is None:
        raise NybbleError("integers need the largest magnitude of their format")
    return limit


_TABLE = torch.arange(256).to(torch.uint8).view(torch.int8).to(torch.int16)
