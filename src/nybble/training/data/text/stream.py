"""Batches of a language model's text: one long stream of tokens, cut in two ways.

A stream is every line followed by <eos>, with one <eos> before the first, so that every token of
the text is predicted once.

Carried (`CarriedBatches`): the stream is laid out in `batch_size` rows, and step k is columns
k*length .. (k+1)*length of them, so a recurrent network goes on where it was (Zaremba et al. 2014).
The stream begins at another place in every epoch (it is a ring), and so are the cuts between rows.

Chunks (`ChunkBatches`): the stream is cut in pieces of `length`, which come in random order; where
the first one begins is random in every epoch.

Both are pure functions of (seed, epoch, step). `steps` sets how many steps an epoch has: of chunks
as many as you like (the next pass over the text begins when one ends), of carried rows at most one
pass; an epoch of fewer is a part of the text, another one every time. Targets are the next tokens;
-100 marks a place where there is none, in the last piece of a test set only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.training.data.text.tokenizers import Tokenizer
from nybble.training.seeds import generator

IGNORED = -100
"""The target of a place that does not count; what `F.cross_entropy` ignores."""


def token_stream(lines: Sequence[str], tokenizer: Tokenizer, end: int) -> Tensor:
    """int32 [M]: <eos>, then every line and its <eos>."""
    ids = np.fromiter(_flat(lines, tokenizer, end), dtype=np.int32)
    return torch.from_numpy(ids)


def _flat(lines: Sequence[str], tokenizer: Tokenizer, end: int) -> Iterator[int]:
    yield end
    for line in lines:
        yield from tokenizer.encode(line)
        yield end


class CarriedBatches:
    """Rows of the stream, `length` tokens a step, in order.

    >>> batches = CarriedBatches(torch.arange(100), batch_size=3, length=5, seed=0)
    >>> inputs, targets = batches.batch(epoch=0, step=1)
    >>> batches.steps_per_epoch, list(inputs.shape), bool((targets == (inputs + 1) % 100).all())
    (6, [3, 5], True)
    """

    def __init__(
        self, stream: Tensor, batch_size: int, length: int, seed: int, steps: int | None = None
    ) -> None:
        self.stream, self.seed = stream, seed
        self.batch_size = min(batch_size, max(1, len(stream) // 2))
        self.row = len(stream) // self.batch_size
        self.length = min(length, self.row)
        whole = self.row // self.length
        self.steps_per_epoch = whole if steps is None else min(steps, whole)

    def batch(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """(inputs, targets), int64 [batch_size, length]."""
        count = len(self.stream)
        offset = int(torch.randint(count, (), generator=generator(self.seed, "offset", epoch)))
        starts = offset + torch.arange(self.batch_size) * self.row + step * self.length
        places = starts[:, None] + torch.arange(self.length + 1)
        window = self.stream[places % count].long()
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()


class ChunkBatches:
    """Pieces of the stream in random order.

    >>> batches = ChunkBatches(torch.arange(100), batch_size=4, length=8, seed=0)
    >>> inputs, targets = batches.batch(epoch=0, step=0)
    >>> batches.steps_per_epoch, list(inputs.shape), bool((targets == inputs + 1).all())
    (2, [4, 8], True)
    """

    def __init__(
        self, stream: Tensor, batch_size: int, length: int, seed: int, steps: int | None = None
    ) -> None:
        if len(stream) < 3:
            raise UserError("The training text is shorter than three tokens.")
        self.stream, self.seed = stream, seed
        self.length = min(length, (len(stream) - 1) // 2)
        # One piece fewer than fit, so that the random beginning is free to move.
        self.pieces = (len(stream) - 1) // self.length - 1
        self.batch_size = min(batch_size, self.pieces)
        self.pass_steps = self.pieces // self.batch_size
        self.steps_per_epoch = steps or self.pass_steps

    def batch(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """(inputs, targets), int64 [batch_size, length]."""
        number, step = divmod(epoch * self.steps_per_epoch + step, self.pass_steps)
        random = generator(self.seed, "order", number)
        offset = int(torch.randint(self.length, (), generator=random))
        order = torch.randperm(self.pieces, generator=random)
        chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
        places = offset + chosen[:, None] * self.length + torch.arange(self.length + 1)
        window = self.stream[places].long()
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()


def evaluation_rows(stream: Tensor, rows: int, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The stream in at most `rows` rows, `length` columns a batch, in order: for a carried state.

    Every token but the first is a target exactly once; places beyond the end are ignored.
    """
    count = len(stream) - 1
    rows = max(1, min(rows, count // 2))
    row = -(-count // rows)
    inputs = _padded(stream[:-1], rows * row, 0).view(rows, row)
    targets = _padded(stream[1:], rows * row, IGNORED).view(rows, row)
    for start in range(0, row, length):
        part = slice(start, start + length)
        yield inputs[:, part].contiguous(), targets[:, part].contiguous()


def evaluation_chunks(
    stream: Tensor, batch_size: int, length: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The stream in pieces of `length`, `batch_size` pieces a batch, the last piece filled up."""
    count = len(stream) - 1
    pieces = -(-count // length)
    inputs = _padded(stream[:-1], pieces * length, 0).view(pieces, length)
    targets = _padded(stream[1:], pieces * length, IGNORED).view(pieces, length)
    for start in range(0, pieces, batch_size):
        part = slice(start, start + batch_size)
        yield inputs[part], targets[part]


def _padded(stream: Tensor, size: int, value: int) -> Tensor:
    filled = torch.full((size,), value, dtype=torch.int64)
    filled[: len(stream)] = stream
    return filled
