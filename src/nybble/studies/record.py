"""The record of a comparison: one JSON document from which every table and page is made.

    schema          "nybble.comparison/1"
    title, command  what was compared, and the command that repeats it
    created         UTC, ISO 8601
    task, metric    metric: name, unit, how many digits a report shows, and the comparison:
                    "difference" of two recipes (as in records without this field), or "ratio": then
                    a row's difference is in per cent of the baseline
    baseline        the recipe that others are compared with ("fp32"), or null
    configuration   the training configuration shared by all runs, the recipes and the seeds
    jobs            how many runs went on at the same time, which slows each of them
    environment     versions, machine, commit
    rows            one a recipe (see `outcome.make_row`), in the order of the table, each with
                    "selected" (null, or how it was chosen on other seeds)
    runs            every run (see `outcome.Outcome`), the failed ones too
    timing          step times measured interleaved in one process, or null
    selection       the short runs that chose a switch setting, or null

Numbers that are not finite are null.  The file is written next to its place and renamed, so a
reader never sees half of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nybble.errors import UserError
from nybble.studies.outcome import Outcome, make_row
from nybble.training.files import disk_errors, write_json

SCHEMA = "nybble.comparison/1"

_REQUIRED = ("schema", "title", "baseline", "metric", "configuration", "rows", "runs")


def make_record(
    *,
    title: str,
    command: str,
    created: str,
    task: str,
    metric: Mapping[str, Any],
    baseline: str | None,
    configuration: Mapping[str, Any],
    environment: Mapping[str, Any],
    recipes: Sequence[str],
    seeds: Sequence[int],
    outcomes: Sequence[Outcome],
    timing: Mapping[str, Any] | None = None,
    selection: Mapping[str, Any] | None = None,
    jobs: int = 1,
) -> dict[str, Any]:
    """Assemble the record; rows are in the order of `recipes`, runs by seed and then recipe.

    `baseline` must be one of `recipes` or None.  A recipe that `selection` names as its winner is
    marked, so that no report can show it without saying how it was chosen.

    Raises:
        UserError: the baseline is not among the recipes.
    """
    if baseline is not None and baseline not in recipes:
        raise UserError(f"baseline '{baseline}' is not among the recipes {', '.join(recipes)}")
    better = bool(metric.get("higher_is_better", True))
    how = str(metric.get("comparison", "difference"))
    rows = [make_row(recipe, outcomes, seeds, baseline, better, how) for recipe in recipes]
    winner = selection["winner"] if selection else None
    for row in rows:
        row["selected"] = dict(selection) if selection and row["recipe"] == winner else None
        row["step_time"] = (timing or {}).get("ratios", {}).get(row["recipe"])
    order = {recipe: place for place, recipe in enumerate(recipes)}
    runs = sorted(outcomes, key=lambda run: (run.seed, order.get(run.recipe, len(order))))
    return {
        "schema": SCHEMA,
        "title": title,
        "command": command,
        "created": created,
        "task": task,
        "metric": dict(metric),
        "baseline": baseline,
        "configuration": dict(configuration),
        "recipes": list(recipes),
        "seeds": list(seeds),
        "jobs": jobs,
        "environment": dict(environment),
        "rows": rows,
        "runs": [run.to_dict() for run in runs],
        "timing": dict(timing) if timing else None,
        "selection": dict(selection) if selection else None,
    }


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write `record` so that the file is either the old one or the whole new one.

    Raises:
        UserError: the file cannot be written (for example a full disk).
    """
    with disk_errors(f"The record {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(record))


def read_record(path: Path) -> dict[str, Any]:
    """Read a comparison's record.

    Raises:
        UserError: no such file, not JSON, another schema, or a part is missing.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not a comparison record: not JSON ({error})") from error
    found = data.get("schema") if isinstance(data, dict) else None
    if found != SCHEMA:
        raise UserError(f"{path} has schema {found!r}; this version reads {SCHEMA!r}")
    missing = [name for name in _REQUIRED if name not in data]
    if missing:
        raise UserError(f"{path} is not a whole record: {', '.join(missing)} missing")
    record: dict[str, Any] = data
    return record
