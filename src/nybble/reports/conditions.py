"""A robustness study by condition: what a recipe loses under it, and whether that is more than
float32 loses.

From a study's record (`nybble.study/1`) whose tasks are TASK and TASK+CONDITION and whose runs have
numbers of measures (`test-time.input-noise.0.5`), one table a task, one line a condition:

    value              mean over seeds, of float32 and of the recipe
    difference         recipe minus float32 under this condition, paired by seed
    beyond             that difference minus the one without the condition (TASK as trained), paired
                       by seed: below zero where higher is better, the condition costs the recipe
                       more than float32

each difference with its 95 % t interval. A metric that is compared by ratio (perplexity) has both
in per cent, through logarithms. One pair has no interval, so no difference is shown. Draws of a
measure that gave no finite number are counted behind the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from nybble.errors import UserError
from nybble.reports.figures import BASELINE, COLOURS, STYLES, svg
from nybble.studies.statistics import PairedDifference, paired_change, paired_difference, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

JOIN = "+"
SUITE = "test-time."
AS_TRAINED = "as trained"
FAILED = ".failed"
SCHEMA = "nybble.study/1"

Values = Mapping[str, Sequence[float | None]]
"""Recipe -> one number a seed, in the order of the task's seeds."""


@dataclass(frozen=True)
class Condition:
    """One line: its name, and what every recipe reached under it."""

    name: str
    values: Values


def conditions(record: Mapping[str, Any], task: str) -> list[Condition]:
    """All conditions of one task, beginning with `AS_TRAINED`.

    Raises:
        UserError: the record has no such task.
    """
    if task not in record["tasks"]:
        raise UserError(f"the record has no task '{task}'; it has {', '.join(tasks(record))}.")
    found = [Condition(AS_TRAINED, _values(record, task, None))]
    found += [
        Condition(name.partition(JOIN)[2], _values(record, name, None))
        for name in record["tasks"]
        if name.startswith(task + JOIN)
    ]
    numbers = dict.fromkeys(
        name
        for run in record["runs"]
        if run["task"] == task
        for name in run["extras"] or {}
        if _is_metric(name)
    )
    found += [Condition(name.removeprefix(SUITE), _values(record, task, name)) for name in numbers]
    return found


def tasks(record: Mapping[str, Any]) -> list[str]:
    """The tasks that conditions belong to.

    >>> tasks({"tasks": {"vision": {}, "vision+lr-x4": {}, "gpt": {}}})
    ['vision', 'gpt']
    """
    return [name for name in record["tasks"] if JOIN not in name]


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
    """Recipe minus baseline under a condition, in per cent where `ratio`."""
    compare = paired_change if ratio else paired_difference
    return compare(here.values[recipe], here.values[baseline])


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
        _moved(h, b, ratio)
        for h, b in zip(here.values[baseline], before.values[baseline], strict=True)
    ]
    return (paired_change if ratio else paired_difference)(quotients, of_baseline)


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
    low, high = found.t_interval.low, found.t_interval.high
    text = f"{found.mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return text + (f" ({found.n} pairs)" if found.dropped else "")


# ---- tables --------------------------------------------------------------------------------------


def lines(record: Mapping[str, Any], task: str) -> list[list[str]]:
    """The table of a task: the titles, then a line for every condition and recipe."""
    metric, baseline = record["tasks"][task]["metric"], record["baseline"]
    ratio, digits = metric["comparison"] == "ratio", int(metric["digits"])
    unit = f" ({metric['unit']})" if metric.get("unit") else ""
    kind = "change" if ratio else "difference"
    titles = [
        "condition",
        f"{baseline}{unit}",
        "recipe",
        f"{metric['name']}{unit}",
        f"{kind}{' (%)' if ratio else ''} [95 %]",
        "beyond that as trained [95 %]",
    ]
    table = [titles]
    all_of_it = conditions(record, task)
    before = all_of_it[0]
    for here in all_of_it:
        for recipe in here.values:
            if recipe == baseline:
                continue
            more = (
                ""
                if here is before
                else shown(beyond(here, before, recipe, baseline, ratio), digits)
            )
            table.append(
                [
                    here.name,
                    _mean(here.values.get(baseline, []), digits),
                    recipe,
                    _mean(here.values[recipe], digits),
                    shown(difference(here, recipe, baseline, ratio), digits),
                    more,
                ]
            )
    return table


def _mean(values: Sequence[float | None], digits: int) -> str:
    mean = spread(values).mean
    return "none" if mean is None else f"{mean:.{digits}f}"


def notes(record: Mapping[str, Any], task: str) -> list[str]:
    """What a reader of the table must know."""
    entry = record["tasks"][task]
    better = "higher" if entry["metric"]["higher_is_better"] else "lower"
    found = [f"{entry['metric']['name']}: {better} is better; seeds {_listed(entry['seeds'])}"]
    failed: dict[str, dict[str, float]] = {}
    for run in record["runs"]:
        for name, share in (run["extras"] or {}).items() if run["task"] == task else ():
            if name.endswith(FAILED) and share:
                of = failed.setdefault(name.removeprefix(SUITE).removesuffix(FAILED), {})
                of[run["recipe"]] = of.get(run["recipe"], 0.0) + share / len(entry["seeds"])
    for name, shares in failed.items():
        told = ", ".join(f"{recipe} {100 * share:.0f} %" for recipe, share in shares.items())
        found.append(f"{name}: draws without a finite number: {told}")
    return found


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _checked(record: Mapping[str, Any]) -> Mapping[str, Any]:
    if record.get("schema") != SCHEMA or record.get("baseline") is None:
        raise UserError("conditions: give the record of a study that has a baseline.")
    return record


def plain(record: Mapping[str, Any]) -> str:
    """The tables for a terminal.

    Raises:
        UserError: it is no record of a study.
    """
    text: list[str] = []
    for task in tasks(_checked(record)):
        table = lines(record, task)
        widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
        text.append(task)
        text += [
            "  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
            for line in table
        ]
        text += [*(f"  note: {note}" for note in notes(record, task)), ""]
    return "\n".join(text).rstrip()


def markdown(record: Mapping[str, Any]) -> str:
    """The tables for docs/."""
    text: list[str] = []
    for task in tasks(_checked(record)):
        first, *rest = lines(record, task)
        text += [f"### {task}, by condition", "", "| " + " | ".join(first) + " |"]
        text += ["|---" * len(first) + "|"]
        text += ["| " + " | ".join(line) + " |" for line in rest]
        text += ["", *(f"- {note}" for note in notes(record, task)), ""]
    return "\n".join(text).rstrip()


# ---- curves --------------------------------------------------------------------------------------


def families(record: Mapping[str, Any], task: str) -> Iterator[tuple[str, list[Condition]]]:
    """(measure, its conditions) of a task, where there are at least two to draw a line through.

    Kinds of one measure (`image-corruptions.blur-1`, `bit-flips.4bit-0.001`) are families of their
    own.
    """
    found: dict[str, list[Condition]] = {}
    for here in conditions(record, task)[1:]:
        measure, dot, number = here.name.partition(".")
        if dot:
            kind, dash, _ = number.partition("-")
            found.setdefault(f"{measure}.{kind}" if dash else measure, []).append(here)
    yield from ((name, entries) for name, entries in found.items() if len(entries) > 1)


def curves(record: Mapping[str, Any], task: str, family: str) -> str:
    """The metric of every recipe over the levels of a measure, mean and 95 % interval: SVG."""
    from nybble.studies.statistics import t_interval

    metric, baseline = record["tasks"][task]["metric"], record["baseline"]
    entries = dict(families(record, task))[family]
    before = conditions(record, task)[0]
    points = [before, *entries]
    names = ["none", *(here.name.removeprefix(family).lstrip(".-") for here in entries)]

    def draw(axes: Axes) -> None:
        others = 0
        for recipe in before.values:
            colour, style = BASELINE, "-"
            if recipe != baseline:
                colour, style = COLOURS[others % len(COLOURS)], STYLES[others % len(STYLES)]
                others += 1
            kept = [
                (i, [v for v in p.values[recipe] if v is not None]) for i, p in enumerate(points)
            ]
            kept = [(i, values) for i, values in kept if values]
            means = [spread(values).mean for _, values in kept]
            axes.plot([i for i, _ in kept], means, style, color=colour, label=recipe, marker="o")
            sure = [(i, t_interval(values)) for i, values in kept]
            bands = [(i, interval) for i, interval in sure if interval is not None]
            axes.fill_between(
                [i for i, _ in bands],
                [interval.low for _, interval in bands],
                [interval.high for _, interval in bands],
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
        axes.set_xticks(range(len(points)), names)
        unit = f" ({metric['unit']})" if metric.get("unit") else ""
        axes.set_ylabel(f"{metric['name']}{unit}")
        axes.set_xlabel(family)
        if metric["comparison"] == "ratio":
            axes.set_yscale("log")
        axes.legend()

    return svg(draw, f"{task}: {family}", (6.4, 4.0), f"{task}-{family}".replace(".", "-"))


def page(record: Mapping[str, Any]) -> str:
    """One HTML page with tables and curves, which needs nothing else.

    Raises:
        UserError: it is no record of a study.
    """
    from nybble.reports.html import STYLE

    parts = [f"<h1>{escape(str(_checked(record)['title']))}</h1>"]
    for task in tasks(record):
        first, *rest = lines(record, task)
        titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in first)
        body = "\n".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in rest
        )
        parts += [
            f"<h2>{escape(task)}</h2>",
            f'<div class="wide"><table><thead><tr>{titles}</tr></thead>\n<tbody>\n{body}\n</tbody>'
            "</table></div>",
            "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes(record, task)) + "</ul>",
            '<div class="figures">',
            *(f"<figure>{curves(record, task, f)}</figure>" for f, _ in families(record, task)),
            "</div>",
        ]
    parts += [f"<p>{escape(str(note))}</p>" for note in record["notes"]]
    parts += ["<h2>To repeat it</h2>", f"<pre>{escape(str(record['command']))}</pre>"]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(str(record['title']))}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )
