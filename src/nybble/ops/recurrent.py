"""One direction of one recurrent layer, as both backends take it: what a sequence is made of.

    rows    every tensor of a sequence has one row for each (step, sequence) pair, step after step;
            step t holds the first sizes[t] of the batch, as in torch's PackedSequence
    hh      the hidden-hidden Gemm: its six slots, its random key
    hr      the projection of an LSTM, or None

A step's rows are the operands of the output and the grad_input Gemm. The grad_weight Gemm takes the
rows of the whole sequence as one operand: docs/recurrent.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from nybble.ops.reference.operand import Draw
from nybble.ops.spec import LayerSpec

__all__ = ["GATES", "Mode", "Sequence", "StepGemm"]

Mode = Literal["tanh", "relu", "lstm", "gru"]

GATES: dict[Mode, int] = {"tanh": 1, "relu": 1, "lstm": 4, "gru": 3}
"""Rows of the weights, in multiples of the hidden size."""


@dataclass(frozen=True)
class StepGemm:
    """A Gemm that a sequence computes step by step."""

    spec: LayerSpec
    draw: Draw


@dataclass(frozen=True)
class Sequence:
    """See the module. `reverse`: from the last step to the first.

    >>> Sequence("lstm", (3, 3, 1)).rows, list(Sequence("lstm", (3, 3, 1), True).steps)
    (7, [(6, 1), (3, 3), (0, 3)])
    """

    mode: Mode
    sizes: tuple[int, ...]
    reverse: bool = False
    accumulate: str = "exact"
    backend: str = "reference"

    @property
    def batch(self) -> int:
        """Sequences in the batch."""
        return self.sizes[0]

    @cached_property
    def rows(self) -> int:
        """(step, sequence) pairs."""
        return sum(self.sizes)

    @cached_property
    def steps(self) -> tuple[tuple[int, int], ...]:
        """(first row, rows) of every step, in the order in which the forward pass takes them."""
        found, row = [], 0
        for size in self.sizes:
            found.append((row, size))
            row += size
        return tuple(reversed(found)) if self.reverse else tuple(found)
