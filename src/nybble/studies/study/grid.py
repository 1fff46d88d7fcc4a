"""What a study is, as data: a grid of cells, each of which is one training run.

    cells = for seed: for task: for variant: for recipe

Whole groups (seed, task, variant) are neighbours, so pairs finish together, and a study that was
stopped early has few seeds of everything and not all seeds of one task. A cell's KEY is a hash of
the configuration's identity (`TrainConfig.identity`) without the fields that have the default of
`TrainConfig`: a field that a later version adds leaves the keys of finished cells as they are.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

from nybble.errors import UserError
from nybble.studies.study.checks import check_study, check_task, check_variant
from nybble.training.config import SESSION_FIELDS, TrainConfig

FLOAT32 = "fp32"
_FIELDS = frozenset(field.name for field in fields(TrainConfig))
Value = str | int | float | bool


@dataclass(frozen=True)
class Variant:
    """A named change of a task: what the study `robustness` varies.

    changes: pairs (field of TrainConfig, value); the text "*4" multiplies what the task would have
    (resolved), so one variant suits every task. options: pairs (key, value) that are set beside
    the task's own options (`--set KEY=VALUE`), in place of one of the same key.

    >>> faster = Variant("lr x 4", changes=(("lr", "*4"),))
    >>> faster.apply(TrainConfig(lr=0.1)).lr
    0.4
    >>> Variant("noisy", options=(("label_noise", "0.2"),)).apply(TrainConfig()).task_options
    (('label_noise', '0.2'),)
    """

    name: str = ""
    changes: tuple[tuple[str, Value], ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check_variant(self)

    def apply(self, config: TrainConfig) -> TrainConfig:
        """`config` with the changes.

        Raises:
            UserError: no such field, or a field that is not a number is to be multiplied.
        """
        values: dict[str, Any] = {}
        for name, value in self.changes:
            if name in SESSION_FIELDS or name not in _FIELDS:
                raise UserError(f"variant '{self.name}': '{name}' is no field of a training run.")
            values[name] = self._value(config, name, value)
        if self.options:
            given = dict(self.options)
            kept = tuple(pair for pair in config.task_options if pair[0] not in given)
            values["task_options"] = (*kept, *self.options)
        return replace(config, **values)

    def _value(self, config: TrainConfig, name: str, value: Value) -> Any:
        if not (isinstance(value, str) and value.startswith("*")):
            return value
        now = getattr(config.resolved(), name)
        if isinstance(now, bool) or not isinstance(now, int | float):
            raise UserError(
                f"variant '{self.name}': {name} is {now!r} and cannot be multiplied; give a value."
            )
        try:
            product = now * float(value[1:])
        except ValueError:
            product = math.nan
        if not math.isfinite(product):
            raise UserError(
                f"variant '{self.name}': {name} cannot be multiplied by {value[1:]!r}; write a "
                "number, as in '*4'."
            )
        return max(1, round(product)) if isinstance(now, int) else product


PLAIN = Variant()
"""The task as it is."""


@dataclass(frozen=True)
class StudyTask:
    """One task of a study.

    config: the training configuration of every run (its recipe, seed and out are not used); threads
    None is one thread, because a result must not depend on how many cells run beside it.
    recipes, seeds: in place of the study's, where this task takes others.
    margin: how far from the baseline a recipe may be and still count as equivalent, in points, or
    in per cent of a metric that is compared by ratio; None: equivalence is not tested.
    """

    name: str
    config: TrainConfig
    recipes: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    margin: float | None = None

    def __post_init__(self) -> None:
        check_task(self)


@dataclass(frozen=True)
class Cell:
    """One run of a study; `config` has recipe, seed and variant in it, and no folder yet."""

    study: str
    task: str
    variant: str
    recipe: str
    seed: int
    config: TrainConfig
    measures: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Name of the cell's folder and of its row: equal configurations, equal keys."""
        return _key(self.config)

    @property
    def name(self) -> str:
        """The cell in words.

        >>> Cell("s", "gpt", "lr x 4", "sun2020", 1, TrainConfig()).name
        'gpt, lr x 4, sun2020, seed 1'
        """
        parts = [self.task, self.variant, self.recipe, f"seed {self.seed}"]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Study:
    """A named grid of cells.

    baseline: the recipe that others are compared with, in every (task, variant).
    measures: names of `nybble.studies.measures.MEASURES`, run on every finished cell.
    notes: what a reader must know, for example what was left out and why.

    >>> small = TrainConfig(model="cnn", epochs=1, threads=1)
    >>> study = Study("demo", "A demonstration", (StudyTask("vision", small),),
    ...     ("fp32", "sun2020"), (0, 1))
    >>> [cell.name for cell in study.cells()][:3]
    ['vision, fp32, seed 0', 'vision, sun2020, seed 0', 'vision, fp32, seed 1']
    """

    name: str
    title: str
    tasks: tuple[StudyTask, ...]
    recipes: tuple[str, ...]
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...] = (PLAIN,)
    measures: tuple[str, ...] = ()
    baseline: str | None = FLOAT32
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        check_study(self)
        names = (("task", self.tasks), ("variant", self.variants))
        for what, entries in names:
            if not entries:
                raise UserError(f"study '{self.name}': give at least one {what}.")
            _all_different(self.name, what, [entry.name for entry in entries])
        for task in self.tasks:
            recipes, seeds = self.recipes_of(task), self.seeds_of(task)
            if not recipes or not seeds:
                raise UserError(
                    f"study '{self.name}', task '{task.name}': give at least one recipe and seed."
                )
            _all_different(self.name, "recipe", list(recipes))
            _all_different(self.name, "seed", list(map(str, seeds)))

    def recipes_of(self, task: StudyTask) -> tuple[str, ...]:
        """The recipes of one task."""
        return self.recipes if task.recipes is None else task.recipes

    def seeds_of(self, task: StudyTask) -> tuple[int, ...]:
        """The seeds of one task."""
        return self.seeds if task.seeds is None else task.seeds

    def cells(self) -> tuple[Cell, ...]:
        """Every cell, in the order in which they are run.

        Raises:
            UserError: two cells are the same run (a variant that changes nothing), or a variant
                does not suit a task.
        """
        every = dict.fromkeys(seed for task in self.tasks for seed in self.seeds_of(task))
        cells = [
            self._cell(task, variant, recipe, seed)
            for seed in sorted(every)
            for task in self.tasks
            if seed in self.seeds_of(task)
            for variant in self.variants
            for recipe in self.recipes_of(task)
        ]
        seen: dict[str, Cell] = {}
        for cell in cells:
            other = seen.setdefault(cell.key, cell)
            if other is not cell:
                raise UserError(
                    f"study '{self.name}': '{other.name}' and '{cell.name}' are the same run; "
                    "take one of them out."
                )
        return tuple(cells)

    def _cell(self, task: StudyTask, variant: Variant, recipe: str, seed: int) -> Cell:
        changed = variant.apply(task.config)
        config = replace(
            changed,
            recipe=recipe,
            seed=seed,
            rules=() if recipe == FLOAT32 else changed.rules,
            threads=changed.threads or 1,
            out=None,
            resume=False,
        )
        return Cell(self.name, task.name, variant.name, recipe, seed, config, self.measures)


def _all_different(study: str, what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"study '{study}': the {what} '{name}' is there twice; keep one.")


@lru_cache(maxsize=4096)
def _key(config: TrainConfig) -> str:
    default = TrainConfig().to_dict()
    identity = {k: v for k, v in config.identity().items() if v != default[k]}
    text = json.dumps(identity, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
