"""What the training loop needs to know about a task: loader, model, loss, metric.

A new task is one class with these members and one line in `tasks/__init__.py`. Batches are pure
functions of (epoch, step), so that any step can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn

from nybble.training.config import TrainConfig


class Task(Protocol):
    """One task on one data set. Made from the configuration; loads its data when made."""

    metric: str
    """Name of the metric, "accuracy"."""
    higher_is_better: bool
    """Whether a larger metric is a better one."""
    steps_per_epoch: int

    def __init__(self, config: TrainConfig) -> None: ...

    def describe(self) -> dict[str, Any]:
        """What the result should say about the data (JSON-ready)."""
        ...

    def model(self) -> nn.Module:
        """A new model; its initial weights come from torch's global generator."""
        ...

    def batch(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """The training batch (input, target) of a step."""
        ...

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every test batch (input, target), in a fixed order."""
        ...

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The scalar loss, a mean over the batch."""
        ...

    def score(self, output: Tensor, target: Tensor) -> tuple[float, int]:
        """The sum of the metric over the batch, and how many it was summed over."""
        ...
