"""The command that repeats a run: what differs from the defaults of its task and model.

The settings are those of the record, as JSON, so that a run of another version, with settings that
this one does not know, has its command too.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Final

from nybble.errors import UserError
from nybble.training.config import SESSION_FIELDS, TrainConfig

__all__ = ["command"]

_FIRST: Final = ("task", "data", "model", "recipe", "seed")
_OPTIONS: Final = {"start": "from"}
_NO_SWITCH: Final = ("new_head",)
"""Options that have no --no- form."""


def command(config: Mapping[str, Any]) -> str:
    """The command line, without the place that the run was written to.

    >>> print(command({"task": "vision", "data": "mnist5k", "model": "cnn", "recipe": "luq",
    ...     "seed": 3, "epochs": 7, "rules": [["fc", "none"]], "out": "x"}))
    nybble train vision --data mnist5k --model cnn --recipe luq --seed 3 --rule fc=none --epochs 7
    """
    words = ["nybble", "train", str(config.get("task", "vision"))]
    for name in _FIRST[1:]:
        if config.get(name) is not None:
            words += [f"--{name}", str(config[name])]
    for rule in config.get("rules") or []:
        words += ["--rule", "=".join(map(str, rule))]
    for option in config.get("task_options") or []:
        words += ["--set", "=".join(map(str, option))]
    usual = _defaults(config)
    told = {*_FIRST, "rules", "task_options", *SESSION_FIELDS}
    for name, value in config.items():
        if name in told or value is None or value == usual.get(name):
            continue
        option = _OPTIONS.get(name, name).replace("_", "-")
        if isinstance(value, bool):
            if value or name not in _NO_SWITCH:
                words.append(f"--{option}" if value else f"--no-{option}")
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += [f"--{option}", text]
    if config.get("watch") not in (None, TrainConfig().watch):
        words += ["--watch", str(config["watch"])]
    return shlex.join(words)


def _defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the task and model set where the command line says nothing."""
    given = {name: config[name] for name in ("task", "data", "model") if config.get(name)}
    try:
        return TrainConfig(**given).resolved().to_dict()
    except (UserError, TypeError, ImportError):  # a task of another version, or of the user's own
        return TrainConfig().to_dict()
