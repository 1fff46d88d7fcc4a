"""A vision transformer for small images (Dosovitskiy et al. 2021, arXiv 2010.11929).

    tokens   a convolution of patches of 4 x 4 pixels (stride 4), plus fixed positions
    blocks   pre-norm attention and MLP, as in transformer.py, not causal
    head     the mean over the tokens, layer norm, linear

Positions are fixed sines and cosines of row and column and the head averages (both as in Beyer et
al. 2022, arXiv 2205.01580), so any image size will do. `vit-tiny` has 6 blocks of width 128, 4
heads, MLP 512 (1.2 million weights), not the 12 of width 192 that the name means on ImageNet.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention over all tokens. [N, T, width] -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        parts = self.qkv(x).view(n, t, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(y.transpose(1, 2).reshape(n, t, width))
        return out


class Block(nn.Module):
    """Attention and MLP, each on the normalised input and added to it."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.down(self.act(self.up(self.norm2(x))))
        return out


class ViT(nn.Module):
    """[N, in_channels, H, W] -> [N, num_classes]."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        patch: int = 4,
        layers: int = 6,
        width: int = 128,
        heads: int = 4,
        hidden: int = 512,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, patch, patch)
        self.blocks = nn.Sequential(*(Block(width, heads, hidden) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.kaiming_normal_(self.patches.weight, nonlinearity="linear")

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        x = x + positions(x.shape[1], x.shape[2], x.shape[3]).to(x)
        x = self.blocks(x.flatten(2).transpose(1, 2))
        logits: Tensor = self.head(self.norm(x.mean(1)))
        return logits


@lru_cache(maxsize=8)
def positions(width: int, rows: int, columns: int) -> Tensor:
    """[1, width, rows, columns]: a quarter of the channels each for sine and cosine of row and
    column, at frequencies from 1 down to 1/10000.

    >>> positions(8, 2, 3).shape
    torch.Size([1, 8, 2, 3])
    """
    quarter = width // 4
    frequencies = 1.0 / 10000 ** (torch.arange(quarter) / max(quarter - 1, 1))
    row = torch.arange(rows).view(1, -1, 1) * frequencies.view(-1, 1, 1)
    column = torch.arange(columns).view(1, 1, -1) * frequencies.view(-1, 1, 1)
    parts = [f(angle).expand(-1, rows, columns) for angle in (row, column) for f in _WAVES]
    return torch.cat(parts).unsqueeze(0)


_WAVES = (torch.sin, torch.cos)


def vit_tiny(num_classes: int = 10, in_channels: int = 3) -> ViT:
    """A vision transformer of 6 blocks of width 128."""
    return ViT(num_classes, in_channels)
