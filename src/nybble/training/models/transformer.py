"""A small language model of today's usual form, for measurements: tokens in, next-token logits out.

    x = token embedding + position embedding
    x = x + attention(norm(x));  x = x + mlp(norm(x))        a block, pre-norm, causal
    logits = head(norm(x))

Four blocks of width 512, 8 heads, MLP 2048 with GELU, vocabulary 256. Every matrix product with a
weight is an `nn.Linear` (query, key and value are one); attention is torch's own
`scaled_dot_product_attention`. No dropout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nybble.training.models.blocks import Block


class Transformer(nn.Module):
    """Tokens [N, T] -> logits [N, T, vocabulary].

    >>> model = Transformer(layers=1, width=16, heads=2, hidden=32, vocabulary=10, length=8)
    >>> model(torch.zeros(2, 8, dtype=torch.int64)).shape
    torch.Size([2, 8, 10])
    """

    def __init__(
        self,
        layers: int = 4,
        width: int = 512,
        heads: int = 8,
        hidden: int = 2048,
        vocabulary: int = 256,
        length: int = 128,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.Sequential(*(Block(width, heads, hidden) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits
