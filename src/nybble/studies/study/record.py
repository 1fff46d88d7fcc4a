"""The record of a study: one JSON document from which its tables and pages are made.

    schema        "nybble.study/1"
    study, title, command, created, notes, baseline
    environment   versions, machine, commit of the process that ran the study
    definitions   by recipe: what it said (`recipes.definition`); records of before that lack it
    tasks         by name: configuration (what all runs share), metric, margin, recipes, seeds
    tables        one a (task, variant): task, variant, metric, margin, seeds, rows; a row is
                  `outcome.make_row` with `verdict` (`equivalence.Verdict`), and `extras` that have
                  their own paired difference
    runs          every cell that has ended: task, variant, recipe, seed, key, status, metric,
                  extras, reason, seconds, saved_bytes, origin, dead_layers
    missing       how many cells have not ended

A record is made from the store alone, so it can be made at any time, and a study that was killed
and started again gives the same tables as one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nybble.errors import UserError
from nybble.studies.equivalence import FAILED, judge
from nybble.studies.outcome import Outcome, make_row
from nybble.studies.statistics import PairedDifference, paired_change, paired_difference
from nybble.studies.study.grid import Study, StudyTask
from nybble.studies.study.store import Store
from nybble.training.files import finite

SCHEMA = "nybble.study/1"
_VARIES = ("recipe", "seed")


def describe(study: Study, command: str = "") -> dict[str, Any]:
    """What the tables of a study need beside its cells, JSON-ready; loads every task's data once.

    Raises:
        UserError: a task's data is not here, or it refuses its configuration.
    """
    from nybble.recipes.definition import definitions
    from nybble.studies.study.cell import now
    from nybble.training.folder import recipes_of
    from nybble.training.machine import commit, machine, versions

    cells = study.cells()

    return {
        "study": study.name,
        "title": study.title,
        "command": command,
        "created": now(),
        "baseline": study.baseline,
        "notes": [*study.notes, *_parts(study)],
        "measures": list(study.measures),
        "variants": [variant.name for variant in study.variants],
        "environment": {"versions": versions(), "machine": machine(), "commit": commit()},
        "tasks": {task.name: _describe_task(study, task) for task in study.tasks},
        "definitions": definitions(name for cell in cells for name in recipes_of(cell.config)),
        "cells": [cell.key for cell in cells],
    }


def _parts(study: Study) -> list[str]:
    """Which tasks take only part of the recipes."""
    every = dict.fromkeys(r for task in study.tasks for r in study.recipes_of(task))
    return [
        f"{task.name} takes {len(study.recipes_of(task))} of the {len(every)} recipes."
        for task in study.tasks
        if len(study.recipes_of(task)) < len(every)
    ]


def _describe_task(study: Study, entry: StudyTask) -> dict[str, Any]:
    from nybble.training.tasks import make_task

    config = replace(entry.config, threads=entry.config.threads or 1)
    try:
        task = make_task(config)
    except UserError as error:
        raise UserError(f"study '{study.name}', task '{entry.name}': {error}") from error
    identity = {k: v for k, v in config.identity().items() if k not in _VARIES}
    return {
        "configuration": {**identity, "data_set": task.describe()},
        "metric": {
            "name": task.metric,
            "unit": task.unit,
            "digits": task.digits,
            "higher_is_better": task.higher_is_better,
            "comparison": task.comparison,
        },
        "margin": entry.margin,
        "recipes": list(study.recipes_of(entry)),
        "seeds": list(study.seeds_of(entry)),
    }


def make_record(name: str, store: Store) -> dict[str, Any]:
    """The record of the study `name` of the store."""
    about = store.studies()[name]
    wanted = set(about["cells"])
    cells = [cell for cell in store.query() if cell["study"] == name and cell["key"] in wanted]
    found = {key: row.outcome for key, row in store.rows(name).items() if row.status in _ENDED}
    runs: dict[tuple[str, str], list[Outcome]] = {}
    listed = []
    for cell in cells:
        outcome = found.get(cell["key"])
        if outcome is None:
            continue
        runs.setdefault((cell["task"], cell["variant"]), []).append(outcome)
        listed.append(_run(cell, outcome))
    tables = [
        make_table(about, task, variant, runs.get((task, variant), []))
        for task in about["tasks"]
        for variant in about["variants"]
    ]
    kept = ("study", "title", "command", "created", "baseline", "notes", "environment", "tasks")
    record: dict[str, Any] = finite(
        {
            "schema": SCHEMA,
            **{key: about[key] for key in kept},
            "definitions": about.get("definitions", {}),
            "tables": tables,
            "runs": listed,
            "missing": len(wanted) - len(listed),
        }
    )
    return record


_ENDED = ("complete", "failed")


def _run(cell: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    place = {key: cell[key] for key in ("task", "variant", "recipe", "seed", "key")}
    values = outcome.to_dict()
    told = (
        *("status", "metric", "extras", "reason", "seconds"),
        *("saved_bytes", "origin", "dead_layers"),
    )
    return {**place, **{key: values[key] for key in told}}


def make_table(
    about: Mapping[str, Any], task: str, variant: str, outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    """The table of one task under one variant."""
    entry = about["tasks"][task]
    metric, seeds, margin = entry["metric"], entry["seeds"], entry["margin"]
    how, better = metric["comparison"], metric["higher_is_better"]
    baseline = about["baseline"] if about["baseline"] in entry["recipes"] else None
    rows = []
    for recipe in entry["recipes"]:
        row = make_row(recipe, outcomes, seeds, baseline, better, how)
        del row["time_to_baseline"]  # cells run side by side: their times disturb each other
        row["extras"] = _extras(row["extras"], recipe, baseline, outcomes, seeds)
        rows.append(row)
    compare = paired_change if how == "ratio" else paired_difference
    against = _metrics(outcomes, baseline, seeds)
    found: list[PairedDifference | None] = [
        None
        if baseline is None or row["baseline"]
        else compare(_metrics(outcomes, row["recipe"], seeds), against)
        for row in rows
    ]
    stopped = any(row["problems"] for row in rows if row["baseline"])
    for row, verdict in zip(rows, judge(found, margin), strict=True):
        row["verdict"] = None if row["baseline"] or baseline is None else verdict.to_dict()
        if row["verdict"] and (row["problems"] or stopped):
            # Runs that failed, on either side, are not missing at random.
            row["verdict"]["verdict"] = FAILED
    return {
        "task": task,
        "variant": variant,
        "metric": metric,
        "baseline": baseline,
        "margin": margin,
        "seeds": seeds,
        "rows": rows,
    }


def _metrics(
    outcomes: Sequence[Outcome], recipe: str | None, seeds: Sequence[int]
) -> list[float | None]:
    runs = {run.seed: run.metric for run in outcomes if run.recipe == recipe and run.finished}
    return [runs.get(seed) for seed in seeds]


def _extras(
    spreads: Mapping[str, Any],
    recipe: str,
    baseline: str | None,
    outcomes: Sequence[Outcome],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """The task's and the measures' numbers, each with its paired difference to the baseline."""
    found = {}
    for name, values in spreads.items():
        difference = None
        if baseline is not None and recipe != baseline:
            own = _numbers(outcomes, recipe, name, seeds)
            against = _numbers(outcomes, baseline, name, seeds)
            difference = paired_difference(own, against).to_dict()
        found[name] = {**values, "difference": difference}
    return found


def _numbers(
    outcomes: Sequence[Outcome], recipe: str, name: str, seeds: Sequence[int]
) -> list[float | None]:
    runs = {r.seed: r.extras.get(name) for r in outcomes if r.recipe == recipe and r.finished}
    return [runs.get(seed) for seed in seeds]
