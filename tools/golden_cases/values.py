"""What the cases are made of, and integers that provoke: extremes, one sign, random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Value = Tensor | int | float | Sequence[int]
Case = tuple[str, Mapping[str, Value]]

FILLS = ("random", "high", "low", "mixed")


def integers(
    shape: Sequence[int], low: int, high: int, fill: str, generator: torch.Generator
) -> Tensor:
    """int64 in [low, high]: random, all at one end, or a random choice of the two ends."""
    if fill == "high":
        return torch.full(tuple(shape), high)
    if fill == "low":
        return torch.full(tuple(shape), low)
    if fill == "mixed":
        ends = torch.tensor([low, high])
        return ends[torch.randint(0, 2, tuple(shape), generator=generator)]
    return torch.randint(low, high + 1, tuple(shape), generator=generator)


def generator(seed: int) -> torch.Generator:
    """torch's own random numbers on the CPU, which do not change between versions."""
    return torch.Generator().manual_seed(seed)
