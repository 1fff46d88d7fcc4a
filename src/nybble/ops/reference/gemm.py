"""The three Gemms on decoded integers, summed fast (float32), exactly (float64) or in chunks.

`fast` sums in float32: exact while every partial sum stays within 2^24, else it may differ from
`exact` in the last bits. `exact` sums in float64, where integers below 2^53 are exact; the bound
is checked from the formats and the contraction length before the sum is made. Where that bound is
2^24 (of a weight gradient: of a part of the batch), float32 is as exact, and faster: it
is used on the CPU, whose float32 operators round each product and sum once, in any order.
Operands without an integer form (FP8 and wider, float32) take the same float32 operator in both
modes.

Not done here: native kernels (`ops/native`), and rounding each add inside a chunk (the oracle's).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nybble.formats import get_format
from nybble.ops.exactness import check_exact
from nybble.ops.geometry import Geometry
from nybble.ops.reference.storage import is_channels_last
from nybble.ops.spec import EXACT, Accumulator

Product = Callable[[Tensor, Tensor], Tensor]

FLOAT32_LIMIT = 2**24
"""Integers up to this are exact in float32."""


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


def _thinned(geometry: Geometry, weight_shape: tuple[int, ...]) -> Geometry | None:
    """The geometry of a strided 1x1 convolution on the pixels that it reads, else None.

    oneDNN (torch 2.13) writes beyond its memory in such a convolution of few channels that lies
    channels-last; and what is never read need not be looked at.
    """
    if geometry.kind != "conv2d" or any(geometry.padding) or set(geometry.stride) == {1}:
        return None
    if any(taps != 1 for taps in weight_shape[2:]):  # symbols, which have no hash, while compiling
        return None
    return replace(geometry, stride=(1, 1))


def _pixels(x: Tensor, geometry: Geometry) -> Tensor:
    """Those that a strided 1x1 convolution reads, in x's layout."""
    down, across = geometry.stride
    form = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return x[:, :, ::down, ::across].contiguous(memory_format=form)


def _output(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    if geometry.kind == "linear":
        return F.linear(x, weight)
    thinned = _thinned(geometry, tuple(weight.shape))
    if thinned is not None:
        return _output(_pixels(x, geometry), weight, thinned)
    if geometry.kind == "bmm":
        return torch.bmm(x, weight.transpose(1, 2))
    if geometry.mirror is not None:
        shape = geometry.output_shape(tuple(x.shape), tuple(weight.shape))
        return _grad_input(x, weight, geometry.mirror, shape)
    convolve = F.conv2d if geometry.kind == "conv2d" else F.conv3d
    return convolve(
        x, weight, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups
    )


def _grad_input(
    grad: Tensor, weight: Tensor, geometry: Geometry, x_shape: tuple[int, ...]
) -> Tensor:
    if geometry.kind in ("linear", "bmm"):
        return grad @ weight
    if geometry.mirror is not None:
        return _output(grad, weight, geometry.mirror)
    thinned = _thinned(geometry, tuple(weight.shape))
    if thinned is not None:
        down, across = geometry.stride
        small = (*x_shape[:2], *grad.shape[2:])
        part = _grad_input(grad, weight, thinned, small)
        dx = _blank(x_shape, part).zero_()
        dx[:, :, ::down, ::across] = part
        return dx
    # Only the shape of x is read; an expanded scalar would do, but its strides send oneDNN down a
    # path that is three times slower.
    x = _blank(x_shape, weight, grad)
    return _aten_conv_backward(grad, x, weight, geometry, [True, False, False])


def _grad_weight(
    grad: Tensor, x: Tensor, geometry: Geometry, weight_shape: tuple[int, ...]
) -> Tensor:
    if geometry.kind in ("linear", "bmm"):
        return grad.transpose(-2, -1) @ x
    if geometry.mirror is not None:
        return _grad_weight(x, grad, geometry.mirror, weight_shape)
    thinned = _thinned(geometry, weight_shape)
    if thinned is not None:
        return _grad_weight(grad, _pixels(x, geometry), thinned, weight_shape)
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
        if max_a * max_b * contraction <= FLOAT32_LIMIT and _rounds_once(a):
            return product(a.float(), b.float()).add_(0.0)
        return product(a.double(), b.double()).float().add_(0.0)
    return product(a, b)


def _rounds_once(x: Tensor) -> bool:
    """Whether float32 products and sums are float32's: not TF32, not bfloat16, no Winograd.

    Without oneDNN torch may convolve by NNPACK, whose transforms round. The precision that
    `torch.set_float32_matmul_precision` sets is oneDNN's here.
    """
    onednn = torch.backends.mkldnn
    if not x.is_cpu or torch.is_autocast_enabled("cpu"):
        return False
    if not onednn.is_available() or not torch._C._get_mkldnn_enabled():
        return False
    asked = (
        torch.backends.fp32_precision,  # type: ignore[attr-defined]
        onednn.matmul.fp32_precision,  # type: ignore[attr-defined]
        onednn.conv.fp32_precision,  # type: ignore[attr-defined]
    )
    return all(precision in ("none", "ieee") for precision in asked)


def _in_parts(product: Product, a: Tensor, b: Tensor, count: int) -> Tensor:
    """The sum over the batch, `count` examples at a time in float32, the parts in float64."""
    total: Tensor | None = None
    for start in range(0, a.shape[0], count):
        some = slice(start, start + count)
        part = product(a[some].float(), b[some].float()).double()
        total = part if total is None else total.add_(part)
    assert total is not None  # there are more examples than a part has
    return total.float().add_(0.0)


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

    def product(a: Tensor, b: Tensor) -> Tensor:
        return _grad_weight(a, b, geometry, weight_shape)

    if accumulate == "exact" and max_grad and max_x and geometry.kind != "bmm" and len(x):
        check_exact(max_grad, max_x, contraction)
        count = FLOAT32_LIMIT // (max_grad * max_x * -(-contraction // len(x)))
        if 0 < count < len(x) and _rounds_once(x):
            return _in_parts(product, grad, x, count)
    return _multiply(product, grad, x, max_grad, max_x, contraction, accumulate)


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


def _flat(x: Tensor, weight: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor, Geometry]:
    """A three-dimensional convolution as the two-dimensional one with (c, kd) as its channels:
    (input, weight, geometry)."""
    pad, stride, dilation = geometry.padding[0], geometry.stride[0], geometry.dilation[0]
    kernel = weight.shape[2]
    padded = F.pad(x, [0, 0, 0, 0, pad, pad])
    count = (padded.shape[2] - dilation * (kernel - 1) - 1) // stride + 1
    at = torch.arange(count, device=x.device).mul_(stride).unsqueeze(1)
    at = at + torch.arange(kernel, device=x.device).mul_(dilation)
    planes = padded[:, :, at]  # [N, C, OD, kd, H, W]
    planes = planes.transpose(1, 2).flatten(0, 1).flatten(1, 2)
    plain = Geometry(
        "conv2d", geometry.stride[1:], geometry.padding[1:], geometry.dilation[1:], geometry.groups
    )
    return planes, weight.flatten(1, 2), plain


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
    if geometry.kind in ("linear", "bmm"):
        return _chunked_matmul(x, weight.transpose(-2, -1), accumulator)
    shape = geometry.output_shape(tuple(x.shape), tuple(weight.shape))
    if geometry.mirror is not None:
        return _chunked_grad_input(x, weight, geometry.mirror, shape, accumulator)
    if geometry.kind == "conv3d":
        planes = _chunked_output(*_flat(x, weight, geometry), accumulator)
        return planes.view(shape[0], shape[2], *planes.shape[1:]).transpose(1, 2).contiguous()
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
    if geometry.kind in ("linear", "bmm"):
        return _chunked_matmul(grad, weight, accumulator)
    if geometry.mirror is not None:
        return _chunked_output(grad, weight, geometry.mirror, accumulator)
    # grad_input of a convolution is the stride-1 convolution of the dilated, padded gradient with
    # the flipped, transposed kernel: written so, its contraction can be cut in chunks.
    kernel, out = weight.shape[2:], grad.shape[2:]
    dims = len(kernel)
    dilated = grad.new_zeros(
        *grad.shape[:2],
        *((o - 1) * s + 1 if o else 0 for o, s in zip(out, geometry.stride, strict=True)),
    )
    every: list[slice] = [slice(None, None, s) for s in (1, 1, *geometry.stride)]
    dilated[tuple(every)] = grad
    pads: list[int] = []
    for i in reversed(range(dims)):
        reach = geometry.dilation[i] * (kernel[i] - 1)
        before = reach - geometry.padding[i]
        pads += [before, x_shape[2 + i] + reach - before - dilated.shape[2 + i]]
    padded = F.pad(dilated, pads)
    flipped = weight.unflatten(0, (geometry.groups, -1)).transpose(1, 2)
    flipped = flipped.flip(*range(3, 3 + dims)).flatten(0, 1)
    ones = (1,) * dims
    plain = Geometry(geometry.kind, ones, (0,) * dims, geometry.dilation, geometry.groups)
    return _chunked_output(padded, flipped, plain, accumulator)


def _chunked_grad_weight(
    grad: Tensor,
    x: Tensor,
    geometry: Geometry,
    weight_shape: tuple[int, ...],
    accumulator: Accumulator,
) -> Tensor:
    if geometry.kind in ("linear", "bmm"):
        return _chunked_matmul(grad.transpose(-2, -1), x, accumulator)
    if geometry.mirror is not None:
        return _chunked_grad_weight(x, grad, geometry.mirror, weight_shape, accumulator)
    if geometry.kind == "conv3d":
        planes, weight, plain = _flat(x, x.new_empty(weight_shape), geometry)
        flat = grad.transpose(1, 2).flatten(0, 1)
        shape = tuple(weight.shape)
        return _chunked_grad_weight(flat, planes, plain, shape, accumulator).view(weight_shape)
    columns = _columns(x, weight_shape, geometry)  # [N, g, K, L]
    flat = grad.flatten(2).unflatten(1, (geometry.groups, -1))  # [N, g, O / g, L]
    a = flat.permute(1, 2, 0, 3).flatten(2)  # [g, O / g, N L]
    b = columns.permute(1, 0, 3, 2).flatten(1, 2)  # [g, N L, K]
    return _chunked_matmul(a, b, accumulator).reshape(weight_shape)
