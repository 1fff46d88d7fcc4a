"""A bidirectional Transformer encoder with a classifier, as BERT is (Devlin et al. 2019).

    x = token embedding + position embedding, norm, dropout;  blocks;  norm
    logits = classifier(tanh(pooler(mean of x over the real tokens)))

Differences from BERT: the blocks are pre-norm, which trains from scratch without a long warm-up;
the mean is pooled in place of a [CLS] token; there is no pre-training and no second segment.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nybble.training.models.blocks import Block, dropout
from nybble.training.models.gpt import check_heads, init_transformer


class EncoderClassifier(nn.Module):
    """Tokens [N, T] and a mask [N, T] (True: a token, False: padding) -> logits [N, classes].

    >>> model = EncoderClassifier(vocabulary=10, classes=3, length=8, width=16, layers=1, heads=2)
    >>> tokens, mask = torch.zeros(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.bool)
    >>> list(model(tokens, mask).shape)
    [2, 3]
    """

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        length: int = 128,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        hidden: int | None = None,
        dropout_share: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.norm_in = nn.LayerNorm(width)
        self.drop = dropout(dropout_share)
        hidden = hidden or 4 * width
        self.blocks = nn.ModuleList(
            Block(width, heads, hidden, causal=False, drop=dropout_share) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.pooler = nn.Linear(width, width)
        self.act = nn.Tanh()
        self.classifier = nn.Linear(width, classes)
        init_transformer(self, 2 * layers)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.drop(self.norm_in(self.tokens(tokens) + self.positions(places)))
        allowed = None if mask is None else mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, allowed)
        x = self.norm(x)
        if mask is None:
            pooled = x.mean(1)
        else:
            real = mask.to(x.dtype)[:, :, None]
            pooled = (x * real).sum(1) / real.sum(1)
        logits: Tensor = self.classifier(self.drop(self.act(self.pooler(pooled))))
        return logits
