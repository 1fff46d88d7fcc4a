"""Runs of one recipe are a group; groups are compared with the baseline, paired by seed.

The same statistics as in `nybble compare` (studies/outcome.py): the mean over seeds of treatment
minus baseline with its 95 % t interval. No difference without its interval: one pair has none, and
one run of each proves nothing.

Two runs are a pair if they trained the same model on the same data; other settings that differ are
named and become part of a group's name, as a difference may come from them.

The baseline is the run that was asked for, else float32 if it is among the runs, else the recipe of
the first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from nybble.errors import UserError
from nybble.reports.run.data import Run
from nybble.studies.compare import RECORD
from nybble.studies.outcome import Outcome, make_row
from nybble.studies.plan import FLOAT32
from nybble.studies.record import read_record
from nybble.studies.runs import read_outcome
from nybble.training.config import SESSION_FIELDS, TrainConfig

__all__ = ["Groups", "group", "recorded"]

_SAME: Final = ("task", "data", "model")
"""What two runs must share to be compared at all."""
_APART: Final = ("recipe", "seed", "rules", *SESSION_FIELDS)
_COMPARISON: Final = {"perplexity": "ratio"}
"""Of records of before it was written: metrics that are compared by their ratio."""


@dataclass
class Groups:
    """names: of every run, its group. table: what reports/cells.py makes cells of; None when there
    is only one run, or nothing that could be compared."""

    names: list[str]
    notes: list[str] = field(default_factory=list)
    table: dict[str, Any] | None = None
    baseline: str | None = None


def recorded(folder: Path, runs: list[Run]) -> Groups | None:
    """The table of a comparison's folder, as `nybble compare` wrote it; None if there is none."""
    if not (folder / RECORD).is_file():
        return None
    try:
        record = read_record(folder / RECORD)
        names = [run.recipe for run in runs]
        baseline = record["baseline"]
        return Groups(names, [], record, baseline) if record["rows"] else None
    except (UserError, KeyError):
        return None


def group(runs: list[Run], baseline: Run | None = None) -> Groups:
    """Sort `runs` (of which `baseline` is one, if it is given) into groups and compare them."""
    varying = _varying(runs)
    names = [_name(run, varying) for run in runs]
    if len(runs) == 1:
        return Groups(names)
    found = Groups(names)
    apart = [key for key in _SAME if key in varying]
    if apart:
        found.notes.append(
            f"These runs differ in {', '.join(apart)}: no difference between them is computed."
        )
        return found
    metrics = {run.metric for run in runs if run.metric}
    if len(metrics) != 1:
        found.notes.append("No two of these runs have a result: there is nothing to compare yet.")
        return found
    if varying:
        what = ", ".join(varying)
        found.notes.append(f"These runs also differ in {what}: a difference may come from that.")
    outcomes: dict[tuple[str, int], Outcome] = {}
    for run, name in zip(runs, names, strict=True):
        seed = run.seed if run.seed is not None else 0
        if (name, seed) in outcomes:
            found.notes.append(
                f"{name}: seed {seed} is given twice; in the table the first counts ({run.folder} "
                "is left out)."
            )
            continue
        outcomes[name, seed] = _outcome(run, name, seed)
    found.baseline = _baseline(runs, names, baseline)
    found.table = _table(runs, list(outcomes.values()), names, found.baseline)
    return found


def _varying(runs: list[Run]) -> list[str]:
    """The settings, other than recipe and seed, in which the runs differ."""
    keys = dict.fromkeys(key for run in runs for key in run.config if key not in _APART)
    known = [run.config for run in runs if run.config]
    missing = "not recorded"

    def texts(key: str) -> set[str]:
        return {json.dumps(config.get(key, missing)) for config in known} - {f'"{missing}"'}

    return [key for key in keys if len(texts(key)) > 1]


def _name(run: Run, varying: list[str]) -> str:
    parts = [run.recipe]
    rules = run.config.get("rules") or []
    parts += [f"{rule[0]}={rule[1]}" for rule in rules if isinstance(rule, list) and len(rule) == 2]
    parts += [f"{key} {_short(run.config.get(key))}" for key in varying]
    return ", ".join(parts)


def _short(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _outcome(run: Run, name: str, seed: int) -> Outcome:
    if run.result is None:
        return Outcome(name, seed, run.status, str(run.folder), reason=run.reason)
    config = TrainConfig(recipe="fp32", seed=seed, out=str(run.folder))
    outcome = read_outcome(config, run.result)
    return replace(outcome, recipe=name, status=run.status, reason=run.reason)


def _baseline(runs: list[Run], names: list[str], asked: Run | None) -> str:
    if asked is not None:
        return names[next(i for i, run in enumerate(runs) if run is asked)]
    plain = [name for run, name in zip(runs, names, strict=True) if run.recipe == FLOAT32]
    return plain[0] if plain else names[0]


def _table(
    runs: list[Run], outcomes: list[Outcome], names: list[str], baseline: str
) -> dict[str, Any]:
    """What cells.py needs of a comparison's record."""
    best = next(run for run in runs if run.result is not None)
    result: Mapping[str, Any] = best.result or {}
    name = best.metric
    how = str(result.get("comparison") or _COMPARISON.get(name, "difference"))
    seeds = sorted({outcome.seed for outcome in outcomes})
    kinds = list(dict.fromkeys(names))
    rows = [make_row(kind, outcomes, seeds, baseline, best.better_high, how) for kind in kinds]
    for row in rows:
        row["selected"] = row["step_time"] = None
    return {
        "metric": {
            "name": name,
            "unit": best.unit,
            "digits": int(result.get("digits") or 2),
            "higher_is_better": best.better_high,
            "comparison": how,
        },
        "baseline": baseline,
        "recipes": kinds,
        "seeds": seeds,
        "rows": rows,
        "runs": [outcome.to_dict() for outcome in outcomes],
        "timing": None,
        "selection": None,
    }
