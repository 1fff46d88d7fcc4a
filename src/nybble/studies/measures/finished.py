"""A finished run's model and task, and a test of the one on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nybble.errors import UserError
from nybble.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from nybble.training.tasks.base import Inputs, Task


def finished(folder: Path, config: TrainConfig) -> tuple[nn.Module, Task]:
    """The model that the run in `folder` ended with, as it was trained (converted), and its task.

    The model is in evaluation mode; torch's threads and random state are as they were.

    Raises:
        UserError: there is no whole checkpoint, or it does not fit.
    """
    from nybble.training.checkpoint import load_checkpoint
    from nybble.training.folder import CHECKPOINTS
    from nybble.training.prepare import build_model
    from nybble.training.seeds import globals_restored
    from nybble.training.tasks import make_task

    config = config.resolved()
    found = load_checkpoint(folder / CHECKPOINTS)
    if found is None:
        raise UserError(f"{folder} has no checkpoint: the run has not finished.")
    with globals_restored():
        task = make_task(config)
        model, _ = build_model(config, task)
    try:
        model.load_state_dict(found.content["model"])
    except RuntimeError as error:
        raise UserError(f"the checkpoint in {folder} does not fit its model: {error}") from error
    return model.eval(), task


def evaluate(
    model: nn.Module,
    task: Task,
    change: Callable[[Inputs], Inputs] | None = None,
    batches: Iterable[tuple[Inputs, Any]] | None = None,
) -> tuple[float, float, dict[str, float]]:
    """Loss, metric and extra numbers of `model` on the test set, as a training run computes them.

    change: applied to every batch's inputs first (noise, a corruption). batches: in place of the
    task's test batches. Shares are in [0, 1], not in per cent. An output that is not finite gives
    a loss that is not; that is the caller's to judge.
    """
    import torch

    from nybble.training.inputs import call, detached

    loss_sum, items = 0.0, 0
    carried: Any = None
    scores: list[Any] = []
    model.eval()
    with torch.no_grad():
        for inputs, target in task.test_batches() if batches is None else batches:
            given = inputs if change is None else change(inputs)
            output = call(model, given, carried)
            scores.append(task.test_score(model, given, output, target))
            weight = task.weight(target)
            loss_sum += float(task.loss(output, target)) * weight
            items += weight
            carried = detached(task.carry(carried, output))
    if not items:
        raise UserError("The test set gave nothing to measure.")
    return loss_sum / items, float(task.summarise(scores)), dict(task.extras(scores))
