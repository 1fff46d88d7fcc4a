"""ReLU and its like at one bit a value, exactly; GELU and SiLU by their derivative in 4 bits.

mask        dx = dy * (slope of the side that x was on)       ReLU, ReLU6, LeakyReLU
derivative  dx = dy * (round(12 d) / 12),  d = f'(x)          GELU, SiLU
            codes round(12 d) + 2 in 0 .. 15: from -2/12 to 13/12, with 0 and 1 exact, which is
            where almost all of the derivative lies; off by up to 1/24, at its peak (GELU:
            1.129) by 1/22
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.nn.memory.base import MemoryLayer, Token, compresses, has_hooks, is_temporary
from nybble.nn.memory.pack import layout, pack4, pack_mask, unpack, unpack_mask
from nybble.nn.once import once_differentiable
from nybble.nn.owned import counts, may_overwrite
from nybble.ops.native import norm as native


class MaskFunction(torch.autograd.Function):
    """`apply(x, f, blocked, slope, in_place)`: y = f(x); dx = dy, times `slope` where blocked."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        f: Callable[[Tensor], Tensor],
        blocked: Callable[[Tensor], Tensor],
        slope: float,
        in_place: bool,
    ) -> Tensor:
        y = f(x)
        ctx.save_for_backward(pack_mask(blocked(y)))
        ctx.where, ctx.slope = layout(y), slope
        if in_place:
            x.copy_(y)
            ctx.mark_dirty(x)
            return x
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (bits,) = ctx.saved_tensors
        blocked = unpack_mask(bits, ctx.where)
        if ctx.slope == 0.0:
            dx = grad.masked_fill(blocked, 0.0)
        else:
            dx = torch.where(blocked, grad * ctx.slope, grad)
        return dx, None, None, None, None


class NativeReLUFunction(torch.autograd.Function):
    """`apply(x, in_place, top)`: ReLU of dense float32 memory in one pass each way; `top`: the most
    that it lets through, or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, in_place: bool, top: float | None) -> Tensor:
        y, bits = native.relu_forward(x, in_place, top)
        if in_place:
            ctx.mark_dirty(y)
        ctx.save_for_backward(bits)
        ctx.last = native.channels_last(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        in_place = may_overwrite(counts(grad))
        (bits,) = ctx.saved_tensors
        return native.relu_backward(grad, bits, ctx.last, in_place), None, None


def relu(x: Tensor, backend: str) -> Tensor:
    """torch's ReLU of a tensor with a gradient, at one bit a value."""
    if native.fits(backend, x):
        return cast(Tensor, NativeReLUFunction.apply(x, False, None))  # type: ignore[no-untyped-call]
    return cast(Tensor, MaskFunction.apply(x, torch.relu, _not_positive, 0.0, False))  # type: ignore[no-untyped-call]


def gelu(x: Tensor, backend: str, approximate: str = "none") -> Tensor:
    """torch's GELU of a tensor with a gradient, its derivative in 4 bits a value."""

    def derivative(ones: Tensor, x: Tensor) -> Tensor:
        return torch.ops.aten.gelu_backward(ones, x, approximate=approximate)  # type: ignore[no-any-return]

    def f(x: Tensor) -> Tensor:
        return F.gelu(x, approximate=approximate)

    return cast(Tensor, DerivativeFunction.apply(x, f, derivative, backend))  # type: ignore[no-untyped-call]


def _not_positive(y: Tensor) -> Tensor:
    return y <= 0  # NaN passes the gradient, as in torch


class ReLU(MemoryLayer, nn.ReLU):
    """A bit a value; nothing where the BatchNorm before it did its work."""

    memory_kind = "relu"
    memory_keeps = "1 bit a value"

    def forward(self, input: Tensor) -> Tensor:
        """torch's ReLU."""
        if torch.compiler.is_compiling():
            return super().forward(input)
        references = sys.getrefcount(input)
        token = getattr(input, "_nybble_relu", None)
        if isinstance(token, Token):
            del input._nybble_relu  # type: ignore[attr-defined]
            # A sum in place keeps the mark of what it was added to, and needs a ReLU of its own.
            if input._version == token.version and not token.taken:
                token.taken = True
                return input
        if not compresses(input) or not input.is_floating_point():
            return super().forward(input)
        in_place = self.inplace or (is_temporary(input, references) and self._may_overwrite(input))
        if native.fits(self._nybble_memory_backend, input):
            return cast(Tensor, NativeReLUFunction.apply(input, in_place, None))  # type: ignore[no-untyped-call]
        return cast(
            Tensor,
            MaskFunction.apply(input, torch.relu, _not_positive, 0.0, self.inplace),  # type: ignore[no-untyped-call]
        )

    def _may_overwrite(self, x: Tensor) -> bool:
        """The input is a sum that nobody else uses (`fuse.py`), and no hook looks at it."""
        return (
            self._nybble_memory_in_place
            and not x.is_leaf
            and not x._is_view()
            and not has_hooks(self)
        )


class ReLU6(MemoryLayer, nn.ReLU6):
    """A bit a value."""

    memory_kind = "relu"
    memory_keeps = "1 bit a value"

    def forward(self, input: Tensor) -> Tensor:
        """torch's ReLU6."""
        if not compresses(input):
            return super().forward(input)
        if native.fits(self._nybble_memory_backend, input):
            return cast(Tensor, NativeReLUFunction.apply(input, self.inplace, 6.0))  # type: ignore[no-untyped-call]
        return cast(
            Tensor,
            MaskFunction.apply(input, F.relu6, _outside_6, 0.0, self.inplace),  # type: ignore[no-untyped-call]
        )


def _outside_6(y: Tensor) -> Tensor:
    return (y <= 0) | (y >= 6)


class LeakyReLU(MemoryLayer, nn.LeakyReLU):
    """A bit a value; slopes that are negative are left to torch."""

    memory_kind = "relu"
    memory_keeps = "1 bit a value"

    def forward(self, input: Tensor) -> Tensor:
        """torch's LeakyReLU."""
        slope = self.negative_slope
        if not compresses(input) or slope <= 0:
            return super().forward(input)

        def f(x: Tensor) -> Tensor:
            return F.leaky_relu(x, slope)

        return cast(
            Tensor,
            MaskFunction.apply(input, f, _not_above, slope, self.inplace),  # type: ignore[no-untyped-call]
        )


def _not_above(y: Tensor) -> Tensor:
    return ~(y > 0)


class DerivativeFunction(torch.autograd.Function):
    """`apply(x, f, derivative, backend)`: keeps the derivative at every x in 4 bits."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        f: Callable[[Tensor], Tensor],
        derivative: Callable[[Tensor, Tensor], Tensor],
        backend: str,
    ) -> Tensor:
        wide = x.float()
        slope = derivative(torch.ones((), device=x.device).expand_as(wide), wide)
        ctx.native = native.fits(backend, slope) and x.dtype is torch.float32
        if ctx.native:
            ctx.save_for_backward(native.pack_slopes(slope))
            ctx.last = native.channels_last(slope)
        else:
            ctx.save_for_backward(pack4(slope.mul_(12.0).add_(2.0).round_().clamp_(0.0, 15.0)))
            ctx.where = layout(slope)
        del slope
        return f(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        in_place = may_overwrite(counts(grad))
        (packed,) = ctx.saved_tensors
        if ctx.native:
            return native.slope_grad(grad, packed, ctx.last, in_place), None, None, None
        slope = unpack(packed, ctx.where).sub_(2.0).mul_(1.0 / 12.0)
        return slope.mul_(grad.float()).to(grad.dtype), None, None, None


class GELU(MemoryLayer, nn.GELU):
    """The derivative in 4 bits a value."""

    memory_kind = "gelu"
    memory_keeps = "4 bits a value: the derivative"

    def forward(self, input: Tensor) -> Tensor:
        """torch's GELU."""
        if not compresses(input):
            return super().forward(input)
        return gelu(input, self._nybble_memory_backend, self.approximate)


class SiLU(MemoryLayer, nn.SiLU):
    """The derivative in 4 bits a value."""

    memory_kind = "gelu"
    memory_keeps = "4 bits a value: the derivative"

    def forward(self, input: Tensor) -> Tensor:
        """torch's SiLU."""
        if not compresses(input) or self.inplace:
            return super().forward(input)
        backend = self._nybble_memory_backend
        return cast(
            Tensor,
            DerivativeFunction.apply(input, F.silu, torch.ops.aten.silu_backward, backend),  # type: ignore[no-untyped-call]
        )


class DropoutFunction(torch.autograd.Function):
    """`apply(x, p)`: draws as torch's own dropout does, and keeps which values stayed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        noise = torch.empty_like(x).bernoulli_(1.0 - p)
        ctx.save_for_backward(pack_mask(noise != 0))
        ctx.where, ctx.p = layout(noise), p
        return noise.div_(1.0 - p).mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (bits,) = ctx.saved_tensors
        kept = unpack_mask(bits, ctx.where).to(grad.dtype)
        return kept.div_(1.0 - ctx.p).mul_(grad), None


class Dropout(MemoryLayer, nn.Dropout):
    """A bit a value."""

    memory_kind = "dropout"
    memory_keeps = "1 bit a value"

    def forward(self, input: Tensor) -> Tensor:
        """torch's Dropout, from the same random numbers."""
        idle = not self.training or not 0.0 < self.p < 1.0 or self.inplace
        if idle or not compresses(input) or not input.is_cpu:
            return super().forward(input)
        return cast(Tensor, DropoutFunction.apply(input, self.p))  # type: ignore[no-untyped-call]
