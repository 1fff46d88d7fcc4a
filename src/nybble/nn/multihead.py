"""`nn.MultiheadAttention` with its projections, and on request its products, in few bits.

torch's module hands its weights to one function, and in inference to one fused kernel, which never
call a layer; so the converted module has a forward of its own, with the same arguments and result.
Its parts are child modules, in this order, each a layer to rules, `summary` and checkpoints:

    in_proj     query's projection; of query, key and value at once where they are one tensor
    k_proj      key's; of key and value at once where these are one tensor
    v_proj      value's
    qk_product, pv_product      off unless asked for (attention.py)
    out_proj    torch's own child

A part that a rule leaves in float32 is torch's operator. Parts that a module never calls (k_proj of
self-attention) stay as they were made. state_dict keys of torch's parameters do not change.

Not done here: nested tensors.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from nybble.errors import UserError
from nybble.nn.attention import attend, products_of
from nybble.nn.eager import eager
from nybble.nn.state import QuantizedLayer

PROJECTIONS = ("in_proj", "k_proj", "v_proj")


class Projection(QuantizedLayer):
    """A linear layer whose weight is a part of its owner's."""

    def __init__(self, owner: nn.Module, part: str) -> None:
        super().__init__()
        # In a tuple, so that the owner does not become a child of its child.
        self._nybble_owner, self._nybble_part = (owner,), part

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The parameter of the owner that holds this projection's weight."""
        return cast(Tensor, getattr(self._nybble_owner[0], self._weight_name()))

    def _weight_name(self) -> str:
        if getattr(self._nybble_owner[0], "_qkv_same_embed_dim", True):
            return "in_proj_weight"
        return f"{'q' if self._nybble_part == 'in_proj' else self._nybble_part[0]}_proj_weight"

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[..., K] with rows of the owner's weight."""
        return self._rows_gemm(x, weight, bias)

    def comes_with(self, state_dict: dict[str, Any], prefix: str) -> bool:
        """Whether the owner's part of a state_dict, behind `prefix`, holds the weight."""
        name = self._weight_name()
        parts = f"{prefix}parametrizations.{name}."
        return prefix + name in state_dict or any(key.startswith(parts) for key in state_dict)


class OutProjection(QuantizedLayer, NonDynamicallyQuantizableLinear):
    """The converted `out_proj`."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        return self._rows_gemm(input, self.weight, self.bias)


class MultiheadAttention(nn.MultiheadAttention):
    """A converted `torch.nn.MultiheadAttention`."""

    @eager
    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The arguments and the result are torch's."""
        batched = query.dim() == 3
        self._check(query, key, value)
        if is_causal and attn_mask is None:
            raise UserError(f"{type(self).__name__}: is_causal is a hint; give attn_mask as well")
        q, k, v = self._project(query, key, value)
        q, k, v = (self._rows_first(x, batched) for x in (q, k, v))
        mask = self._mask(q, k, key_padding_mask, attn_mask, batched)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.to(k.dtype).expand(k.shape[0], 1, -1)], 1)
            v = torch.cat([v, self.bias_v.to(v.dtype).expand(v.shape[0], 1, -1)], 1)
        if self.add_zero_attn:
            k, v = (torch.cat([x, x.new_zeros(x.shape[0], 1, x.shape[2])], 1) for x in (k, v))
        extra = k.shape[1] - (key.shape[self._length_dim(batched)])
        if mask is not None and extra:
            mask = F.pad(mask, (0, extra))
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        qk, pv = products_of(self)
        weights: Tensor | None = None
        if need_weights or qk is not None or pv is not None:
            y, weights = attend(qk, pv, q, k, v, mask, dropout=dropout)
        elif is_causal and key_padding_mask is None and not extra:
            y = F.scaled_dot_product_attention(q, k, v, None, dropout, True)
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        y = y.transpose(1, 2).flatten(2)
        if not batched:
            y = y.squeeze(0)
        elif not self.batch_first:
            y = y.transpose(0, 1)
        y = self.out_proj(y)
        if weights is None or not need_weights:
            return y, None
        if average_attn_weights:
            weights = weights.mean(dim=1)
        return y, weights if batched else weights.squeeze(0)

    def _length_dim(self, batched: bool) -> int:
        return 1 if batched and self.batch_first else 0

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        sizes = (self.embed_dim, self.kdim, self.vdim)
        for name, x, size in zip(
            ("query", "key", "value"), (query, key, value), sizes, strict=True
        ):
            if x.is_nested:
                raise UserError(f"{type(self).__name__}: {name} is nested; pad it to one length")
            if x.dim() not in (2, 3) or x.dim() != query.dim() or x.shape[-1] != size:
                raise UserError(
                    f"{type(self).__name__}: the shape of {name} is {tuple(x.shape)}; it needs"
                    f" {query.dim() if query.dim() in (2, 3) else '2 or 3'} dimensions, the last"
                    f" of size {size}"
                )

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        e = self.embed_dim
        bias = self.in_proj_bias
        if self._qkv_same_embed_dim:
            weight = cast(Tensor, self.in_proj_weight)
            if query is key and key is value:
                return self._linear("in_proj", query, weight, bias).chunk(3, -1)
            q = self._linear("in_proj", query, weight[:e], None if bias is None else bias[:e])
            if key is value:
                rest = None if bias is None else bias[e:]
                return q, *self._linear("k_proj", key, weight[e:], rest).chunk(2, -1)
            weights = [weight[:e], weight[e : 2 * e], weight[2 * e :]]
        else:
            names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
            weights = [cast(Tensor, getattr(self, name)) for name in names]
            q = self._linear("in_proj", query, weights[0], None if bias is None else bias[:e])
        k = self._linear("k_proj", key, weights[1], None if bias is None else bias[e : 2 * e])
        v = self._linear("v_proj", value, weights[2], None if bias is None else bias[2 * e :])
        return q, k, v

    def _linear(self, part: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer = self._modules.get(part)
        if isinstance(layer, Projection):
            return cast(Tensor, layer(x, weight, bias))
        return F.linear(x, weight, bias)

    def _rows_first(self, x: Tensor, batched: bool) -> Tensor:
        if not batched:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _mask(
        self,
        q: Tensor,
        k: Tensor,
        padding: Tensor | None,
        mask: Tensor | None,
        batched: bool,
    ) -> Tensor | None:
        """Both masks as one to add, [1 or N, 1 or heads, 1 or L, S]."""
        batch, length, source = q.shape[0], q.shape[1], k.shape[1]
        total: Tensor | None = None
        if mask is not None:
            heads = batch * self.num_heads
            if tuple(mask.shape) not in ((length, source), (heads, length, source)):
                raise UserError(
                    f"{type(self).__name__}: the shape of attn_mask is {tuple(mask.shape)}, but it"
                    f" must be {(length, source)} or {(heads, length, source)}"
                )
            total = _additive(mask, q.dtype)
            total = total.view(-1, self.num_heads, length, source) if mask.dim() == 3 else total
        if padding is not None:
            rows = padding if batched else padding.unsqueeze(0)
            if tuple(rows.shape) != (batch, source):
                raise UserError(
                    f"{type(self).__name__}: the shape of key_padding_mask is"
                    f" {tuple(padding.shape)}, but it must be {(batch, source)}"
                )
            more = _additive(rows, q.dtype)[:, None, None]
            total = more if total is None else total + more
        return total


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """torch's masks here are the other way round: True is left out."""
    if mask.dtype is not torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)
