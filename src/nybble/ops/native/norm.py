"""Normalisation, ReLU and 4-bit slopes in fused kernels (`csrc/norm`), on dense float32 memory.

Of batch normalisation, channels lie last: [N, H, W, C] images (torch's channels_last) or [N, C]
rows. What a forward pass leaves for backward is 4-bit codes and five numbers a channel (two a row);
`csrc/norm/*.hpp` has the formulas, `nn/memory/grid.py` the grid of the codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, nan, prod
from typing import Any

import torch
from torch import Tensor, nn

from nybble.errors import NybbleError
from nybble.ops.native import core
from nybble.ops.native.buffers import span, threads, vector
from nybble.ops.native.pool import kept, result_like
from nybble.quantizers.packing import packed_bytes, packed_bytes_bits

__all__ = [
    "batch_norm_backward",
    "batch_norm_forward",
    "channels_last",
    "fits",
    "layer_norm_backward",
    "layer_norm_fits",
    "layer_norm_forward",
    "pack_slopes",
    "relu_backward",
    "relu_forward",
    "slope_grad",
]

_NOTHING = (0, 0)
_MOST_REPEATED = 1 << 18
"""Numbers in one per-channel array of a kernel, which repeats them up to 64 times."""
_STATS = 5


def channels_last(x: Tensor) -> bool:
    """Whether the memory of `x` is [N, H, W, C], or [N, C].

    >>> channels_last(torch.zeros(2, 3)), channels_last(torch.zeros(2, 3, 4, 4))
    (True, False)
    """
    if x.dim() == 4:
        return x.is_contiguous(memory_format=torch.channels_last)
    return x.dim() == 2 and x.is_contiguous()


def fits(backend: str, x: Tensor, channels: Sequence[Tensor | None] | None = None) -> bool:
    """Whether the kernels take `x`; `channels`: what batch normalisation has for every channel.

    >>> fits("reference", torch.zeros(2, 3))
    False
    """
    if backend == "reference" or not x.is_cpu or x.dtype is not torch.float32 or not x.numel():
        return False
    if type(x) not in (Tensor, nn.Parameter) or core()[0] is None:
        return False
    if channels is None:
        return x.is_contiguous() or channels_last(x)
    width = x.shape[1]
    plain = all(
        v is None or (v.is_cpu and v.dtype is torch.float32 and v.is_contiguous()) for v in channels
    )
    return plain and channels_last(x) and width // gcd(width, 64) * 64 <= _MOST_REPEATED


def batch_norm_forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    relu: bool,
    in_place: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, codes, stats): see `csrc/norm/norm.hpp`; moves the running statistics.

    `in_place`: y is x.

    >>> x = torch.randn(8, 3)
    >>> y, codes, stats = batch_norm_forward(x, None, None, None, None, 0.1, 1e-5, True)
    >>> bool((y >= 0).all()), codes.shape, stats.shape
    (True, torch.Size([32]), torch.Size([5, 3]))
    """
    if not channels_last(x):
        raise NybbleError(f"batch norm: {tuple(x.shape)} is no matrix or channels-last image")
    width = x.shape[1]
    y = x if in_place else result_like(x)
    packed = kept(packed_bytes(x.numel(), 4))
    stats = torch.empty(_STATS, width, dtype=torch.float32)
    _module().batch_norm_forward(
        x.numel() // width,
        width,
        span(x, torch.float32, "batch norm x"),
        _channels(weight, width, "weight"),
        _channels(bias, width, "bias"),
        _channels(running_mean, width, "running_mean"),
        _channels(running_var, width, "running_var"),
        momentum,
        eps,
        relu,
        span(y, torch.float32, "batch norm y"),
        span(packed, torch.uint8, "batch norm codes"),
        span(stats, torch.float32, "batch norm stats"),
        threads(),
    )
    return y, packed, stats


def batch_norm_backward(
    grad: Tensor, packed: Tensor, stats: Tensor, wants_input: bool = True, in_place: bool = False
) -> tuple[Tensor | None, Tensor, Tensor]:
    """(dx, dgamma, dbeta) for the codes and statistics of `batch_norm_forward`.

    `in_place`: dx may be written over `grad`.
    """
    if stats.dim() != 2 or grad.dim() < 2 or grad.shape[1] != stats.shape[1]:
        raise NybbleError(
            f"batch norm: a gradient {tuple(grad.shape)} does not belong to statistics"
            f" {tuple(stats.shape)}"
        )
    width = stats.shape[1]
    given, grad = grad, as_channels_last(grad)
    dx = (grad if in_place or grad is not given else result_like(grad)) if wants_input else None
    dgamma, dbeta = (torch.empty(width, dtype=torch.float32) for _ in range(2))
    _module().batch_norm_backward(
        grad.numel() // width,
        width,
        span(grad, torch.float32, "batch norm dy"),
        span(packed, torch.uint8, "batch norm codes"),
        span(stats, torch.float32, "batch norm stats"),
        _NOTHING if dx is None else span(dx, torch.float32, "batch norm dx"),
        span(dgamma, torch.float32, "batch norm dgamma"),
        span(dbeta, torch.float32, "batch norm dbeta"),
        threads(),
    )
    return dx, dgamma, dbeta


def relu_forward(
    x: Tensor, in_place: bool = False, top: float | None = None
) -> tuple[Tensor, Tensor]:
    """(y, bits): max(x, 0), at most `top`, and a bit for every value whose gradient passes.

    >>> y, bits = relu_forward(torch.tensor([1.0, -1.0, 2.0]))
    >>> y.tolist(), bits.tolist()
    ([1.0, 0.0, 2.0], [5])
    """
    y = x if in_place else result_like(x)
    bits = kept(packed_bytes_bits(x.numel()))
    _module().relu_forward(
        span(x, torch.float32, "relu x"),
        x.numel(),
        nan if top is None else top,
        span(y, torch.float32, "relu y"),
        span(bits, torch.uint8, "relu bits"),
        threads(),
    )
    return y, bits


def relu_backward(grad: Tensor, bits: Tensor, last: bool, in_place: bool = False) -> Tensor:
    """dx for the bits of `relu_forward`; `last`: its memory was channels-last.

    `in_place`: dx may be written over `grad`.
    """
    given, grad = grad, as_channels_last(grad) if last else grad.contiguous()
    dx = grad if in_place or grad is not given else result_like(grad)
    _module().relu_backward(
        span(grad, torch.float32, "relu dy"),
        span(bits, torch.uint8, "relu bits"),
        grad.numel(),
        span(dx, torch.float32, "relu dx"),
        threads(),
    )
    return dx


def layer_norm_fits(backend: str, x: Tensor, shape: Sequence[int], *params: Tensor | None) -> bool:
    """Whether the kernels normalise the rows of `x`: whole blocks of 64 values."""
    width = prod(shape)
    plain = all(v is None or (v.dtype is torch.float32 and v.is_contiguous()) for v in params)
    return fits(backend, x) and plain and x.is_contiguous() and width % 64 == 0 and width > 0


def layer_norm_forward(
    x: Tensor, width: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, codes, stats) of rows of `width` values: see `csrc/norm/rows.hpp`.

    >>> y, codes, stats = layer_norm_forward(torch.randn(4, 64), 64, None, None, 1e-5)
    >>> codes.shape, stats.shape
    (torch.Size([128]), torch.Size([4, 2]))
    """
    rows = x.numel() // width
    y = result_like(x)
    packed = kept(x.numel() // 2)
    stats = torch.empty(rows, 2, dtype=torch.float32)
    _module().layer_norm_forward(
        rows,
        width,
        span(x, torch.float32, "layer norm x"),
        _channels(weight, width, "weight"),
        _channels(bias, width, "bias"),
        eps,
        span(y, torch.float32, "layer norm y"),
        span(packed, torch.uint8, "layer norm codes"),
        span(stats, torch.float32, "layer norm stats"),
        threads(),
    )
    return y, packed, stats


def layer_norm_backward(
    grad: Tensor, packed: Tensor, stats: Tensor, weight: Tensor | None, wants_input: bool = True
) -> tuple[Tensor | None, Tensor, Tensor]:
    """(dx, dweight, dbias); the last two are flat."""
    grad = grad.contiguous()
    rows = stats.shape[0]
    width = grad.numel() // rows
    dx = result_like(grad) if wants_input else None
    dweight, dbias = (torch.empty(width, dtype=torch.float32) for _ in range(2))
    _module().layer_norm_backward(
        rows,
        width,
        span(grad, torch.float32, "layer norm dy"),
        span(packed, torch.uint8, "layer norm codes"),
        span(stats, torch.float32, "layer norm stats"),
        _channels(weight, width, "weight"),
        _NOTHING if dx is None else span(dx, torch.float32, "layer norm dx"),
        span(dweight, torch.float32, "layer norm dweight"),
        span(dbias, torch.float32, "layer norm dbias"),
        threads(),
    )
    return dx, dweight, dbias


def pack_slopes(slopes: Tensor) -> Tensor:
    """4-bit codes of derivatives, in twelfths from -2 to 13.

    >>> pack_slopes(torch.tensor([1.0, 0.0]))[:2].tolist()
    [14, 2]
    """
    packed = kept(packed_bytes(slopes.numel(), 4))
    _module().pack_slopes(
        span(slopes, torch.float32, "slopes"),
        slopes.numel(),
        span(packed, torch.uint8, "slope codes"),
        threads(),
    )
    return packed


def slope_grad(grad: Tensor, packed: Tensor, last: bool, in_place: bool = False) -> Tensor:
    """dx = grad * slope for the codes of `pack_slopes`; `last`: its memory was channels-last.

    `in_place`: dx may be written over `grad`.
    """
    given, grad = grad, as_channels_last(grad) if last else grad.contiguous()
    dx = grad if in_place or grad is not given else result_like(grad)
    _module().slope_grad(
        span(grad, torch.float32, "slope dy"),
        span(packed, torch.uint8, "slope codes"),
        grad.numel(),
        span(dx, torch.float32, "slope dx"),
        threads(),
    )
    return dx


def as_channels_last(x: Tensor) -> Tensor:
    """`x` with its channels last in memory."""
    if x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


def _channels(v: Tensor | None, width: int, what: str) -> tuple[int, int]:
    return vector(None if v is None else v.detach(), width, f"batch norm {what}")


def _module() -> Any:
    module, reason = core()
    if module is None:
        raise NybbleError(f"the native kernels are not here: {reason}")
    return module
