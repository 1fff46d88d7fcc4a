"""A comparison's table on the terminal (rich), as plain text (a pipe or a log), and in Markdown.

All three show the cells and notes of `cells`; nothing is left out of the plain one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nybble.reports.cells import by_ratio, cells, column_widths, header, notes

WIDE = 150
"""Columns of a terminal that holds a row of the table on one line."""

if TYPE_CHECKING:
    from rich.console import Console


def plain(record: Mapping[str, Any]) -> str:
    """The table and its notes as lines of text; columns are aligned and never wrapped.

    >>> from nybble.studies import sample
    >>> print(plain(sample.record()).splitlines()[2].split("  ")[0])
    fp32
    """
    rows = [header(record), *(cells(record, row) for row in record["rows"])]
    widths = column_widths(rows)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", *notes(record)])


def markdown(record: Mapping[str, Any]) -> str:
    """The table and its notes in Markdown.

    >>> from nybble.studies import sample
    >>> markdown(sample.record()).splitlines()[0].split("|")[1]
    ' recipe '
    """
    rows = [header(record), *(cells(record, row) for row in record["rows"])]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join([*lines, "", *(f"- {_escape(note)}" for note in notes(record))])


def summary(records: Mapping[str, Mapping[str, Any]], recipe: str = "sun2020") -> str:
    """One row a comparison in Markdown: what `recipe` reached beside the baseline.

    >>> from nybble.studies import sample
    >>> print(summary({"made-up": sample.record()}).splitlines()[2].split("|")[1])
     resnet8 on fashion-mnist: accuracy (%)
    """
    lines = [
        f"| model, data: metric | baseline | {recipe} | change [95 %] | step time | record |",
        "|---|---|---|---|---|---|",
    ]
    for name, record in sorted(records.items()):
        base = next((row for row in record["rows"] if row["baseline"]), None)
        own = next((row for row in record["rows"] if row["recipe"] == recipe), None)
        if base is None or own is None:
            continue
        unit = record["metric"].get("unit")
        what = f"{record['title']}: {record['metric']['name']}{f' ({unit})' if unit else ''}"
        before, after = cells(record, base), cells(record, own)
        change = after[2].replace(" [", " % [") if by_ratio(record) else after[2]
        where = (record.get("timing") or {}).get("backend", {}).get(recipe, "")
        time = f"{after[3]} ({where})" if where else after[3]
        lines.append(f"| {what} | {before[1]} | {after[1]} | {change} | {time} | `{name}` |")
    return "\n".join(lines)


def _broken(cell: str) -> str:
    """The cell in short lines: a bracket, and every switch of a recipe, on a line of its own."""
    return re.sub(r" (?=[\[(])|(?<=:)|(?<!=)(?=\+[a-z])", "\n", cell)


def _escape(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*")


def show(record: Mapping[str, Any], console: Console) -> None:
    """Print the table: with lines and colour on a terminal, as plain text anywhere else.

    >>> import io
    >>> from rich.console import Console
    >>> from nybble.studies import sample
    >>> out = io.StringIO()
    >>> show(sample.record(), Console(file=out))
    >>> out.getvalue() == plain(sample.record()) + "\\n"
    True
    """
    if not console.is_terminal:
        console.print(plain(record), markup=False, highlight=False, soft_wrap=True)
        return
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    narrow = console.width < WIDE
    table = Table(
        title=escape(str(record["title"])),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in header(record):
        table.add_column(escape(name), overflow="fold", vertical="top")
    for row in record["rows"]:
        bad = row["finished"] != row["runs"] or row["dead_layers"]
        style = "bold" if row["baseline"] else ("red" if bad else None)
        texts = [_broken(cell) if narrow else cell for cell in cells(record, row)]
        table.add_row(*(escape(text) for text in texts), style=style)
    console.print(table)
    for note in notes(record):
        console.print(escape(note), style="dim", highlight=False)
