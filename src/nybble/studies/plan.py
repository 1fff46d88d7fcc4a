"""What a comparison will run, and the folder that belongs to it.

    OUT/comparison.json            the record, rewritten after every run
    OUT/report.html                the page, written at the end
    OUT/plan.json                  what all runs share; says that OUT holds this comparison
    OUT/runs/<recipe>-seed<n>/     one run folder each, as `nybble train` writes it
    OUT/selection-<epochs>/<recipe>-seed<n>/   the runs that choose a switch setting

Runs go by seed first and recipe second, so that pairs finish together and an interrupted comparison
has whole pairs.  Recipes and seeds can be added to an existing OUT later; everything else (data,
model, epochs, learning rate, threads, ...) must stay as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nybble.errors import UserError
from nybble.studies.spec import slug
from nybble.training.config import TrainConfig
from nybble.training.files import disk_errors, write_json

PLAN = "plan.json"
FLOAT32 = "fp32"
"""The baseline: it converts no layer, so rules that change a recipe do not apply to it."""
SCHEMA = "nybble.plan/1"
_VARIES = ("recipe", "seed")


@dataclass(frozen=True)
class Plan:
    """The runs of one comparison: every recipe with every seed, all else from `base`.

    `folder` is where the run folders go (OUT/runs or OUT/selection-<epochs>).
    """

    base: TrainConfig
    recipes: tuple[str, ...]
    seeds: tuple[int, ...]
    folder: Path

    def configs(self) -> list[TrainConfig]:
        """One configuration a run, by seed and then by recipe.

        >>> plan = Plan(TrainConfig(), ("fp32", "sun2020"), (0, 1), Path("out/runs"))
        >>> [(c.seed, c.recipe) for c in plan.configs()]
        [(0, 'fp32'), (0, 'sun2020'), (1, 'fp32'), (1, 'sun2020')]
        """
        return [
            replace(
                self.base,
                recipe=recipe,
                seed=seed,
                rules=() if recipe == FLOAT32 else self.base.rules,
                out=str(self.folder / f"{slug(recipe)}-seed{seed}"),
                resume=False,
            )
            for seed in self.seeds
            for recipe in self.recipes
        ]


def shared(base: TrainConfig) -> dict[str, Any]:
    """The part of the configuration that all runs share, as JSON values.

    >>> sorted(shared(TrainConfig()).keys() & {"recipe", "seed", "epochs", "out"})
    ['epochs']
    """
    return {k: v for k, v in base.identity().items() if k not in _VARIES}


def claim(out: Path, base: TrainConfig) -> bool:
    """Make `out` this comparison's folder; True if it was so before (a restart).

    Nothing in an existing folder is changed or removed.

    Raises:
        UserError: `out` is a file, holds something that is not a comparison, or holds a comparison
            that differs (the fields that differ are named).
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: it is a file; give a folder.")
    plan = out / PLAN
    wanted = shared(base)
    if plan.is_file():
        _must_match(plan, wanted)
        return True
    if out.is_dir() and any(out.iterdir()):
        raise UserError(
            f"--out {out}: the folder is not empty and holds no comparison; "
            "give another folder, or remove this one."
        )
    with disk_errors(f"The folder {out}"):
        out.mkdir(parents=True, exist_ok=True)
        write_json(plan, {"schema": SCHEMA, "configuration": wanted})
    return False


def _must_match(plan: Path, wanted: Mapping[str, Any]) -> None:
    try:
        found = json.loads(plan.read_text(encoding="utf-8"))
        if found.get("schema") != SCHEMA:
            raise ValueError(f"schema {found.get('schema')!r}")
        held = shared(TrainConfig.from_dict(found["configuration"]))  # of an earlier version too
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{plan} cannot be read as a comparison's plan: {error}.") from error
    different = differences(held, wanted)
    if different:
        raise UserError(
            f"--out {plan.parent}: it holds another comparison: {'; '.join(different)}. "
            "Give another folder, or the same settings."
        )


def differences(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In words, the settings that differ.

    >>> differences({"epochs": 10, "lr": 0.1}, {"epochs": 20, "lr": 0.1})
    ['epochs is 10 there, 20 asked']
    """
    names: Sequence[str] = list(dict.fromkeys([*held, *wanted]))
    return [
        f"{name} is {held.get(name)!r} there, {wanted.get(name)!r} asked"
        for name in names
        if held.get(name) != wanted.get(name)
    ]
