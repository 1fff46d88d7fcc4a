"""The parts of the Transformers here: attention and feed-forward network, each a residual branch.

    x = x + attention(norm(x));  x = x + mlp(norm(x))        pre-norm (Xiong et al. 2020)

Every product with a weight is an `nn.Linear` (query, key and value of self-attention are one), and
attention is torch's own `scaled_dot_product_attention`. Dropout is applied to what a branch adds
(Vaswani et al. 2017, section 5.4), not inside attention. A mask is True where a key may be looked
at: bool, broadcastable to [N, heads, T, S].
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def dropout(share: float) -> nn.Module:
    """Dropout, or nothing at all."""
    return nn.Dropout(share) if share > 0 else nn.Identity()


class Attention(nn.Module):
    """Self-attention, causal or over everything that `mask` allows. [N, T, width] -> the same."""

    def __init__(self, width: int, heads: int, causal: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        n, t, width = x.shape
        parts = self.qkv(x).view(n, t, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)
        out: Tensor = self.out(y.transpose(1, 2).reshape(n, t, width))
        return out


class CrossAttention(nn.Module):
    """Attention from x [N, T, width] to memory [N, S, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        n, t, width = x.shape
        size = width // self.heads
        q = self.query(x).view(n, t, self.heads, size).transpose(1, 2)
        both = self.key_value(memory).view(n, memory.shape[1], 2, self.heads, size)
        k, v = both.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out(y.transpose(1, 2).reshape(n, t, width))
        return out


class Block(nn.Module):
    """Self-attention and MLP, each on the normalised input and added to it."""

    def __init__(
        self, width: int, heads: int, hidden: int, causal: bool = True, drop: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.down = nn.Linear(hidden, width)
        self.drop = dropout(drop)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x), mask))
        out: Tensor = x + self.drop(self.down(self.act(self.up(self.norm2(x)))))
        return out


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to the encoder's output, MLP."""

    def __init__(self, width: int, heads: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal=True)
        self.norm2 = nn.LayerNorm(width)
        self.cross = CrossAttention(width, heads)
        self.norm3 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.down = nn.Linear(hidden, width)
        self.drop = dropout(drop)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        x = x + self.drop(self.cross(self.norm2(x), memory, mask))
        out: Tensor = x + self.drop(self.down(self.act(self.up(self.norm3(x)))))
        return out
