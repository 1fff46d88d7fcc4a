"""A robustness study by condition: what a recipe loses under it, and whether that is more than
float32 loses.

From a study's record (`nybble.study/1`) whose tasks are TASK and TASK+CONDITION and whose runs have
numbers of measures (`test-time.input-noise.0.5`), one table a task, one line a condition:

    value              mean over seeds, of float32 and of the recipe
    difference         recipe minus float32 under this condition, paired by seed
    beyond             that difference minus the one without the condition (TASK as trained), paired
                       by seed: below zero where higher is better, the condition costs the recipe
                       more than float32

each difference with its 95 % t interval; p is that of the t test that there is nothing beyond,
corrected by Holm over the lines of the table. A metric that is compared by ratio (perplexity) has
both in per cent, through logarithms. One pair has no interval, so no difference is shown. Draws of
a measure that gave no finite number are counted behind the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nybble.errors import UserError
from nybble.reports.cells import column_widths, fixed
from nybble.reports.missing import not_run
from nybble.studies.equivalence import judge
from nybble.studies.statistics import PairedDifference, paired_change, paired_difference, spread

JOIN = "+"
SUITE = "test-time."
AS_TRAINED = "as trained"
FAILED = ".failed"

Values = Mapping[str, Sequence[float | None]]
"""Recipe -> one number a seed, in the order of the task's seeds."""


@dataclass(frozen=True)
class Condition:
    """One line: its name, and what every recipe reached under it."""

    name: str
    values: Values


def suits(record: Mapping[str, Any]) -> bool:
    """Whether a record of a study has conditions: tasks with a plus, or what `test-time` measured.

    >>> suits({"baseline": "fp32", "tasks": {"vision": {}, "vision+lr-x4": {}}, "runs": []})
    True
    """
    if record["baseline"] is None or any(
        table.get("variant") for table in record.get("tables", [])
    ):
        return False  # a table for each variant has them all
    named = any(JOIN in name for name in record["tasks"])
    return named or any(
        name.startswith(SUITE) for run in record["runs"] for name in run["extras"] or {}
    )


def conditions(record: Mapping[str, Any], task: str) -> list[Condition]:
    """All conditions of one task, beginning with `AS_TRAINED`.

    Raises:
        UserError: the record has no such task.
    """
    if task not in tasks(record):
        raise UserError(f"the record has no task '{task}'; it has {', '.join(tasks(record))}.")
    found = [Condition(AS_TRAINED, _values(record, task, None))] if task in record["tasks"] else []
    found += [
        Condition(name.partition(JOIN)[2], _values(record, name, None))
        for name in record["tasks"]
        if name.startswith(task + JOIN)
    ]
    numbers = dict.fromkeys(
        name
        for run in record["runs"]
        if run["task"] == task and task in record["tasks"]
        for name in run["extras"] or {}
        if _is_metric(name)
    )
    found += [Condition(name.removeprefix(SUITE), _values(record, task, name)) for name in numbers]
    return found


def entry_of(record: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    """What the record says of a task, or of its first condition where it was not run without."""
    names = [name for name in record["tasks"] if name.partition(JOIN)[0] == task]
    found: Mapping[str, Any] = record["tasks"][task if task in names else names[0]]
    return found


def tasks(record: Mapping[str, Any]) -> list[str]:
    """The tasks that conditions belong to.

    >>> tasks({"tasks": {"vision": {}, "vision+lr-x4": {}, "gpt": {}}})
    ['vision', 'gpt']
    """
    return list(dict.fromkeys(name.partition(JOIN)[0] for name in record["tasks"]))


def _is_metric(name: str) -> bool:
    """Whether an extra number is the task's metric under some condition."""
    return "." in name and not name.endswith(FAILED) and not name.startswith("test-again.")


def _values(record: Mapping[str, Any], task: str, number: str | None) -> Values:
    """number None: the metric itself."""
    entry = record["tasks"][task]
    runs = {
        (run["recipe"], run["seed"]): run
        for run in record["runs"]
        if run["task"] == task and not run["variant"] and run["status"] == "complete"
    }

    def value(recipe: str, seed: int) -> float | None:
        run = runs.get((recipe, seed))
        if run is None:
            return None
        found = run["metric"] if number is None else (run["extras"] or {}).get(number)
        return None if found is None else float(found)

    return {r: [value(r, seed) for seed in entry["seeds"]] for r in entry["recipes"]}


# ---- one line ------------------------------------------------------------------------------------


def difference(here: Condition, recipe: str, baseline: str, ratio: bool) -> PairedDifference:
    """Recipe minus baseline under a condition, in per cent where `ratio`; of a task that the
    baseline was not run on, no pair."""
    compare = paired_change if ratio else paired_difference
    return compare(here.values[recipe], _of(here, baseline))


def beyond(
    here: Condition, before: Condition, recipe: str, baseline: str, ratio: bool
) -> PairedDifference:
    """How much larger that difference is than without the condition, paired by seed.

    >>> before = Condition("", {"a": [90.0, 91.0], "b": [91.0, 91.0]})
    >>> here = Condition("", {"a": [80.0, 82.0], "b": [85.0, 84.0]})
    >>> beyond(here, before, "a", "b", ratio=False).differences
    (-4.0, -2.0)
    """
    quotients = [
        _moved(h, b, ratio) for h, b in zip(here.values[recipe], before.values[recipe], strict=True)
    ]
    of_baseline = [
        _moved(h, b, ratio) for h, b in zip(_of(here, baseline), _of(before, baseline), strict=True)
    ]
    return (paired_change if ratio else paired_difference)(quotients, of_baseline)


def _of(here: Condition, recipe: str) -> Sequence[float | None]:
    """What a recipe reached; nothing for each seed where it was not run."""
    seeds = max((len(values) for values in here.values.values()), default=0)
    return here.values.get(recipe, [None] * seeds)


def _moved(here: float | None, before: float | None, ratio: bool) -> float | None:
    if here is None or before is None or not (math.isfinite(here) and math.isfinite(before)):
        return None
    if ratio:
        return here / before if before > 0 else None
    return here - before


def shown(found: PairedDifference, digits: int) -> str:
    """A difference with its interval; without one, why there is none."""
    if found.mean is None:
        return "no pair"
    if found.t_interval is None:
        return "one pair: no interval"
    numbers = (found.mean, found.t_interval.low, found.t_interval.high)
    mean, low, high = (fixed(value, digits, "+") for value in numbers)
    text = f"{mean} [{low}, {high}]"
    return text + (f" ({found.n} pairs)" if found.dropped else "")


# ---- tables --------------------------------------------------------------------------------------


def lines(record: Mapping[str, Any], task: str) -> list[list[str]]:
    """The table of a task: the titles, then a line for every condition and recipe."""
    metric, baseline = entry_of(record, task)["metric"], record["baseline"]
    ratio, digits = metric["comparison"] == "ratio", int(metric["digits"])
    unit = f" ({metric['unit']})" if metric.get("unit") else ""
    kind = "change (%)" if ratio else "difference"
    titles = [
        "condition",
        f"{baseline}{unit}",
        "recipe",
        f"{metric['name']}{unit}",
        f"{kind} [95 %]",
        "beyond that as trained [95 %]",
        "p (Holm)",
    ]
    every = conditions(record, task)
    before = every[0] if every[0].name == AS_TRAINED else None
    rows = [(here, recipe) for here in every for recipe in _compared(here, baseline)]
    more = [
        beyond(here, before, recipe, baseline, ratio)
        if recipe and before is not None and here is not before
        else None
        for here, recipe in rows
    ]
    table = [titles]
    for (here, recipe), extra, verdict in zip(rows, more, judge(more, None), strict=True):
        table.append(
            [
                here.name,
                _mean(here.values.get(baseline, []), digits),
                recipe,
                _mean(here.values[recipe], digits) if recipe else "",
                shown(difference(here, recipe, baseline, ratio), digits) if recipe else "",
                "" if extra is None else shown(extra, digits),
                "" if verdict.p_holm is None else _p(verdict.p_holm),
            ]
        )
    return table


def _compared(here: Condition, baseline: str) -> list[str]:
    """The recipes that have a line; [""], the baseline alone, where no other was measured so (bit
    flips in float32 words)."""
    others = [recipe for recipe in here.values if recipe != baseline]
    measured = any(value is not None for recipe in others for value in here.values[recipe])
    return others if measured or here.name == AS_TRAINED else [""]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _mean(values: Sequence[float | None], digits: int) -> str:
    mean = spread(values).mean
    return "none" if mean is None else fixed(mean, digits)


def notes(record: Mapping[str, Any], task: str) -> list[str]:
    """What a reader of the table must know."""
    entry = entry_of(record, task)
    better = "higher" if entry["metric"]["higher_is_better"] else "lower"
    found = [f"{entry['metric']['name']}: {better} is better; seeds {_listed(entry['seeds'])}"]
    failed: dict[str, dict[str, list[float]]] = {}
    for run in record["runs"]:
        for name, share in (run["extras"] or {}).items() if run["task"] == task else ():
            if name.endswith(FAILED):
                of = failed.setdefault(name.removeprefix(SUITE).removesuffix(FAILED), {})
                of.setdefault(run["recipe"], []).append(share)
    for table in record["tables"]:
        if table["task"].partition(JOIN)[0] == task:
            found += [
                f"{table['task']}, {row['recipe']}: {what}"
                for row in table["rows"]
                for what in row["problems"]
            ]
            found += [f"{table['task']}, {line}" for line in not_run(table["rows"])]
    for name, shares in failed.items():
        told = ", ".join(
            f"{recipe} {100 * sum(parts) / len(parts):.0f} %"
            for recipe, parts in shares.items()
            if any(parts)
        )
        found += [f"{name}: draws without a finite number: {told}"] if told else []
    return found


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def plain(record: Mapping[str, Any]) -> str:
    """The tables for a terminal."""
    text: list[str] = []
    for task in tasks(record):
        table = lines(record, task)
        widths = column_widths(table)
        text.append(f"{record['title']}: {task}, by condition")
        text += [
            "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
            for line in table
        ]
        text += [*notes(record, task), ""]
    return "\n".join(text).rstrip()


def markdown(record: Mapping[str, Any]) -> str:
    """The tables for docs/."""
    text: list[str] = []
    for task in tasks(record):
        first, *rest = lines(record, task)
        text += [f"### {task}, by condition", "", "| " + " | ".join(first) + " |"]
        text += ["|" + "---|" * len(first)]
        text += ["| " + " | ".join(line) + " |" for line in rest]
        text += ["", *(f"- {note}" for note in notes(record, task)), ""]
    return "\n".join(text).rstrip()
