"""Batches of sequences of different lengths: padded, and bucketed so that little is padding.

Bucketing: the random order of a pass is cut in groups of `POOL` batches, each group is sorted by
length and cut in batches, and all batches come in random order. So a batch holds sequences of like
length, and every pass has other batches. A pure function of (seed, epoch, step).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nybble.training.seeds import generator

POOL = 50
"""Batches in a group that is sorted by length."""


class BucketedBatches:
    """Indices of sequences, batch by batch; a last batch that would be smaller is left out.

    steps: steps in an epoch, None: one pass. Where they differ, passes follow each other.

    >>> batches = BucketedBatches(torch.arange(100) % 10, batch_size=10, seed=0)
    >>> chosen = [batches.batch(0, step) for step in range(batches.steps_per_epoch)]
    >>> len(chosen), max(int((c % 10).max() - (c % 10).min()) for c in chosen)
    (10, 0)
    """

    def __init__(
        self, lengths: Tensor, batch_size: int, seed: int, steps: int | None = None
    ) -> None:
        self.lengths, self.seed = lengths, seed
        self.batch_size = min(batch_size, len(lengths))
        self.pass_steps = len(lengths) // self.batch_size
        self.steps_per_epoch = steps or self.pass_steps
        self._pass: tuple[int, list[Tensor]] | None = None

    def batch(self, epoch: int, step: int) -> Tensor:
        """The indices of a step's sequences, int64 [batch_size]."""
        number, place = divmod(epoch * self.steps_per_epoch + step, self.pass_steps)
        if self._pass is None or self._pass[0] != number:
            self._pass = number, self._batches(number)
        return self._pass[1][place]

    def _batches(self, number: int) -> list[Tensor]:
        random = generator(self.seed, "order", number)
        order = torch.randperm(len(self.lengths), generator=random)
        order = order[: self.pass_steps * self.batch_size]
        batches: list[Tensor] = []
        for group in order.split(POOL * self.batch_size):
            group = group[torch.sort(self.lengths[group], stable=True).indices]
            batches += group.split(self.batch_size)
        mixed = torch.randperm(len(batches), generator=random).tolist()
        return [batches[index] for index in mixed]


def in_order_of_length(lengths: Tensor, batch_size: int) -> list[Tensor]:
    """Every index once, sorted by length: the batches of a test set."""
    return list(torch.sort(lengths, stable=True).indices.split(batch_size))


def pad(sequences: Sequence[Sequence[int]], value: int) -> Tensor:
    """int64 [N, longest], filled up with `value` at the end.

    >>> pad([[5, 6], [7]], 0).tolist()
    [[5, 6], [7, 0]]
    """
    longest = max(len(sequence) for sequence in sequences)
    filled = torch.full((len(sequences), longest), value, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        filled[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.int64)
    return filled
