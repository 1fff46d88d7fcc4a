"""The registry of tasks: one line each, the class imported when it is asked for.

A task of your own is `module:Class`, imported from the current folder too.
"""

from __future__ import annotations

import importlib

from nybble.errors import UserError, suggest
from nybble.own import import_own
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
    if name in TASKS:
        module_name, _, attribute = TASKS[name].partition(":")
        module = importlib.import_module(module_name)
    else:
        module, attribute = import_own(name, "The task")
    found = getattr(module, attribute, None)
    if not isinstance(found, type) or not hasattr(found, "default_data"):
        raise UserError(
            f"'{attribute}' in the module '{module.__name__}' is not a class that inherits from "
            "nybble.training.tasks.Task and has its members."
        )
    return found


def make_task(config: TrainConfig) -> Task:
    """Make the task that `config.task` names, from the resolved configuration."""
    return task_class(config.task)(config.resolved())


__all__ = ["TASKS", "Option", "Task", "make_task", "read_options", "task_class"]
