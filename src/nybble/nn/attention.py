"""The two products of attention, Q K^T and P V, as Gemms of few bits: an option of the recipes.

    S = Q K^T / sqrt(d) + mask        Gemms of a batch of heads: x = Q, weight = K
    P = softmax(S)                    float32
    Y = dropout(P) V                  x = P (unsigned), weight = V^T

Each product is a layer of its own with the recipe's six slots: its input (Q, P) goes through the
input slot, so a learned clip and signed or unsigned codes as the first batch tells, its other
operand (K, V) through the weight slot; every operand has one scale for the whole batch of heads.
Both are off unless asked for: `sun2020:attention=yes`, or a rule that names `qk_product` or
`pv_product`. P is kept in float32 between the products, as in torch without its fused kernels.

Not done here: scales per head; a softmax of few bits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.nn.state import QuantizedLayer
from nybble.ops.geometry import Geometry
from nybble.ops.spec import SAME, LayerSpec
from nybble.quantizers import Quantizer

_BMM = Geometry("bmm")
PRODUCTS = ("qk_product", "pv_product")


def of_products(spec: LayerSpec) -> LayerSpec:
    """`spec` without what belongs to parameters: keys and values are data of one step.

    Their gradients take no estimate of a quantiser's slope. Tiles, which are the same along either
    dimension of a weight, are blocks along the sum here, so grad_input quantises along its own.
    """
    changes: dict[str, Any] = {"weight_gradient": None}
    second = spec.output_weight
    if (
        spec.grad_input_weight == SAME
        and isinstance(second, Quantizer)
        and getattr(second.scale, "granularity", "") == "tile"
    ):
        changes["grad_input_weight"] = second
    return replace(spec.bare, **changes)


class Product(QuantizedLayer):
    """One of the two products: a child module of the module that attends, without parameters of
    its own but the clip."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that the owner does not become a child of its child.
        self._nybble_owner = (owner,)
        self._nybble_flows = False

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """A parameter of the module that attends: its device and its steps are this layer's."""
        found = next(self._nybble_owner[0].parameters(recurse=True), None)
        return torch.empty(0) if found is None else found

    def attach_(self, spec: LayerSpec, **info: Any) -> None:
        """Add the state; what both operands are comes and goes, so there is nothing to hook."""
        super().attach_(of_products(spec), **info)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """[..., M, K] times [..., N, K]: [..., M, N]."""
        lead = x.shape[:-2]
        self._nybble_flows = weight.requires_grad
        sizes = math.prod(lead)
        y = self._gemm(
            x.reshape(sizes, *x.shape[-2:]), weight.reshape(sizes, *weight.shape[-2:]), None, _BMM
        )
        return y.view(*lead, *y.shape[1:])

    def _learns(self, x: Tensor) -> bool:
        return x.requires_grad or self._nybble_flows


def attend(
    qk: Product | None,
    pv: Product | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    dropout: float = 0.0,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(attention's output [..., L, Ev], its weights [..., L, S] as they met the values).

    query [..., L, E], key [..., S, E], value [..., S, Ev] of equal leading sizes; mask: to be
    added, or bool, where True takes part. A product that is None is torch's. A row that the mask
    leaves nothing has weights 0.
    """
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query @ key.transpose(-2, -1) if qk is None else qk(query, key)
    scores = scores * factor
    if mask is not None:
        gone = mask.dtype is torch.bool
        scores = scores.masked_fill(~mask, -math.inf) if gone else scores + mask
    weights = torch._safe_softmax(scores, -1).to(query.dtype)
    weights = F.dropout(weights, dropout)
    if pv is None:
        return weights @ value, weights
    return pv(weights, value.transpose(-2, -1)), weights


class ScaledDotProductAttention(nn.Module):
    """`torch.nn.functional.scaled_dot_product_attention` as a module, for models of your own: it
    is torch's function until a recipe with `attention=yes` converts it.

    >>> import nybble
    >>> attention = ScaledDotProductAttention()
    >>> q, k, v = torch.randn(3, 1, 2, 8, 4)
    >>> plain = attention(q, k, v, is_causal=True)
    >>> _ = nybble.convert(nn.ModuleList([attention]), "sun2020:attention=yes+first_last=int4")
    >>> attention(q, k, v, is_causal=True).shape, [name for name, _ in attention.named_children()]
    (torch.Size([1, 2, 8, 4]), ['qk_product', 'pv_product'])
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """The arguments are torch's."""
        return scaled_dot_product_attention(
            self, query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
        )


def scaled_dot_product_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """torch's function, with the products of `module` where a recipe gave it some.

    >>> q = torch.randn(1, 2, 8, 4)
    >>> y = scaled_dot_product_attention(nn.Module(), q, q, q)
    >>> torch.equal(y, F.scaled_dot_product_attention(q, q, q))
    True
    """
    qk, pv = products_of(module)
    if qk is None and pv is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if is_causal:
        if attn_mask is not None:
            raise UserError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
        attn_mask = causal(query.shape[-2], key.shape[-2], query.device)
    if enable_gqa:
        key, value = repeat_heads(query, key), repeat_heads(query, value)
    lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    query, key, value = (x.expand(*lead, *x.shape[-2:]) for x in (query, key, value))
    return attend(qk, pv, query, key, value, attn_mask, dropout=dropout_p, scale=scale)[0]


def products_of(module: nn.Module) -> tuple[Product | None, Product | None]:
    """The converted products of a module that attends."""
    found = [module._modules.get(name) for name in PRODUCTS]
    return cast(
        "tuple[Product | None, Product | None]",
        tuple(part if isinstance(part, Product) else None for part in found),
    )


def causal(rows: int, columns: int, device: torch.device) -> Tensor:
    """Where a query may look: True at and below the diagonal.

    >>> causal(2, 3, torch.device("cpu")).tolist()
    [[True, False, False], [True, True, False]]
    """
    return torch.ones(rows, columns, dtype=torch.bool, device=device).tril()


def repeat_heads(query: Tensor, x: Tensor) -> Tensor:
    """Key or value heads that several query heads share, once for each."""
    heads, fewer = query.shape[-3], x.shape[-3]
    if fewer == 0 or heads % fewer:
        raise UserError(
            f"scaled_dot_product_attention: {heads} query heads cannot share {fewer} key heads"
        )
    return x if heads == fewer else x.repeat_interleave(heads // fewer, -3)
