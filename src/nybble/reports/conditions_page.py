"""A robustness study as a page with curves: the metric over the levels of every measure.

The tables are those of `conditions.py`. A curve is a measure (or one kind of it): one line a
recipe, mean and 95 % t interval over seeds, from the test as trained to the highest level.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from nybble.errors import UserError
from nybble.reports.conditions import (
    AS_TRAINED,
    Condition,
    conditions,
    entry_of,
    lines,
    notes,
    suits,
    tasks,
)
from nybble.reports.figures import BASELINE, COLOURS, STYLES, svg
from nybble.studies.statistics import t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def families(record: Mapping[str, Any], task: str) -> Iterator[tuple[str, list[Condition]]]:
    """(measure, its conditions) of a task, where there are at least two to draw a line through.

    Kinds of one measure (`image-corruptions.blur-1`, `bit-flips.4bit-0.001`) are families of their
    own.
    """
    found: dict[str, list[Condition]] = {}
    for here in conditions(record, task):
        measure, dot, number = here.name.partition(".")
        if dot:
            kind, dash, _ = number.partition("-")
            found.setdefault(f"{measure}.{kind}" if dash else measure, []).append(here)
    yield from ((name, entries) for name, entries in found.items() if len(entries) > 1)


def curves(record: Mapping[str, Any], task: str, family: str) -> str:
    """The metric of every recipe over the levels of a measure, mean and 95 % interval: SVG."""
    metric, baseline = entry_of(record, task)["metric"], record["baseline"]
    entries = dict(families(record, task))[family]
    points = [here for here in conditions(record, task) if here.name == AS_TRAINED] + entries
    names = [here.name.removeprefix(family).lstrip(".-") for here in points]

    def draw(axes: Axes) -> None:
        others = 0
        for recipe in points[0].values:
            colour, style = BASELINE, "-"
            if recipe != baseline:
                colour, style = COLOURS[others % len(COLOURS)], STYLES[others % len(STYLES)]
                others += 1
            kept = [
                (i, [v for v in p.values[recipe] if v is not None]) for i, p in enumerate(points)
            ]
            kept = [(i, values) for i, values in kept if values]
            means = [sum(values) / len(values) for _, values in kept]
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
        UserError: it is no record of a study with conditions.
    """
    from nybble.reports.html import STYLE

    if record.get("schema") != "nybble.study/1" or not suits(record):
        raise UserError("give the record of a robustness study: one with conditions to compare.")
    parts = [f"<h1>{escape(str(record['title']))}</h1>"]
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
