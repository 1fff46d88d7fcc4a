"""Attention products in transformers' models, through its registry of attention functions.

A module of transformers that attends asks `ALL_ATTENTION_FUNCTIONS` for the function that its
configuration names. `convert` gives such modules their two products and sets the name to `nybble`
in that model alone (`set_attn_implementation`); `revert` sets it back. Other models go on as they
were: nothing is patched. Masks are those of the `eager` implementation, which are added.

Modules are known by their forward's code, so that transformers is never imported for it. Not done
here: soft-capped scores, attention sinks and packed ("paged") sequences, which are refused.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from nybble.errors import UserError
from nybble.nn.attention import PRODUCTS, attend, products_of, repeat_heads

NAME = "nybble"
_KEPT = "_nybble_attention"
_REFUSED = ("softcap", "s_aux", "sinks")


def attends_by_registry(cls: type[nn.Module]) -> bool:
    """Whether a class of transformers asks its registry for an attention function.

    >>> attends_by_registry(nn.MultiheadAttention)
    False
    """
    code = getattr(cls.forward, "__code__", None)
    known = cls.__module__.startswith("transformers.")
    return known and code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, Tensor]:
    """transformers' protocol: [N, heads, L, E] in, ([N, L, heads, E], weights) out."""
    for name in _REFUSED:
        if more.get(name) is not None:
            raise UserError(
                f"{type(module).__name__}: attention with {name} has no 4-bit products; leave them"
                " in float32: convert with attention=no"
            )
    key, value = repeat_heads(query, key), repeat_heads(query, value)
    bias = more.get("position_bias")
    if attention_mask is not None:
        attention_mask = attention_mask[..., : key.shape[-2]]
        bias = attention_mask if bias is None else bias + attention_mask
    qk, pv = products_of(module)
    y, weights = attend(
        qk, pv, query, key, value, bias, dropout=dropout if module.training else 0.0, scale=scaling
    )
    return y.transpose(1, 2).contiguous(), weights


def use_products(model: nn.Module) -> None:
    """Let transformers' models inside `model` whose attention was given products call them."""
    for outer in _models_with_products(model):
        _register()
        if _KEPT not in outer.__dict__:
            outer.__dict__[_KEPT] = outer.config._attn_implementation
            outer.set_attn_implementation(NAME)


def give_back(model: nn.Module) -> None:
    """Undo `use_products`."""
    for module in model.modules():
        if _KEPT in module.__dict__:
            cast(Any, module).set_attn_implementation(module.__dict__.pop(_KEPT))


def _models_with_products(model: nn.Module) -> list[Any]:
    """The outermost models of transformers around attention that has products."""
    found: list[Any] = []
    inside: set[int] = set()
    for module in model.modules():  # outer modules come first
        if id(module) in inside or not hasattr(module, "set_attn_implementation"):
            continue
        parts = list(module.modules())
        if any(
            name in part._modules
            for part in parts
            if attends_by_registry(type(part))
            for name in PRODUCTS
        ):
            found.append(module)
            inside.update(id(part) for part in parts)
    return found


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, eager_mask)
