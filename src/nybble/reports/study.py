"""The tables of a study, as plain text and in Markdown: one a (task, variant).

A difference is shown with its t interval, or not at all. Beside it stand the bootstrap interval, p
of the paired t test corrected by Holm over the rows, and the verdict against the margin: `failed`
where runs failed, with `so far` where runs are still to come. A robustness study is shown by
condition instead (`conditions.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nybble.reports import conditions
from nybble.reports.cells import (
    INSTRUCTIONS,
    NONE,
    ORIGINS,
    column_widths,
    difference,
    fixed,
    mean_sd,
    origin_notes,
    runs,
)
from nybble.reports.missing import not_run
from nybble.studies.equivalence import ALPHA, EQUIVALENT, FAILED, UNDECIDED, margin_to_plan
from nybble.studies.power import MOST, seeds_for_tost
from nybble.studies.statistics import EQUAL

POWER = 0.8
"""Power of the numbers of seeds that a table recommends."""
FEWEST = 3
"""Pairs from which an sd is worth planning with."""


def plain(record: Mapping[str, Any]) -> str:
    """Every table and the notes as lines of text; columns are aligned and never wrapped.

    >>> from nybble.studies.study import sample
    >>> print(plain(sample.record()).splitlines()[0])
    A made-up study: vision
    """
    if conditions.suits(record):
        return "\n".join([conditions.plain(record), "", *notes(record)])
    lines: list[str] = []
    for table in record["tables"]:
        rows = [header(table), *(cells(table, row) for row in table["rows"])]
        widths = column_widths(rows)
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        text.insert(1, "  ".join("-" * width for width in widths))
        lines += [f"{record['title']}: {name(table)}", *text]
        lines += [*table_notes(table), ""]
    return "\n".join([*lines, *notes(record)])


def markdown(record: Mapping[str, Any]) -> str:
    """Every table and the notes in Markdown.

    >>> from nybble.studies.study import sample
    >>> markdown(sample.record()).splitlines()[0]
    '### vision'
    """
    if conditions.suits(record):
        told = [f"- {_escaped(note)}" for note in notes(record)]
        return "\n".join([conditions.markdown(record), "", *told])
    lines: list[str] = []
    for table in record["tables"]:
        rows = [header(table), *(cells(table, row) for row in table["rows"])]
        text = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
        text.insert(1, "|" + "---|" * len(rows[0]))
        lines += [f"### {name(table)}", "", configured(record, table), "", *text, ""]
        lines += [f"- {_escaped(note)}" for note in table_notes(table)]
        lines += [""] if table_notes(table) else []
    return "\n".join([*lines, *(f"- {_escaped(note)}" for note in notes(record))])


def name(table: Mapping[str, Any]) -> str:
    """What a table is of: its task, and its variant where it has one."""
    return ", ".join(part for part in (table["task"], table["variant"]) if part)


def header(table: Mapping[str, Any]) -> list[str]:
    """Column titles.

    >>> from nybble.studies.study import sample
    >>> header(sample.record()["tables"][0])[1:3]
    ['accuracy (%)', 'difference to fp32 [95 %]']
    """
    metric = table["metric"]
    unit = f" ({metric['unit']})" if metric.get("unit") else ""
    to = f" to {table['baseline']}" if table["baseline"] else ""
    kind = f"change{to} (%)" if _ratio(table) else f"difference{to}"
    return [
        "recipe",
        f"{metric['name']}{unit}",
        f"{kind} [95 %]",
        "bootstrap [95 %]",
        "p (Holm)",
        f"within ±{table['margin']:g}{' %' if _ratio(table) else ''}"
        if table["margin"]
        else "verdict",
        "runs",
    ]


def cells(table: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """The cells of one row, in the order of `header`.

    >>> from nybble.studies.study import sample
    >>> table = sample.record()["tables"][0]
    >>> cells(table, table["rows"][1])[:3]
    ['hfp8', '91.45 ± 0.49', '-0.05 [-0.10, -0.00]']
    """
    digits = int(table["metric"].get("digits", 2))
    first = [row["recipe"], mean_sd(row["metric"], digits)]
    if row["verdict"] is None:
        return [*first, NONE, NONE, NONE, NONE, runs(row)]
    found, verdict = row["difference"], row["verdict"]
    return [
        *first,
        difference(found, digits),
        _interval(found["bootstrap"], digits),
        _p(verdict["p_holm"]),
        _verdict(row),
        runs(row),
    ]


def _interval(interval: Mapping[str, Any] | None, digits: int) -> str:
    if interval is None:
        return NONE
    return f"[{fixed(interval['low'], digits, '+')}, {fixed(interval['high'], digits, '+')}]"


def _p(value: float | None) -> str:
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _verdict(row: Mapping[str, Any]) -> str:
    verdict = row["verdict"]
    if row["problems"] or verdict["verdict"] == FAILED:
        text = FAILED
    elif verdict["p"] is None:
        text = UNDECIDED
    else:
        text = str(verdict["verdict"])
    told = f"{text} (p {_p(verdict['p_tost_holm'])})" if text == EQUIVALENT else text
    return f"{told}, so far" if row["missing"] else told


def table_notes(table: Mapping[str, Any]) -> list[str]:
    """What belongs to one table: lower is better, seeds needed, other numbers, what failed."""
    found = [] if table["metric"]["higher_is_better"] else ["Lower is better."]
    found += _seeds_needed(table)
    found += _extra_notes(table)
    for row in table["rows"]:
        found += [f"{row['recipe']}: {problem}." for problem in row["problems"]]
        if row["difference"] and EQUAL in row["difference"].get("note", ""):
            found.append(
                f"{row['recipe']}: {EQUAL}; no test can be made of them, and their intervals "
                "say nothing about other seeds."
            )
        if row["dead_layers"]:
            found.append(
                f"{row['recipe']}: layers without any gradient: {', '.join(row['dead_layers'])}."
            )
    return [*found, *(f"{line}." for line in not_run(table["rows"]))]


def _seeds_needed(table: Mapping[str, Any]) -> list[str]:
    """For undecided rows, the seeds that would show equivalence if there were no difference.

    At the level of the test that the table makes: the strictest that Holm asks of its rows. A row
    that has that many seeds already, or whose interval lies beyond the margin, is not helped by
    more of them.
    """
    margin = table["margin"]
    judged = [row for row in table["rows"] if row["verdict"]]
    told = []
    for row in judged:
        pairs = row["difference"]
        if not margin or row["verdict"]["verdict"] != UNDECIDED or row["problems"]:
            continue
        if pairs["n"] < FEWEST or not pairs["sd"] or EQUAL in pairs.get("note", ""):
            continue
        if pairs["t_interval"]["low"] > margin or pairs["t_interval"]["high"] < -margin:
            continue
        within = margin_to_plan(margin, _ratio(table))
        if within / pairs["sd"] < 0.02:  # beyond counting
            told.append(f"{row['recipe']} more than {MOST // 10}")
            continue
        seeds = seeds_for_tost(pairs["sd"], within, 0.0, POWER, ALPHA / len(judged))
        if seeds > pairs["n"]:
            told.append(f"{row['recipe']} {seeds}")
    if not told:
        return []
    return [
        f"Seeds that would show equivalence with a chance of {100 * POWER:.0f} %, were there no "
        f"difference, at the level that Holm asks of the first of {len(judged)} rows: "
        f"{', '.join(told)}."
    ]


def _extra_notes(table: Mapping[str, Any]) -> list[str]:
    """The other numbers, a line each; of a measure with the paired difference."""
    names = dict.fromkeys(name for row in table["rows"] for name in row["extras"])
    lines = []
    for each in names:
        told = []
        for row in table["rows"]:
            if each not in row["extras"]:
                continue
            value = row["extras"][each]
            text = f"{row['recipe']} {mean_sd(value, 3)}"
            if "." in each and value["difference"] and value["difference"]["t_interval"]:
                text += f" ({difference(value['difference'], 3)})"
            told.append(text)
        lines.append(f"{each}: {'; '.join(told)}.")
    return lines


def notes(record: Mapping[str, Any]) -> list[str]:
    """What a reader must know of all tables: how they were made, what is missing.

    >>> from nybble.studies.study import sample
    >>> notes(sample.record())[-1]
    'left out: luq (unknown recipe)'
    """
    seeds = {task: _listed(entry["seeds"]) for task, entry in record["tasks"].items()}
    same = len(set(seeds.values())) == 1
    told = next(iter(seeds.values())) if same else "; ".join(f"{t} {s}" for t, s in seeds.items())
    found = [
        f"Metrics at the end of training, mean ± standard deviation over seeds ({told}).",
    ]
    compared = record["baseline"] and any(
        table.get("baseline", record["baseline"]) for table in record["tables"]
    )
    if compared and conditions.suits(record):
        found.append(
            f"Differences to {record['baseline']} are paired by seed, with the 95 % t interval of "
            "their mean; of perplexities, the ratio in per cent. Beyond that as trained: how much "
            "larger the difference is under the condition than without it, paired by seed too, "
            f"so what the condition costs the recipe more than {record['baseline']}. p: t test "
            "that there is nothing beyond, corrected by Holm over the lines of the table."
        )
    elif compared:
        found.append(
            f"Differences to {record['baseline']} are paired by seed, with the 95 % t interval and "
            "the bias-corrected bootstrap interval of their mean (with two or three pairs the "
            "latter is too narrow); of perplexities, the ratio in per cent, tested on its "
            "logarithm. p: paired t test that there is no difference, corrected by Holm over the "
            "rows of the table."
        )
        found.append(
            "equivalent: within the margin by two one-sided t tests, corrected too; different: not "
            "shown to be equivalent, and p at most 0.05; undecided: neither, so more seeds are "
            "needed."
        )
    if any(row["problems"] for table in record["tables"] for row in table["rows"]):
        found.append(
            "failed: a run of this recipe, or of what it is compared with, failed, so the others "
            "cannot show that they are equivalent."
        )
    if record["missing"]:
        found.append(
            f"{_unrun(record['missing'])} not been run: the same command continues. A verdict "
            "that is read again after every few seeds errs more often than its level says."
        )
    found += [*origin_notes(record["runs"]), *_mixed(record)]
    return [*found, *record["notes"]]


def _unrun(missing: int) -> str:
    return "1 cell has" if missing == 1 else f"{missing} cells have"


def _mixed(record: Mapping[str, Any]) -> list[str]:
    """Which pairs have two runs that were not made by the same code on the same kind of machine."""
    runs = {
        (run["task"], run.get("variant", ""), run["recipe"], run["seed"]): run.get("origin") or {}
        for run in record["runs"]
    }
    found = []
    for what in ("commit", "cpu", INSTRUCTIONS, "torch"):
        apart: dict[str, list[str]] = {}
        for (task, variant, recipe, seed), origin in runs.items():
            baseline = runs.get((task, variant, record["baseline"], seed))
            if baseline is not None and baseline.get(what) != origin.get(what):
                place = ", ".join(part for part in (task, variant) if part)
                apart.setdefault(f"{place}, seed {seed}", []).append(recipe)
        if apart:
            told = "; ".join(f"{place}: {', '.join(recipes)}" for place, recipes in apart.items())
            found.append(f"Pairs whose two runs differ in {ORIGINS[what]}: {told}.")
    return found


def configured(record: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    """One sentence about a task: model, data and length of training."""
    given = record["tasks"][table["task"]]["configuration"]
    data, options = given["data_set"], dict(given.get("task_options") or ())
    steps = options.pop("steps", None)
    epochs = f"{given['epochs']} epoch{'s' if given['epochs'] != 1 else ''}"
    length = epochs if steps is None else f"{steps} steps"
    told = ", ".join(
        f"{name}={value}" for name, value in options.items() if value not in ("", None)
    )
    sizes = (
        f"{given['model']}{f' ({told})' if told else ''} on {data['name']} "
        f"({data['train']} train, {data['test']} test)"
    )
    return (
        f"{sizes}, {length}, batch {given['batch_size']}, {given['optimizer']}, "
        f"peak learning rate {given['lr']:g}."
    )


def _ratio(table: Mapping[str, Any]) -> bool:
    return bool(table["metric"].get("comparison") == "ratio")


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*")
