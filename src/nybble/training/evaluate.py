"""The test of a model on its task: mean loss, metric and extra numbers of the whole test set.

    change(inputs, index)    what the model is given instead of batch `index`: noise, corruptions
                             (`nybble.studies.measures`); the targets stay

The model is put in eval mode; the state that recurrent models carry goes from batch to batch, as in
training. A test whose loss or metric is no finite number is the caller's business: the training
loop stops there, a measure of faults counts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nybble.errors import UserError
from nybble.training.inputs import call, detached
from nybble.training.tasks.base import Inputs, Task

Change = Callable[[Inputs, int], Inputs]
"""(inputs of a test batch, its number) -> what the model sees instead."""
Watch = Callable[[float, Inputs, Any], None]
"""Called with the loss, the inputs and the carried state of every batch, before it is counted."""


@dataclass(frozen=True)
class Evaluation:
    """What a test gave."""

    loss: float
    metric: float
    extras: dict[str, float]

    @property
    def finite(self) -> bool:
        """Whether loss and metric are numbers.

        >>> Evaluation(1.0, math.inf, {}).finite
        False
        """
        return math.isfinite(self.loss) and math.isfinite(self.metric)


@torch.no_grad()
def evaluate(
    model: nn.Module, task: Task, change: Change | None = None, watch: Watch | None = None
) -> Evaluation:
    """Test `model` on the task's test set.

    Raises:
        UserError: the test set gave nothing to measure.
    """
    model.eval()
    carried = None
    loss_sum, items = 0.0, 0
    scores: list[Any] = []
    for index, (inputs, target) in enumerate(task.test_batches()):
        if change is not None:
            inputs = change(inputs, index)
        output = call(model, inputs, carried)
        score = task.test_score(model, inputs, output, target)
        loss = float(task.loss(output, target))
        if watch is not None:
            watch(loss, inputs, carried)
        weight = task.weight(target)
        loss_sum += loss * weight
        items += weight
        scores.append(score)
        carried = detached(task.carry(carried, output))
    if not items:
        name = task.describe()["name"]
        raise UserError(f"The test set of '{name}' gave nothing to measure.")
    return Evaluation(loss_sum / items, float(task.summarise(scores)), dict(task.extras(scores)))
