"""The registry of tasks: one line each, the class imported when it is asked for.

A task of your own is `module:Class`, imported from the current folder too.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from nybble.errors import UserError, suggest
from nybble.training.config import TrainConfig
from nybble.training.tasks.base import Task
from nybble.training.tasks.options import Option, read_options

TASKS: dict[str, str] = {
    "vision": "nybble.training.tasks.vision:VisionTask",
    "speech": "nybble.training.tasks.speech:SpeechTask",
    "ctc": "nybble.training.tasks.ctc:CTCTask",
    "language": "nybble.training.tasks.language:LanguageTask",
    "translation": "nybble.training.tasks.translation:TranslationTask",
    "text": "nybble.training.tasks.text:TextTask",
}


def task_class(name: str) -> type[Task]:
    """The class of the task `name`; UserError for an unknown one.

    >>> task_class("vision").metric
    'accuracy'
    """
    if name not in TASKS and ":" not in name:
        raise UserError(
            f"Unknown task '{name}'; choose one of {', '.join(TASKS)}, or your own as "
            f"module:Class.{suggest(name, TASKS)}"
        )
    module_name, _, attribute = TASKS.get(name, name).partition(":")
    if name not in TASKS and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), attribute, None)
    except Exception as error:
        if name in TASKS:
            raise
        raise UserError(
            f"The task '{name}' cannot be imported: module '{module_name}' gave "
            f"{type(error).__name__}: {error}."
        ) from error
    if not isinstance(found, type) or not hasattr(found, "default_data"):
        raise UserError(
            f"'{attribute}' in the module '{module_name}' is not a class that inherits from "
            "nybble.training.tasks.Task and has its members."
        )
    return found


def make_task(config: TrainConfig) -> Task:
    """Make the task that `config.task` names, from the resolved configuration."""
    return task_class(config.task)(config.resolved())


__all__ = ["TASKS", "Option", "Task", "make_task", "read_options", "task_class"]
