"""Where a run is: the position, the sums of the unfinished epoch and the finished epochs' records.

Plain numbers and lists only: it is saved as JSON with every checkpoint. Floats survive JSON exactly
(Python writes the shortest text that reads back as the same double).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunState:
    """`epoch` and `step` (in the epoch) are the next to run."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    score_sum: float = 0.0
    score_count: int = 0
    step_ms: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    elapsed: float = 0.0
    saved_bytes: int | None = None
    loss_scale: float = 1.0
    skipped: int = 0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    gradients: dict[str, list[float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def next_epoch(self) -> None:
        """Move to the next epoch and empty the sums."""
        self.epoch += 1
        self.step = 0
        self.loss_sum = self.score_sum = self.cpu_seconds = self.seconds = 0.0
        self.score_count = 0
        self.step_ms = []
        self.gradients = {}

    def to_dict(self) -> dict[str, Any]:
        """The fields, not copied: to be written at once."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> RunState:
        """The inverse of `to_dict`."""
        return cls(**record)
