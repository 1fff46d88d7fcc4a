"""From a configuration with gaps (None: the task's default) to one that says everything.

Order: what the user gave; what a run inherits from the one that it starts from; the task's defaults
for the model; `base.FALLBACK`. A learning rate of the task belongs to the optimizer that the task
names: with another one the fall-back rate is used.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nybble.errors import UserError
from nybble.training import start
from nybble.training.config import PARTIAL_FIELDS, ResolvedConfig, TrainConfig
from nybble.training.tasks.base import FALLBACK, FALLBACK_LR
from nybble.training.tasks.options import complete_options

if TYPE_CHECKING:
    from nybble.training.tasks.base import Task


def resolve(config: TrainConfig, task: type[Task]) -> ResolvedConfig:
    """`config` with every gap filled. Resolving twice changes nothing.

    Raises:
        UserError: an option that the task does not have, or a field that it does not heed.
    """
    empty = {entry.name: entry.default for entry in fields(TrainConfig)}
    for name in PARTIAL_FIELDS:
        if name not in task.uses and getattr(config, name) not in (empty[name], FALLBACK.get(name)):
            raise UserError(
                f"The task {config.task} does not use {name} (--{name.replace('_', '-')}); "
                "leave it out."
            )
    if config.start is not None:
        config = _as_begun(config, task, config.start)
    config = replace(
        config,
        data=task.default_data if config.data is None else config.data,
        model=task.default_model if config.model is None else config.model,
        task_options=complete_options(config.task, task.options, config.task_options),
    )
    own = task.defaults_for(config)
    values: dict[str, Any] = {}
    for name, fallback in FALLBACK.items():
        if getattr(config, name) is None:
            values[name] = own.get(name, fallback)
    if config.lr is None:
        optimizer = str(config.optimizer or values["optimizer"])
        same = own.get("optimizer", FALLBACK["optimizer"]) == optimizer
        values["lr"] = own["lr"] if same and "lr" in own else FALLBACK_LR[optimizer]
        if config.start is not None:
            values["lr"] *= start.RATE
    if config.alpha_lr is None:
        values["alpha_lr"] = own.get("alpha_lr")
    return ResolvedConfig(**{**vars(config), **values})


def _as_begun(config: TrainConfig, task: type[Task], path: str) -> TrainConfig:
    """`config` with the model and the model's options of the run that it starts from.

    A recorded configuration says all of that itself: it can be read when the source is gone."""
    given = {key for key, _ in config.task_options}
    if config.model is not None and config.lr is not None and not Path(path).exists():
        return config
    begun = start.config_of(path)
    if not begun:  # a file of weights alone
        return config
    if begun["task"] != config.task:
        raise UserError(
            f"--from {path}: that run's task is {begun['task']}, not {config.task}; "
            f"write nybble train {begun['task']}."
        )
    if config.model not in (None, begun["model"]):
        raise UserError(
            f"--from {path}: that run's model is {begun['model']}, not {config.model}; "
            "leave --model out."
        )
    taken = tuple(
        (str(key), str(text))
        for key, text in begun.get("task_options") or ()
        if key in task.inherits and key not in given
    )
    return replace(config, model=begun["model"], task_options=config.task_options + taken)
