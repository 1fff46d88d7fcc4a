"""The three Gemms on decoded integers, summed fast (float32), exactly (float64) or in chunks.

`fast` sums in float32: exact while every partial sum stays within 2^24, else it may differ from
`exact` in the last bits. `exact` sums in float64, where integers below 2^53 are exact; the bound
is checked from the formats and the contraction length before the sum is made. Operands without an
integer form (FP8 and wider, float32) take the same float32 operator in both modes.

Not done here: native kernels (`ops/native`), and rounding each add inside a chunk (the oracle's).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nybble.formats import get_format
from nybble.ops.exactness import check_exact
from nybble.ops.geometry import Geometry
from nybble.ops.reference.storage import is_channels_last
from nybble.ops.spec import EXACT, Accumulator

Product = Callable[[Tensor, Tensor], Tensor]


def _aten_conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]
) -> Tensor:
    result = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        None,
        list(geometry.stride),
        list(geometry.padding),
        list(geometry.dilation),
        False,
        [0] * len(geometry.stride),
        geometry.groups,
        mask,
    )
    return result[0] if mask[0] else result[1]  # type: ignore[no-any-return]


def _blank(shape: tuple[int, ...], *others: Tensor) -> Tensor:
    """A tensor whose shape alone is read; in the others' memory format, or all would be copied."""
    last = any(is_channels_last(other) for other in others)
    return torch.empty(
        shape,
        dtype=others[0].dtype,
        device=others[0].device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )


def _output(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    if geometry.kind == "linear":
        return F.linear(x, weight)
    return F.conv2d(
        x, weight, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups
    )


def _grad_input(
    grad: Tensor, weight: Tensor, geometry: Geometry, x_shape: tuple[int, ...]
) -> Tensor:
    if geometry.kind == "linear":
        return grad @ weight
    # Only the shape of x is read; an expanded scalar would do, but its strides send oneDNN down a
    # path that is three times slower.
    x = _blank(x_shape, weight, grad)
    return _aten_conv_backward(grad, x, weight, geometry, [True, False, False])


def _grad_weight(
    grad: Tensor, x: Tensor, geometry: Geometry, weight_shape: tuple[int, ...]
) -> Tensor:
    if geometry.kind == "linear":
        return grad.t() @ x
    weight = _blank(weight_shape, x, grad)
    return _aten_conv_backward(grad, x, weight, geometry, [False, True, False])


def _multiply(
    product: Product,
    a: Tensor,
    b: Tensor,
    max_a: int | None,
    max_b: int | None,
    contraction: int,
    accumulate: str,
) -> Tensor:
    if accumulate == "exact" and max_a is not None and max_b is not None:
        check_exact(max_a, max_b, contraction)
        # + 0.0 turns a sum of negative zeros into the +0 that integers have.
        return product(a.double(), b.double()).float().add_(0.0)
    return product(a, b)


def output(
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    *,
    max_x: int | None = None,
    max_weight: int | None = None,
    accumulate: str = "fast",
    accumulator: Accumulator = EXACT,
) -> Tensor:
    """The forward Gemm: float32 sums of `x` times `weight` (integers, or values), unscaled."""
    if accumulator.format is not None:
        return _chunked_output(x, weight, geometry, accumulator)
    contraction = geometry.contraction("output", tuple(x.shape), tuple(weight.shape))
    return _multiply(
        lambda a, b: _output(a, b, geometry), x, weight, max_x, max_weight, contraction, accumulate
    )


def grad_input(
    grad: Tensor,
    weight: Tensor,
    geometry: Geometry,
    x_shape: tuple[int, ...],
    *,
    max_grad: int | None = None,
    max_weight: int | None = None,
    accumulate: str = "fast",
    accumulator: Accumulator = EXACT,
) -> Tensor:
    """The Gemm towards the layer below: output gradient times weight, in `x_shape`."""
    if accumulator.format is not None:
        return _chunked_grad_input(grad, weight, geometry, x_shape, accumulator)
    contraction = geometry.contraction("grad_input", x_shape, tuple(weight.shape))
    return _multiply(
        lambda a, b: _grad_input(a, b, geometry, x_shape),
        grad,
        weight,
        max_grad,
        max_weight,
        contraction,
        accumulate,
    )


def grad_weight(
    grad: Tensor,
    x: Tensor,
    geometry: Geometry,
    weight_shape: tuple[int, ...],
    *,
    max_grad: int | None = None,
    max_x: int | None = None,
    accumulate: str = "fast",
    accumulator: Accumulator = EXACT,
) -> Tensor:
    """The Gemm towards the optimizer: output gradient times input, in `weight_shape`."""
    if accumulator.format is not None:
        return _chunked_grad_weight(grad, x, geometry, weight_shape, accumulator)
    contraction = geometry.contraction("grad_weight", tuple(x.shape), weight_shape)
    return _multiply(
        lambda a, b: _grad_weight(a, b, geometry, weight_shape),
        grad,
        x,
        max_grad,
        max_x,
        contraction,
        accumulate,
    )


# ---- narrow accumulation, chunk by chunk --------------------------------------------------------


def _chunked_matmul(a: Tensor, b: Tensor, accumulator: Accumulator) -> Tensor:
    """`a @ b` over the last and the last but one dimension, rounded once a chunk and once an add.

    a: [..., M, K], b: [..., K, N].
    """
    fmt = get_format(accumulator.format or "fp16")
    chunk = accumulator.chunk
    total = fmt.round(a[..., :chunk] @ b[..., :chunk, :])
    for start in range(chunk, a.shape[-1], chunk):
        part = fmt.round(a[..., start : start + chunk] @ b[..., start : start + chunk, :])
        total = fmt.round(total + part)
    return total


def _columns(x: Tensor, weight_shape: tuple[int, ...], geometry: Geometry) -> Tensor:
    """im2col: [N, groups, K, L] with K = (channels / groups) * kernel, L = output positions."""
    unfolded = F.unfold(
        x,
        kernel_size=weight_shape[2:],
        dilation=geometry.dilation,
        padding=geometry.padding,
        stride=geometry.stride,
    )
    columns: Tensor = unfolded.unflatten(1, (geometry.groups, -1))
    return columns


def _chunked_output(
    x: Tensor, weight: Tensor, geometry: Geometry, accumulator: Accumulator
) -> Tensor:
    if geometry.kind == "linear":
        return _chunked_matmul(x, weight.t(), accumulator)
    shape = geometry.output_shape(tuple(x.shape), tuple(weight.shape))
    columns = _columns(x, tuple(weight.shape), geometry)
    rows = weight.unflatten(0, (geometry.groups, -1)).flatten(2)
    return _chunked_matmul(rows, columns, accumulator).reshape(shape)


def _chunked_grad_input(
    grad: Tensor,
    weight: Tensor,
    geometry: Geometry,
    x_shape: tuple[int, ...],
    accumulator: Accumulator,
) -> Tensor:
    if geometry.kind == "linear":
        return _chunked_matmul(grad, weight, accumulator)
    # grad_input of a convolution is the stride-1 convolution of the dilated, padded gradient with
    # the flipped, transposed kernel: written so, its contraction can be cut in chunks.
    kernel, stride = weight.shape[2:], geometry.stride
    out = grad.shape[2:]
    dilated = grad.new_zeros(
        *grad.shape[:2], *((o - 1) * s + 1 if o else 0 for o, s in zip(out, stride, strict=True))
    )
    dilated[:, :, :: stride[0], :: stride[1]] = grad
    pads: list[int] = []
    for i in (1, 0):
        reach = geometry.dilation[i] * (kernel[i] - 1)
        before = reach - geometry.padding[i]
        pads += [before, x_shape[2 + i] + reach - before - dilated.shape[2 + i]]
    padded = F.pad(dilated, pads)
    flipped = weight.unflatten(0, (geometry.groups, -1)).transpose(1, 2).flip(-1, -2).flatten(0, 1)
    plain = Geometry("conv2d", (1, 1), (0, 0), geometry.dilation, geometry.groups)
    return _chunked_output(padded, flipped, plain, accumulator)


def _chunked_grad_weight(
    grad: Tensor,
    x: Tensor,
    geometry: Geometry,
    weight_shape: tuple[int, ...],
    accumulator: Accumulator,
) -> Tensor:
    if geometry.kind == "linear":
        return _chunked_matmul(grad.t(), x, accumulator)
    columns = _columns(x, weight_shape, geometry)  # [N, g, K, L]
    flat = grad.flatten(2).unflatten(1, (geometry.groups, -1))  # [N, g, O / g, L]
    a = flat.permute(1, 2, 0, 3).flatten(2)  # [g, O / g, N L]
    b = columns.permute(1, 0, 3, 2).flatten(1, 2)  # [g, N L, K]
    return _chunked_matmul(a, b, accumulator).reshape(weight_shape)
