"""A speed measurement as text and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nybble.reports.cells import column_widths, ratio

HEADER = ("threads", "float32", "emulated", "wall time ratio", "CPU time ratio")


def rows(record: Mapping[str, Any]) -> list[list[str]]:
    """The cells of the table, one row a number of threads.

    >>> side = {"wall_ms": 30.0, "wall": None, "cpu": None}
    >>> ratio = {"n": 9, "median": 1.5, "min": 1.4, "max": 1.7, "interval": None}
    >>> recipe = {"wall_ms": 45.0, "wall": ratio, "cpu": ratio}
    >>> rows({"measurements": [{"threads": 1, "baseline": side, "recipe": recipe}]})
    [['1', '30.0 ms', '45.0 ms', '1.50x (1.40 to 1.70)', '1.50x (1.40 to 1.70)']]
    """
    return [
        [
            str(found["threads"]),
            f"{found['baseline']['wall_ms']:.1f} ms",
            f"{found['recipe']['wall_ms']:.1f} ms",
            ratio(found["recipe"]["wall"]),
            ratio(found["recipe"]["cpu"]),
        ]
        for found in record["measurements"]
    ]


def notes(record: Mapping[str, Any]) -> list[str]:
    """What was measured, and how."""
    made = record["configuration"]
    shape = " x ".join(map(str, made["images"]))
    return [
        f"One training step of {made['model']}, images {shape}: {made['recipe']} on the "
        f"{made['backend']} backend against {made['baseline']} in the same process.",
        f"Median over {made['pairs']} pairs of steps taken in turn, with the 95 % interval of the "
        "median; CPU time counts all threads, also those that spin while they wait.",
    ]


def verdict(record: Mapping[str, Any]) -> list[str]:
    """One line, the ratios of wall times against the aim; none where there is no aim.

    >>> verdict({"target": None})
    []
    """
    if record["target"] is None:
        return []
    ratios = {m["threads"]: m["recipe"]["wall"]["median"] for m in record["measurements"]}
    parts = [f"{r:.2f}x with {n} thread{'' if n == 1 else 's'}" for n, r in ratios.items()]
    met = "met" if max(ratios.values()) <= record["target"] else "not met"
    return [f"Aim: at most {record['target']}x. Measured: {', '.join(parts)}: {met}."]


def plain(record: Mapping[str, Any]) -> str:
    """The table, the notes and the verdict as lines of text."""
    table = [list(HEADER), *rows(record)]
    widths = column_widths(table)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", *notes(record), *verdict(record)])


def markdown(record: Mapping[str, Any]) -> str:
    """The table, the notes and the verdict in Markdown."""
    table = [list(HEADER), *rows(record)]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    lines.insert(1, "|" + "---|" * len(HEADER))
    return "\n".join([*lines, "", *(f"- {note}" for note in (*notes(record), *verdict(record)))])
