"""A decoder-only Transformer in the form of GPT-2, for language models.

    x = token embedding + position embedding, dropout;  pre-norm blocks, causal;  norm;  linear head

Weights of linear layers and embeddings are normal with deviation 0.02; the layers that write to the
residual path are divided by sqrt(2 * layers) (Radford et al. 2019). The head has weights of its
own: it is the last layer, which recipes treat apart.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.training.models.blocks import Block, dropout


def check_heads(width: int, heads: int) -> None:
    """UserError where the heads do not divide the width."""
    if width % heads:
        raise UserError(f"width={width} is no multiple of heads={heads}.")


def init_transformer(model: nn.Module, branches: int) -> None:
    """Normal weights of deviation 0.02, those of `out` and `down` smaller; biases 0."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            last = name.rsplit(".", 1)[-1]
            std = 0.02 / math.sqrt(branches) if last in ("out", "down") else 0.02
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)


class GPT(nn.Module):
    """Tokens [N, T] -> logits [N, T, vocabulary]; T is at most `length`.

    >>> model = GPT(vocabulary=10, length=8, width=16, layers=1, heads=2)
    >>> list(model(torch.zeros(2, 8, dtype=torch.int64)).shape)
    [2, 8, 10]
    """

    def __init__(
        self,
        vocabulary: int,
        length: int = 128,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        hidden: int | None = None,
        dropout_share: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.drop = dropout(dropout_share)
        hidden = hidden or 4 * width
        self.blocks = nn.Sequential(
            *(Block(width, heads, hidden, causal=True, drop=dropout_share) for _ in range(layers))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        init_transformer(self, 2 * layers)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.drop(self.tokens(tokens) + self.positions(places))
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits
