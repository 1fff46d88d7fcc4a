"""Cells of a record that was made before: a study that outlives its machine.

A record whose study was stopped (its budget was used, the machine went) says how each of its cells
ended, under the cell's key. A later call on another machine, in an empty folder, takes those over
and runs the rest; the new record has them all. What a record does not keep, curves, is lost.

A record without missing cells is final: it is never taken up again, because a number in a page
points at it. One that is continued keeps all it has: a call that selects less of the study, or that
finds other data or other recipes under the same names, is refused before anything runs
(`check_kept`, `check_data`, `check_recipes`). The same data in another place is the same data: its
cells are taken over under the keys that they have now (`moved`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nybble.errors import UserError
from nybble.recipes.definition import changed
from nybble.studies.outcome import Outcome
from nybble.studies.study.grid import Cell
from nybble.studies.study.record import SCHEMA

_KEPT = ("recipe", "seed", "status", "metric", "reason", "seconds", "dead_layers", "origin")


def unfinished(path: Path, study: str) -> bool:
    """Whether `path` is the record of this study, and has cells that have not ended.

    Raises:
        UserError: the file cannot be read.
    """
    record = _read(path)
    return (
        record.get("schema") == SCHEMA
        and record.get("study") == study
        and bool(record.get("missing"))
    )


def outcomes_of(path: Path, renamed: Mapping[str, str] | None = None) -> dict[str, Outcome]:
    """How the cells of the record ended, by key; `renamed`: what `moved` found.

    Raises:
        UserError: the file cannot be read, or is no record of a study.
    """
    record = _read(path)
    try:
        if record.get("schema") != SCHEMA:
            raise ValueError(f"its schema is {record.get('schema')!r}")
        now = renamed or {}
        return {now.get(run["key"], str(run["key"])): outcome_of_run(run) for run in record["runs"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no record of a study ({error}).") from error


def moved(path: Path, cells: Sequence[Cell], description: Mapping[str, Any]) -> dict[str, str]:
    """The keys of the record's cells, and of the same cells now, where a task's data has the same
    hash in another place (its path is part of a key).

    Raises:
        UserError: the file cannot be read.
    """
    record, found = _read(path), {}
    for cell in cells:
        (before, then), (given, now) = _data(record, cell.task), _data(description, cell.task)
        place = before.get("data")
        if then is None or then != now or place in (None, given.get("data")):
            continue
        if cell.config.data == given.get("data"):
            old = replace(cell, config=replace(cell.config, data=place))
            found[old.key] = cell.key
    return found


def check_kept(path: Path, keys: Collection[str], description: Mapping[str, Any]) -> None:
    """Refuse to continue a record with a call that would not keep every cell of it.

    keys: of the cells of the call, and of those that were `moved`; description: what the call found
    (`record.describe`).

    Raises:
        UserError: a cell of the record is not among them, the data of its task is other data, or
            its recipe says something else now.
    """
    record = _read(path)
    runs = record.get("runs", [])
    lost = [run for run in runs if run["key"] not in keys]
    if lost:
        tasks = ", ".join(dict.fromkeys(run["task"] for run in lost))
        raise UserError(
            f"{path} has {len(lost)} finished cells that this call does not ask for (tasks "
            f"{tasks}), and a record that is continued keeps all it has. Give the data, tasks, "
            f"recipes and seeds that it was made with ({record.get('command')}), or another "
            "--record."
        )
    check_data(str(path), record, description, {run["task"] for run in runs})
    check_recipes(str(path), record, description, {run["recipe"] for run in runs})


def check_data(
    where: str, before: Mapping[str, Any], now: Mapping[str, Any], tasks: Collection[str]
) -> None:
    """Refuse other data for tasks of which cells have ended: a table would mix both.

    before, now: descriptions of the study with `tasks`, as a record has them.

    Raises:
        UserError: the hash of a task's data is not what it was.
    """
    for task in tasks:
        (same, then), (given, found) = _data(before, task), _data(now, task)
        if same == given and then is not None and found is not None and then != found:
            raise UserError(
                f"{where} has finished cells of the task {task}, whose data '{given.get('data')}' "
                "has changed "
                f"since (its hash was {then[:12]} and is {found[:12]} now); give the data as it "
                "was, or another --out and --record."
            )


def check_recipes(
    where: str, before: Mapping[str, Any], now: Mapping[str, Any], ended: Collection[str]
) -> None:
    """Refuse recipes that say something else than in cells that have ended: a row would mix both.

    before, now: descriptions of the study with `definitions`; what a description does not say
    (records of before there were any) is not compared. ended: recipes of cells that have ended.

    Raises:
        UserError: a recipe's definition is not what it was.
    """
    own = {recipe for task in now["tasks"].values() for recipe in task["recipes"]}
    for name in changed(before.get("definitions", {}), now["definitions"]):
        if name in ended or (ended and name not in own):  # of a rule, which any cell may have
            raise UserError(
                f"{where} has finished cells of the recipe '{name}', and what this recipe says has "
                "changed since; give it as it was, or under another name, or another --out and "
                "--record."
            )


def _data(description: Mapping[str, Any], task: str) -> tuple[dict[str, Any], str | None]:
    """What a task's cells share, and the hash of their data; where something else of it has
    changed, its cells are others."""
    shared = dict(description.get("tasks", {}).get(task, {}).get("configuration", {}))
    data = shared.pop("data_set", {})
    return shared, data.get("sha256")


def outcome_of_run(run: Mapping[str, Any]) -> Outcome:
    """How one run of a record ended; a record keeps no curves.

    Raises:
        KeyError, TypeError, ValueError: it is no such run.
    """
    values = {name: run[name] for name in _KEPT}
    values |= {"extras": run["extras"], "folder": "", "reused": True}
    return Outcome.from_dict({**values, "saved_bytes": run.get("saved_bytes")})


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a record: {error}.") from error
    return record if isinstance(record, dict) else {}
