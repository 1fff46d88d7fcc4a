"""The tables of a study against another of its recipes: "is nybble4 better than luq?"

The same runs, paired by seed with another baseline's; intervals, tests and corrections as in
`record.make_table`. The margins stay the study's. A task that does not have the recipe keeps its
values and shows no differences.

Not done: all pairs at once, which would need a correction over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nybble.errors import UserError
from nybble.studies.study.record import SCHEMA, make_table
from nybble.studies.study.taken import outcome_of_run

__all__ = ["rebase"]


def rebase(record: Mapping[str, Any], baseline: str) -> dict[str, Any]:
    """The record with the tables that it would have, had `baseline` been the study's baseline.

    Raises:
        UserError: no task of the study has that recipe, or it is no record of a study.

    >>> from nybble.studies.study import sample
    >>> [row["recipe"] for row in rebase(sample.record(), "hfp8")["tables"][0]["rows"]
    ...  if row["verdict"] is None]
    ['hfp8']
    """
    try:
        tables = None if record.get("schema") != SCHEMA else _tables(record, baseline)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"baseline {baseline}: this is no whole record of a study ({error!r})."
        ) from error
    if tables is None:
        raise UserError(f"baseline {baseline}: this is no record of a study.")
    return {**record, "baseline": baseline, "tables": tables}


def _tables(record: Mapping[str, Any], baseline: str) -> list[dict[str, Any]]:
    recipes = dict.fromkeys(r for task in record["tasks"].values() for r in task["recipes"])
    if baseline not in recipes:
        raise UserError(
            f"baseline {baseline}: no task of {record['study']} has that recipe; it has "
            f"{', '.join(recipes)}."
        )
    about = {"tasks": record["tasks"], "baseline": baseline}
    runs: dict[tuple[str, str], list[Any]] = {}
    for run in record["runs"]:
        runs.setdefault((run["task"], run["variant"]), []).append(outcome_of_run(run))
    return [
        make_table(about, task, variant, runs.get((task, variant), []))
        for task, variant in ((table["task"], table["variant"]) for table in record["tables"])
    ]
