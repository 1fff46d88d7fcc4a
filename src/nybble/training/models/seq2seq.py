"""Encoder-decoder Transformer for translation (Vaswani et al. 2017), pre-norm.

    encoder:  x = sqrt(width) * embedding + sinusoidal positions, dropout;  blocks;  norm
    decoder:  the same with causal blocks that also look at the encoder's output;  norm;  head

Source and target share one vocabulary and one embedding; the head has weights of its own (it is the
last layer, which recipes treat apart), where the paper ties them. Initial weights are Glorot's
uniform ones, embeddings normal with deviation width^-1/2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nybble.training.models.blocks import Block, DecoderBlock, dropout
from nybble.training.models.gpt import check_heads


def sinusoids(length: int, width: int) -> Tensor:
    """float32 [length, width]: sin and cos of place / 10000^(2i / width).

    >>> sinusoids(2, 2)
    tensor([[0.0000, 1.0000],
            [0.8415, 0.5403]])
    """
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    table = torch.zeros(length, width)
    table[:, 0::2] = angles.sin()
    table[:, 1::2] = angles.cos()[:, : width // 2]
    return table


class TranslationTransformer(nn.Module):
    """Source [N, S], target so far [N, T] -> logits [N, T, vocabulary].

    Tokens equal to `pad` in the source are not looked at. Padding of the target comes last, so the
    causal mask is enough.

    >>> model = TranslationTransformer(vocabulary=10, length=8, width=16, layers=1, heads=2)
    >>> tokens = torch.ones(2, 5, dtype=torch.int64)
    >>> list(model(tokens, tokens[:, :3]).shape)
    [2, 3, 10]
    """

    def __init__(
        self,
        vocabulary: int,
        length: int = 64,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        hidden: int | None = None,
        dropout_share: float = 0.0,
        pad: int = 0,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        hidden = hidden or 4 * width
        self.pad = pad
        self.scale = math.sqrt(width)
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(length, width), persistent=False)
        self.drop = dropout(dropout_share)
        self.encoder = nn.ModuleList(
            Block(width, heads, hidden, causal=False, drop=dropout_share) for _ in range(layers)
        )
        self.encoder_norm = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(
            DecoderBlock(width, heads, hidden, drop=dropout_share) for _ in range(layers)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.tokens.weight, std=width**-0.5)
        nn.init.normal_(self.head.weight, std=width**-0.5)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, mask = self.encode(source)
        return self.decode(target, memory, mask)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's output [N, S, width] and where it may be looked at, bool [N, 1, 1, S]."""
        mask = (source != self.pad)[:, None, None, :]
        x = self.embed(source)
        for block in self.encoder:
            x = block(x, mask)
        return self.encoder_norm(x), mask

    def decode(self, target: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """The logits of the tokens that follow each place of `target`."""
        x = self.embed(target)
        for block in self.decoder:
            x = block(x, memory, mask)
        logits: Tensor = self.head(self.decoder_norm(x))
        return logits

    def embed(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.drop(self.tokens(tokens) * self.scale + self.positions[: tokens.shape[1]])
        return x
