"""Batches of sequences of different lengths: padded, and bucketed so that little is padding.

Bucketing: the epoch's random order is cut in groups of `POOL` batches, each group is sorted by
length and cut in batches, and the batches of the epoch come in random order. So a batch holds
sequences of like length, and every epoch has other batches. A pure function of (seed, epoch).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nybble.training.seeds import generator

POOL = 50
"""Batches in a group that is sorted by length."""


def bucketed(lengths: Tensor, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """The epoch's batches as indices; a last batch that would be smaller is left out.

    >>> batches = bucketed(torch.arange(100) % 10, batch_size=10, seed=0, epoch=0)
    >>> len(batches), max(int((b % 10).max() - (b % 10).min()) for b in batches)
    (10, 0)
    """
    random = generator(seed, "order", epoch)
    order = torch.randperm(len(lengths), generator=random)
    batches: list[Tensor] = []
    for start in range(0, len(order), POOL * batch_size):
        group = order[start : start + POOL * batch_size]
        group = group[torch.sort(lengths[group], stable=True).indices]
        batches += [b for b in group.split(batch_size) if len(b) == batch_size]
    return [batches[index] for index in torch.randperm(len(batches), generator=random).tolist()]


def count_batches(count: int, batch_size: int) -> int:
    """How many batches `bucketed` makes of `count` sequences."""
    full, rest = divmod(count, POOL * batch_size)
    return full * POOL + rest // batch_size


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
