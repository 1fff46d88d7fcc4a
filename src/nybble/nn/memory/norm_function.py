"""Batch and layer normalisation that keep 4-bit codes of the normalised input.

    BatchNorm  g = dy, 0 where the ReLU was off
               dbeta = sum g     dgamma = sum g x^
               dx = gamma invstd (g - dbeta / n - x^ dgamma / n)            n: values a channel
    LayerNorm  h = dy gamma      dbeta = sum dy     dgamma = sum dy x^
               dx = rstd (h - mean(h) - x^ mean(h x^))                      means over a row

The forward pass is torch's own, bit for bit; x^ above is the decoded value (`grid.py`).
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from nybble.nn.memory.base import Token
from nybble.nn.memory.grid import channel_grid, encode, row_steps
from nybble.nn.memory.pack import layout, pack4, unpack
from nybble.nn.once import once_differentiable
from nybble.nn.owned import counts, may_overwrite
from nybble.ops.native import norm as native


def along_channels(v: Tensor, dim: int) -> Tensor:
    """A vector [C] shaped to broadcast against [N, C, ...]."""
    return v.view(1, -1, *(1,) * (dim - 2))


class BatchNormFunction(torch.autograd.Function):
    """`apply(x, weight, bias, running_mean, running_var, momentum, eps, token, in_place)`; with a
    token the ReLU that follows is part of it, and takes the token."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        token: Token | None,
        in_place: bool,
    ) -> Tensor:
        relu, ctx.token = token is not None, token
        y, mean, invstd = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, True, momentum, eps
        )
        grid = channel_grid(weight, bias, relu, mean)
        dim = x.dim()
        xhat = (x.float() - along_channels(mean, dim)).mul_(along_channels(invstd, dim))
        positive = y > 0 if relu else None
        rows = grid.view(4, *along_channels(mean, dim).shape)
        packed = pack4(encode(xhat, rows, positive))
        ctx.save_for_backward(packed, invstd, weight, grid)
        ctx.where, ctx.relu = layout(xhat), relu
        return y.relu_() if relu else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.token is not None:
            ctx.token.check()
        packed, invstd, weight, grid = ctx.saved_tensors
        dim = grad.dim()
        step, offset, first, _ = grid.view(4, *along_channels(invstd, dim).shape)
        codes = unpack(packed, ctx.where)
        g = grad.float()
        if ctx.relu:
            g = g * (codes >= first)
        xhat = codes.mul_(step).add_(offset)
        dims = [i for i in range(dim) if i != 1]
        n = grad.numel() // invstd.numel()
        dbeta, dgamma = g.sum(dims), (g * xhat).sum(dims)
        scale = invstd if weight is None else weight.float() * invstd
        dx = (
            xhat.mul_(along_channels(dgamma / -n, dim)).add_(g).sub_(along_channels(dbeta / n, dim))
        )
        dx = dx.mul_(along_channels(scale, dim)).to(grad.dtype)
        needs = ctx.needs_input_grad
        none = (None,) * 6
        return (
            dx if needs[0] else None,
            _as(dgamma, weight) if needs[1] else None,
            _as(dbeta, weight) if needs[2] else None,
            *none,
        )


class NativeBatchNormFunction(torch.autograd.Function):
    """The same on channels-last float32 memory, in fused kernels (`csrc/norm`)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        token: Token | None,
        in_place: bool,
    ) -> Tensor:
        ctx.token = token
        y, packed, stats = native.batch_norm_forward(
            x, weight, bias, running_mean, running_var, momentum, eps, token is not None, in_place
        )
        if in_place:
            ctx.mark_dirty(y)
        ctx.save_for_backward(packed, stats)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        in_place = may_overwrite(counts(grad))
        if ctx.token is not None:
            ctx.token.check()
        packed, stats = ctx.saved_tensors
        needs = ctx.needs_input_grad
        dx, dgamma, dbeta = native.batch_norm_backward(grad, packed, stats, needs[0], in_place)
        none = (None,) * 6
        return (
            dx if needs[0] else None,
            dgamma if needs[1] else None,
            dbeta if needs[2] else None,
            *none,
        )


class LayerNormFunction(torch.autograd.Function):
    """`apply(x, weight, bias, shape, eps)`; a row is one set of values that are normalised."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        shape: list[int],
        eps: float,
    ) -> Tensor:
        y, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, eps)
        rows = (x.float() - mean).mul_(rstd).reshape(rstd.numel(), -1)
        steps = row_steps(rows)
        divisors = torch.where(steps > 0, steps, torch.ones_like(steps))
        packed = pack4(torch.floor(rows / divisors + 8.0).clamp_(0.0, 15.0))
        ctx.save_for_backward(packed, steps, rstd.float().reshape(-1, 1), weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        packed, steps, rstd, weight = ctx.saved_tensors
        count, width = rstd.numel(), grad.numel() // max(rstd.numel(), 1)
        xhat = unpack(packed, ((count, width), False)).sub_(7.5).mul_(steps)
        g = grad.float().reshape(count, width)
        needs = ctx.needs_input_grad
        shape = () if weight is None else tuple(weight.shape)
        dbeta = g.sum(0).view(shape).to(weight.dtype) if needs[2] else None
        dgamma = (g * xhat).sum(0).view(shape).to(weight.dtype) if needs[1] else None
        dx = None
        if needs[0]:
            h = g if weight is None else g * weight.float().view(-1)
            along = (h * xhat).mean(1, keepdim=True)
            dx = (h - h.mean(1, keepdim=True)).sub_(xhat.mul_(along)).mul_(rstd)
            dx = dx.view(grad.shape).to(grad.dtype)
        return dx, dgamma, dbeta, None, None


class NativeLayerNormFunction(torch.autograd.Function):
    """The same on contiguous float32 rows of whole blocks, in fused kernels (`csrc/norm`)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        shape: list[int],
        eps: float,
    ) -> Tensor:
        y, packed, stats = native.layer_norm_forward(x, prod(shape), weight, bias, eps)
        ctx.save_for_backward(packed, stats, weight)
        ctx.shape = shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        packed, stats, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        dx, dweight, dbias = native.layer_norm_backward(grad, packed, stats, weight, needs[0])
        return (
            dx,
            dweight.view(ctx.shape) if needs[1] else None,
            dbias.view(ctx.shape) if needs[2] else None,
            None,
            None,
        )


def _as(v: Tensor, like: Tensor | None) -> Tensor:
    return v if like is None else v.to(like.dtype)
