"""Word-level LSTM language model (Zaremba et al. 2014, arXiv 1409.2329).

    embedding, dropout, LSTM of `layers` layers with dropout between them, dropout, linear head

The weights are uniform in [-0.1, 0.1] (narrow=True: 0.05, as the paper's medium and large models).
The state (hidden and cell, both [layers, N, width]) is given back, to be carried to the next batch;
None is zero. Not done: tied embeddings, weight drop.
"""

from __future__ import annotations

from torch import Tensor, nn

from nybble.training.models.blocks import dropout

State = tuple[Tensor, Tensor]


class LSTMLanguageModel(nn.Module):
    """Tokens [N, T] (and a state) -> logits [N, T, vocabulary] and the new state.

    >>> import torch
    >>> model = LSTMLanguageModel(vocabulary=10, width=8, layers=2)
    >>> logits, (hidden, cell) = model(torch.zeros(3, 5, dtype=torch.int64))
    >>> list(logits.shape), list(hidden.shape)
    ([3, 5, 10], [2, 3, 8])
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 200,
        layers: int = 2,
        dropout_share: float = 0.0,
        narrow: bool = False,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.drop_in = dropout(dropout_share)
        self.lstm = nn.LSTM(
            width,
            width,
            layers,
            batch_first=True,
            dropout=dropout_share if layers > 1 else 0.0,
        )
        self.drop_out = dropout(dropout_share)
        self.head = nn.Linear(width, vocabulary)
        bound = 0.05 if narrow else 0.1
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        x = self.drop_in(self.tokens(tokens))
        y, state = self.lstm(x, state)
        return self.head(self.drop_out(y)), state
