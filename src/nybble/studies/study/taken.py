"""Cells of a record that was made before: a study that outlives its machine.

A record whose study was stopped (its budget was used, the machine went) says how each of its cells
ended, under the cell's key. A later call on another machine, in an empty folder, takes those over
and runs the rest; the new record has them all. What a record does not keep, curves, is lost.

A record without missing cells is final: it is never taken up again, because a number in a page
points at it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nybble.errors import UserError
from nybble.studies.outcome import Outcome
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


def outcomes_of(path: Path) -> dict[str, Outcome]:
    """How the cells of the record ended, by key.

    Raises:
        UserError: the file cannot be read, or is no record of a study.
    """
    record = _read(path)
    try:
        if record.get("schema") != SCHEMA:
            raise ValueError(f"its schema is {record.get('schema')!r}")
        return {str(run["key"]): _outcome(run, path) for run in record["runs"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no record of a study ({error}).") from error


def _outcome(run: Mapping[str, Any], path: Path) -> Outcome:
    values = {name: run[name] for name in _KEPT}
    values |= {"extras": run["extras"], "folder": "", "reused": True}
    return Outcome.from_dict({**values, "saved_bytes": run.get("saved_bytes")})


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a record: {error}.") from error
    return record if isinstance(record, dict) else {}
