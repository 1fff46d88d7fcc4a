"""How good the trained network is, against the baseline and with intervals."""

from __future__ import annotations

from html import escape
from typing import Any

from nybble.reports import cells
from nybble.reports.run.data import Run
from nybble.reports.run.markup import Raw, bullets, section, table
from nybble.reports.run.sections.content import Content, shown

__all__ = ["result"]

ONE_RUN = (
    "One run proves nothing about a recipe: another seed would give another number. Several seeds "
    "and the float32 baseline, with intervals: `nybble compare`, or `nybble report RUN RUN ...` of "
    "runs with equal seeds."
)
_SHORT = 24


def result(content: Content) -> str:
    """The result's section."""
    first = next((run for run in content.runs if run.metric), content.runs[0])
    name = first.metric or "the metric"
    better = "higher" if first.better_high else "lower"
    sentence = (
        f"How well the trained network does on examples that it has not seen in training: {better} "
        f"{name} is better."
    )
    if content.groups.table is not None:
        return section("result", "Result", sentence, *_compared(content, content.groups.table))
    return section("result", "Result", sentence, _runs(content), _single(content))


def _single(content: Content) -> str:
    """Why no difference stands here."""
    notes = [ONE_RUN] if any(run.epochs for run in content.runs) and content.one else []
    return bullets(notes)


def _runs(content: Content) -> str:
    rows = [_row(content, run) for run in content.runs]
    head = ("run", "metric at the end", "best epoch", "loss on test data", "epochs", "status")
    return table(head, rows, [run.status != "complete" for run in content.runs])


def _row(content: Content, run: Run) -> list[str]:
    last = run.epochs[-1] if run.epochs else {}
    best = (run.result or {}).get(f"best_{run.metric}")
    planned = run.config.get("epochs", "?")
    return [
        content.label(run),
        f"{run.metric} {shown(run, last.get(f'test_{run.metric}'))}" if last else "no result",
        shown(run, best) if best is not None else "-",
        f"{last['test_loss']:.4f}" if isinstance(last.get("test_loss"), float) else "-",
        f"{len(run.epochs)} of {planned}",
        run.status,
    ]


def _compared(content: Content, record: dict[str, Any]) -> list[str]:
    """The table of groups, the intervals as a picture, what to know, and the single runs."""
    metric = record["metric"]
    unit = f" ({metric['unit']})" if metric.get("unit") else ""
    head = ["recipe", f"{metric['name']}{unit}", cells.change_title(record)]
    head += ["saved for backward", "runs that finished"]
    rows, bad = [], []
    digits = int(metric.get("digits", 2))
    for row in record["rows"]:
        colour = content.colour_of(row["recipe"])
        kind = "word" if len(row["recipe"]) <= _SHORT else ""
        chip = f'<span class="dot" style="background:{colour}"></span>'
        rows.append(
            [
                Raw(f'<span class="{kind}">{chip}{escape(cells.label(row))}</span>'),
                cells.mean_sd(row["metric"], digits),
                "baseline" if row["baseline"] else cells.difference(row["difference"], digits),
                cells.saved(row, record),
                cells.runs(row),
            ]
        )
        bad.append(bool(row["finished"] != row["runs"] or row["dead_layers"]))
    return [
        table(head, rows, bad),
        _forest(content, record),
        bullets(_words(record)),
        "<h3>Every run</h3>",
        _runs(content),
    ]


def _words(record: dict[str, Any]) -> list[str]:
    """How to read the table."""
    found = []
    pairs = [row["difference"] for row in record["rows"] if row["difference"]]
    if any(pair["t_interval"] for pair in pairs):
        found.append(
            "The bracket is the 95 % interval of the mean difference, paired by seed: where it "
            "holds zero, these runs do not show which of the two is better."
        )
    if any(pair["n"] == 1 for pair in pairs):
        found.append(
            "A single pair of runs proves nothing: it has no interval, so no difference is shown. "
            "More seeds give one."
        )
    if any(pair["n"] == 0 for pair in pairs):
        found.append("Where no seed finished in both recipes, there is no difference.")
    for row in record["rows"]:
        found += [f"{row['recipe']}: {problem}." for problem in row["problems"]]
        missing = row.get("missing") or []
        if missing:
            found.append(f"{row['recipe']}: no run of the seeds {', '.join(map(str, missing))}.")
    return found


def _forest(content: Content, record: dict[str, Any]) -> str:
    """Each difference as a dot a seed, its mean and its interval, without a script."""
    rows = [r for r in record["rows"] if r["difference"] and r["difference"]["t_interval"]]
    if not rows:
        return ""
    ends = [0.0]
    for row in rows:
        pair = row["difference"]
        ends += [pair["t_interval"]["low"], pair["t_interval"]["high"], *pair["differences"]]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def at(value: float) -> str:
        return f"{4 + 92 * (value - low) / span:.2f}%"

    digits = int(record["metric"].get("digits", 2))
    lines = []
    for row in rows:
        pair, colour = row["difference"], content.colour_of(row["recipe"])
        interval = pair["t_interval"]
        width = f"{92 * (interval['high'] - interval['low']) / span:.2f}%"
        marks = [
            f'<i class="zero" style="left:{at(0)}"></i>',
            f'<i class="range" style="left:{at(interval["low"])};width:{width};'
            f'background:{colour}"></i>',
            *(
                f'<i class="seed" style="left:{at(value)};background:{colour}"></i>'
                for value in pair["differences"]
            ),
            f'<i class="mean" style="left:{at(pair["mean"])};background:{colour}"></i>',
        ]
        lines.append(
            f'<div class="bar"><span class="name">{escape(row["recipe"])}</span>'
            f'<span class="place">{"".join(marks)}</span>'
            f'<span class="value">{escape(cells.difference(pair, digits))}</span></div>'
        )
    metric = record["metric"]
    better = "right" if metric.get("higher_is_better", True) else "left"
    label = (
        f"per cent above {record['baseline']}"
        if cells.by_ratio(record)
        else f"{metric['name']} minus {record['baseline']}'s"
    )
    return (
        f'<figure class="static" data-drawn="true"><figcaption>{escape(label)}: a dot a seed; '
        "diamond and line: their mean and its 95 % interval; the upright line is zero, better is "
        f'to the {better}</figcaption><div class="bars forest">{"".join(lines)}</div></figure>'
    )
