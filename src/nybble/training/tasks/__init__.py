"""The registry of tasks: one line each."""

from __future__ import annotations

from nybble.errors import UserError, suggest
from nybble.training.config import TrainConfig
from nybble.training.tasks.base import Task
from nybble.training.tasks.vision import VisionTask

TASKS: dict[str, type[Task]] = {
    "vision": VisionTask,
}


def make_task(config: TrainConfig) -> Task:
    """Make the task that `config.task` names; UserError for an unknown one."""
    if config.task not in TASKS:
        raise UserError(
            f"Unknown task '{config.task}'; choose one of {', '.join(TASKS)}."
            f"{suggest(config.task, TASKS)}"
        )
    return TASKS[config.task](config)


__all__ = ["TASKS", "Task", "make_task"]
