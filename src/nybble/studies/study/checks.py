"""What a study must be before a cell of it runs: a user writes it as data, and a slip must not show
only after hours, in the table.

Checked here is what needs neither data nor a recipe; names of recipes, measures and data sets are
checked where a study begins (`run_study`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nybble.errors import UserError
from nybble.training.config import TrainConfig

if TYPE_CHECKING:
    from nybble.studies.study.grid import Study, StudyTask, Variant

__all__ = ["check_study", "check_task", "check_variant"]

VARIED = ("recipe", "seed")
"""Fields that the grid itself varies."""


def check_task(task: StudyTask) -> None:
    """UserError where a task's parts are of the wrong kind, or its margin is none."""
    place = f"task {task.name!r}"
    _text(place, "name", task.name)
    if not isinstance(task.config, TrainConfig):
        raise UserError(f"{place}: config must be a TrainConfig, not {_kind(task.config)}.")
    if task.recipes is not None:
        _each(place, "recipes", task.recipes, _is_text, "names of recipes")
    if task.seeds is not None:
        _each(place, "seeds", task.seeds, _is_seed, "whole numbers of at least 0")
    margin = task.margin
    if margin is not None and not (_is_number(margin) and math.isfinite(margin) and margin > 0):
        raise UserError(f"{place}: the margin must be a number above 0, or None, not {margin!r}.")


def check_variant(variant: Variant) -> None:
    """UserError where a variant changes what the grid varies, or its parts are no pairs."""
    place = f"variant {variant.name!r}"
    _text(place, "name", variant.name)
    for what, pairs in (("changes", variant.changes), ("options", variant.options)):
        _each(place, what, pairs, _is_pair, "pairs (name, value)")
    for name, _ in variant.changes:
        if name in VARIED:
            raise UserError(f"{place}: a study has {name}s of its own; do not change '{name}'.")
    _each(place, "options", variant.options, _is_pair_of_text, "pairs (name, text)")


def check_study(study: Study) -> None:
    """UserError where a study's parts are of the wrong kind, or no task has the baseline that it
    names (float32, which is named by default, may be left out: then there are no differences)."""
    from nybble.studies.study.grid import FLOAT32, StudyTask, Variant

    place = f"study {study.name!r}"
    _text(place, "name", study.name)
    _text(place, "title", study.title)
    _each(place, "tasks", study.tasks, lambda t: isinstance(t, StudyTask), "StudyTasks")
    _each(place, "variants", study.variants, lambda v: isinstance(v, Variant), "Variants")
    _each(place, "recipes", study.recipes, _is_text, "names of recipes")
    _each(place, "seeds", study.seeds, _is_seed, "whole numbers of at least 0")
    _each(place, "measures", study.measures, _is_text, "names of measures")
    _each(place, "notes", study.notes, _is_text, "texts")
    if study.baseline is not None:
        _text(place, "baseline", study.baseline)
    every = {recipe for task in study.tasks for recipe in study.recipes_of(task)}
    if study.baseline not in (None, FLOAT32) and study.baseline not in every:
        raise UserError(
            f"{place}: its baseline {study.baseline!r} is in no task; add it to the recipes."
        )


def _each(place: str, what: str, given: Any, right: Callable[[Any], bool], wanted: str) -> None:
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    wrong = [value for value in given if not right(value)] if listed else [given]
    if wrong:
        raise UserError(f"{place}: {what} must be a tuple of {wanted}, not {_shown(wrong[0])}.")


def _text(place: str, what: str, given: object) -> None:
    if not isinstance(given, str):
        raise UserError(f"{place}: the {what} must be text, not {_shown(given)}.")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_seed(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_pair(value: object) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and isinstance(value[0], str)


def _is_pair_of_text(value: object) -> bool:
    return _is_pair(value) and all(map(_is_text, value))  # type: ignore[call-overload]


def _kind(value: object) -> str:
    return type(value).__name__


def _shown(value: object) -> str:
    return f"{_kind(value)} {str(value)[:60]!r}"
