"""Translations out of an encoder-decoder: greedy, or the best of a beam.

greedy   the most probable token at every place
beam     the `size` best beginnings are kept; a finished sentence scores
         sum of log p / ((5 + length) / 6)^alpha       (Wu et al. 2016, eq. 14, without coverage)

The model offers encode(source) -> what decode needs, and decode(target, *that) -> logits; a model
without them is called as model(source, target). Every step computes the whole beginning again:
nothing is cached, so the numbers are those of training (a quantiser sees the whole tensor). Both
are deterministic: of equal scores the one with the smaller number is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Step = Callable[[Tensor, Tensor], Tensor]
"""(target so far [M, T], row of the source each belongs to [M]) -> logits of the next token."""


@torch.no_grad()
def greedy(model: nn.Module, source: Tensor, bos: int, eos: int, limit: int) -> list[list[int]]:
    """The translations of `source` [N, S], without bos and eos, of at most `limit` tokens."""
    step = stepper(model, source)
    count = len(source)
    target = torch.full((count, 1), bos, dtype=torch.int64)
    open_rows = torch.arange(count)
    finished: list[list[int]] = [[] for _ in range(count)]
    for _ in range(limit):
        chosen = step(target, open_rows).argmax(-1)
        going = chosen != eos
        for row, token in zip(open_rows[going].tolist(), chosen[going].tolist(), strict=True):
            finished[row].append(token)
        target = torch.cat([target, chosen[:, None]], 1)[going]
        open_rows = open_rows[going]
        if len(open_rows) == 0:
            break
    return finished


@torch.no_grad()
def beam(
    model: nn.Module,
    source: Tensor,
    bos: int,
    eos: int,
    limit: int,
    size: int = 4,
    alpha: float = 0.6,
) -> list[list[int]]:
    """The best translation of every row of `source` [N, S] that a beam of `size` finds."""
    step = stepper(model, source)
    count = len(source)
    target = torch.full((count, 1), bos, dtype=torch.int64)
    rows = torch.arange(count)
    scores = torch.zeros(count)
    best: list[tuple[float, list[int]]] = [(float("-inf"), [])] * count
    for length in range(1, limit + 1):
        log_p = step(target, rows).float().log_softmax(-1) + scores[:, None]
        penalty = ((5 + length) / 6) ** alpha
        next_target, next_rows, next_scores = [], [], []
        for row in rows.unique_consecutive().tolist():
            members = (rows == row).nonzero().flatten()
            table = log_p[members]
            values, places = table.flatten().topk(min(2 * size, table.numel()))
            kept = 0
            for value, place in zip(values.tolist(), places.tolist(), strict=True):
                parent, token = divmod(place, table.shape[1])
                beginning = target[members[parent]]
                if token == eos or length == limit:
                    words = beginning[1:].tolist() + ([] if token == eos else [token])
                    best[row] = max(best[row], (value / penalty, words), key=lambda pair: pair[0])
                elif kept < size:
                    next_target.append(torch.cat([beginning, torch.tensor([token])]))
                    next_rows.append(row)
                    next_scores.append(value)
                    kept += 1
        # A sentence stops when no open beginning can overtake what is finished.
        longest = ((5 + limit) / 6) ** alpha
        going = [
            index
            for index, (row, score) in enumerate(zip(next_rows, next_scores, strict=True))
            if score / longest > best[row][0]
        ]
        if not going:
            break
        target = torch.stack([next_target[index] for index in going])
        rows = torch.tensor([next_rows[index] for index in going])
        scores = torch.tensor([next_scores[index] for index in going])
    return [words for _, words in best]


def stepper(model: nn.Module, source: Tensor) -> Step:
    """The function that gives the next token's logits for beginnings of rows of `source`."""
    encode: Any = getattr(model, "encode", None)
    decode: Any = getattr(model, "decode", None)
    if encode is None or decode is None:
        return lambda target, rows: model(source[rows], target)[:, -1]
    memory = encode(source)

    def step(target: Tensor, rows: Tensor) -> Tensor:
        logits: Tensor = decode(target, *(part[rows] for part in memory))
        return logits[:, -1]

    return step
