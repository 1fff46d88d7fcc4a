"""Softmax at 8 bits, and attention that keeps query, key and value at 8 bits.

    softmax     p ~ code * (largest of the row) / 255;  dx = p (dy - sum(dy p))
    attention   forward: torch's scaled_dot_product_attention on the float32 tensors
                backward: again, on the decoded tensors (int8 and a scale a row), then its own
                backward. Scores, log-sum-exp and output come out of that second pass, so none of
                them is kept. Its price is one more forward of the attention product.

A module whose own `forward` names `scaled_dot_product_attention`, and `nn.MultiheadAttention`, call
it through a `TorchFunctionMode` that lasts as long as their forward and touches nothing else. With
`need_weights=True` torch multiplies step by step instead; that is left alone, and `summary` shows
what it keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nybble.nn.memory.base import MemoryLayer, compresses
from nybble.nn.memory.pack import pack_rows8, unpack_rows8
from nybble.nn.once import once_differentiable
from nybble.products import differentiated


class SoftmaxFunction(torch.autograd.Function):
    """`apply(x, dim)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        y = torch.softmax(x, dim)
        top = y.float().amax(dim, keepdim=True)
        ctx.save_for_backward((y.float() / top).mul_(255.0).round_().to(torch.uint8), top)
        ctx.dim = dim
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        codes, top = ctx.saved_tensors
        p = codes.to(torch.float32).mul_(top / 255.0)
        g = grad.float()
        return (p * (g - (g * p).sum(ctx.dim, keepdim=True))).to(grad.dtype), None


class Softmax(MemoryLayer, nn.Softmax):
    """8 bits a value and a float a row."""

    memory_kind = "softmax"
    memory_keeps = "8 bits a value"

    def forward(self, input: Tensor) -> Tensor:
        """torch's softmax."""
        if self.dim is None or not input.is_floating_point() or not compresses(input):
            return super().forward(input)
        return cast(Tensor, SoftmaxFunction.apply(input, self.dim))  # type: ignore[no-untyped-call]


class AttentionFunction(torch.autograd.Function):
    """`apply(q, k, v, mask, options)`; options: dropout_p, is_causal, scale, enable_gqa."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        state = torch.get_rng_state() if options["dropout_p"] > 0 else None
        with differentiated(again=1):
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)
        packed = [part for x in (q, k, v) for part in pack_rows8(x)]
        ctx.save_for_backward(mask, state, *packed)
        ctx.options, ctx.dtype = options, q.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mask, state, *packed = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        inputs = [
            unpack_rows8(packed[2 * i], packed[2 * i + 1], ctx.dtype).requires_grad_(needs[i])
            for i in range(3)
        ]
        now = torch.get_rng_state() if state is not None else None
        with torch.enable_grad():
            q, k, v = inputs
            try:
                if state is not None:
                    torch.set_rng_state(state)  # the dropout of the forward pass, again
                y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **ctx.options)
            finally:
                if now is not None:
                    torch.set_rng_state(now)
        found = iter(torch.autograd.grad(y, [x for x in inputs if x.requires_grad], grad))
        return (*(next(found) if need else None for need in needs), None, None)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention`, keeping 8 bits a value of its inputs.

    What it cannot do so (a mask that learns, dropout elsewhere than on the CPU) it leaves to torch.

    >>> q = torch.randn(1, 2, 8, 4, requires_grad=True)
    >>> torch.equal(attention(q, q, q), F.scaled_dot_product_attention(q, q, q))
    True
    """
    options = {
        "dropout_p": dropout_p,
        "is_causal": is_causal,
        "scale": scale,
        "enable_gqa": enable_gqa,
    }
    learns = attn_mask is not None and attn_mask.requires_grad
    odd = learns or (dropout_p > 0 and not query.is_cpu) or not query.is_floating_point()
    if odd or not compresses(query, key, value):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, **options)  # type: ignore[arg-type]
    y = AttentionFunction.apply(query, key, value, attn_mask, options)  # type: ignore[no-untyped-call]
    return cast(Tensor, y)


class Intercept(TorchFunctionMode):
    """While it lasts, `scaled_dot_product_attention` is `attention`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Everything else goes on to torch."""
        if func is F.scaled_dot_product_attention:
            return attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class AttentionScope(MemoryLayer):
    """First base of the subclass that a module with attention inside becomes."""

    memory_kind = "attention"
    memory_keeps = "8 bits a value of query, key and value"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, with compressed attention."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(*args, **kwargs)
        with Intercept():
            return super().forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """The class was made at run time: copies and pickles name the class it was made from."""
        return _rebuild, (type(self).__bases__[1],), self.__dict__


def _rebuild(base: type[nn.Module]) -> nn.Module:
    cls = scope_class(base)
    return cls.__new__(cls)


_SCOPES: dict[type[nn.Module], type[AttentionScope]] = {}


def scope_class(base: type[nn.Module]) -> type[AttentionScope]:
    """The compressing subclass of a module's class, made once."""
    if base not in _SCOPES:
        members = {"__module__": __name__, "__doc__": base.__doc__}
        made = type(base.__name__, (AttentionScope, base), members)
        _SCOPES[base] = cast(type[AttentionScope], made)
    return _SCOPES[base]


def attends(cls: type[nn.Module]) -> bool:
    """Whether a module's own forward calls `scaled_dot_product_attention` by name.

    >>> attends(nn.MultiheadAttention), attends(nn.Linear)
    (True, False)
    """
    if issubclass(cls, nn.MultiheadAttention):
        return True
    code = getattr(cls.forward, "__code__", None)
    return code is not None and "scaled_dot_product_attention" in code.co_names
