"""Where a run is: the position, the sums of the unfinished epoch and the finished epochs' records.

Plain numbers and lists only: it is saved as JSON with every checkpoint. Floats survive JSON exactly
(Python writes the shortest text that reads back as the same double).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunState:
    """`epoch` and `step` (in the epoch) are the next to run.

    score: the sum of the epoch's training scores, entry by entry; empty before the first.
    before: the test of the model that the run started from.
    tail_step: the first step of the recipe's last phase, where a watch found it; watched: [step,
    gradient to noise] of every look of that watch.
    alarms: those of the looks at the layers; raised: layers that went on with more bits by one.
    clipped: steps of the epoch whose gradients were scaled down to `clip_norm`.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    score: list[float] = field(default_factory=list)
    clipped: int = 0
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
    before: dict[str, float] = field(default_factory=dict)
    tail_step: int | None = None
    watched: list[list[float]] = field(default_factory=list)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    raised: dict[str, str] = field(default_factory=dict)

    def next_epoch(self) -> None:
        """Move to the next epoch and empty the sums."""
        self.epoch += 1
        self.step = 0
        self.loss_sum = self.cpu_seconds = self.seconds = 0.0
        self.score = []
        self.clipped = 0
        self.step_ms = []
        self.gradients = {}

    def add_score(self, score: Sequence[float]) -> None:
        """Add the score of a training batch."""
        self.score = [a + b for a, b in zip(self.score or [0] * len(score), score, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """The fields, not copied: to be written at once."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> RunState:
        """The inverse of `to_dict`, also of a state that an earlier version saved."""
        known = dict(record)
        if "score_sum" in known:
            total, count = known.pop("score_sum"), known.pop("score_count")
            known["score"] = [total, count] if count else []
        return cls(**known)
