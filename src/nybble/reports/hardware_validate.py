"""`nybble hardware validate` in text: predictions beside what was measured, and the bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nybble.reports.cells import column_widths

__all__ = ["markdown", "plain", "tables"]

Record = Mapping[str, Any]
Table = list[list[str]]
_SIDES = {"torch": "float32", "native": "4-bit"}


def plain(record: Record) -> str:
    """The record as lines of text.

    >>> plain(sample()).splitlines()[0]
    'Steps'
    """
    lines: list[str] = []
    for title, table in tables(record):
        widths = column_widths(table)
        rows = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        lines += [title, "", rows[0], "  ".join("-" * w for w in widths), *rows[1:], ""]
    return "\n".join([*lines, *_lines(record)]).rstrip()


def markdown(record: Record) -> str:
    """The same for the docs, without the Gemms that are not judged.

    >>> markdown(sample()).splitlines()[2][:19]
    '| network | batch |'
    """
    lines: list[str] = []
    for title, table in tables(record)[:3]:
        rows = ["| " + " | ".join(row) + " |" for row in table]
        lines += [f"{title}:", "", rows[0], "|" + "---|" * len(table[0]), *rows[1:], ""]
    return "\n".join([*lines, *(f"- {line}" for line in _lines(record))])


def tables(record: Record) -> list[tuple[str, Table]]:
    """(title, rows with a header): steps, ratios, Gemms that are judged, Gemms that are not."""
    judged = [row for row in record["gemms"] if row["judged"]]
    small = [row for row in record["gemms"] if not row["judged"]]
    found = [
        ("Steps", _steps(record["steps"])),
        ("4-bit time over float32 time", _ratios(record["ratios"])),
        ("Gemms, with their quantisation, of one layer", _gemms(judged)),
    ]
    if small:
        share = f"{100 * record['share']:.0f} %"
        found.append((f"Gemms below {share} of their step's, not judged", _gemms(small)))
    return found


def _steps(rows: list[Record]) -> Table:
    head = ["network", "batch", "side", "predicted", "measured", "from", "to", "error", "within"]
    return [
        head,
        *(
            [
                row["network"] + (" *" if row["apart"] else ""),
                str(row["batch"]),
                _SIDES[row["side"]] + (f", {row['form']}" if row["form"] else ""),
                *(f"{row[name]:.1f} ms" for name in ("predicted_ms", "measured_ms")),
                *(f"{row[name]:.1f}" for name in ("least_ms", "most_ms")),
                _percent(row["error"]),
                _yes(row["within"]),
            ]
            for row in rows
        ),
    ]


def _ratios(rows: list[Record]) -> Table:
    return [
        ["network", "predicted", "measured", "error", "within"],
        *(
            [
                row["network"] + (" *" if row["apart"] else ""),
                f"{row['predicted']:.3f}",
                f"{row['measured']:.3f}",
                _percent(row["error"]),
                _yes(row["within"]),
            ]
            for row in rows
        ),
    ]


def _gemms(rows: list[Record]) -> Table:
    head = ["network", "side", "layer", "like it", "kernel", "product"]
    return [
        [*head, "predicted", "measured", "error", "share", "within"],
        *(
            [
                row["network"],
                _SIDES[row["side"]],
                row["layer"] or "(the model)",
                str(row["layers"]),
                row["kernel"],
                row["gemm"],
                *(f"{row[name]:.2f} ms" for name in ("predicted_ms", "measured_ms")),
                _percent(row["error"]),
                f"{100 * row['share']:.1f} %",
                _yes(row["within"]),
            ]
            for row in rows
        ),
    ]


def _lines(record: Record) -> list[str]:
    bounds, passed = record["bounds"], record["passed"]
    made = record["configuration"]
    rounds = made["rounds"]
    lines = [
        "error: predicted over measured, less one. Predictions were written down at "
        f"{record['predictions']['at']}, the measurement began at {record['measured_from']}.",
        f"One thread, CPU time, median of {rounds} steps of each side in turn"
        + ("" if rounds >= 15 else ": fewer than the 15 that the bounds are stated for")
        + ". float32 is torch's operators one by one, not compiled.",
        "No layer of any of these networks was timed for the description"
        + (
            "; those with * are beside the three that the bounds are stated for."
            if any(row["apart"] for row in record["steps"])
            else "."
        ),
        "Peaks before the probes and after the measurement: "
        + ", ".join(
            f"{name} {value:.1f} and {record['peaks_after'][name]:.1f}"
            for name, value in record["peaks"].items()
        )
        + "; what lies between them is the machine.",
        *([f"{record['memory']}."] if record["memory"] else []),
        _energy(record["steps"]),
    ]
    for network, sides in record["predictions"]["networks"].items():
        for side, one in sides.items():
            lines += [f"{network}, {_SIDES[side]}: {note}." for note in one["notes"]]
    counts = {
        "step": (record["steps"], "steps"),
        "ratio": (record["ratios"], "ratios"),
        "gemm": ([row for row in record["gemms"] if row["judged"]], "Gemms"),
    }
    for name, (rows, what) in counts.items():
        good = sum(1 for row in rows if row["within"])
        worst = max((abs(row["error"]) for row in rows), default=0.0)
        lines.append(
            f"{what}: {good} of {len(rows)} within {100 * bounds[name]:.0f} %, the largest error "
            f"{100 * worst:.0f} %: {'met' if passed[name] else 'not met'}."
        )
    return lines


def _energy(steps: list[Record]) -> str:
    parts = []
    for row in steps:
        joules = row["joules"]
        if joules["joules"] is None:
            return f"Energy of a step: not known, {joules['why_not']}."
        parts.append(f"{row['network']} {_SIDES[row['side']]} {joules['joules']:.2f} J")
    return f"Energy of a step, of the whole processor: {', '.join(parts)}."


def _percent(value: float) -> str:
    """
    >>> _percent(0.123), _percent(-0.04)
    ('+12 %', '-4 %')
    """
    return f"{100 * value:+.0f} %"


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


def sample() -> dict[str, Any]:
    """A small record, for tests."""
    energy = {"joules": None, "why_not": "this system shows no energy counters"}
    one = {"network": "cpu:a", "batch": 1, "apart": False, "error": 0.1, "within": True}
    times = {"predicted_ms": 1.1, "measured_ms": 1.0, "least_ms": 0.9, "most_ms": 1.2}
    gemm = {"layer": "0", "layers": 1, "kernel": "conv", "gemm": "output", "share": 0.5}
    return {
        "bounds": {"step": 0.2, "ratio": 0.15, "gemm": 0.3},
        "share": 0.02,
        "configuration": {"rounds": 15},
        "peaks": {"float32 GMAC/s": 40.0},
        "peaks_after": {"float32 GMAC/s": 38.0},
        "memory": "",
        "predictions": {"at": "then", "networks": {"cpu:a": {"torch": {"notes": ["a note"]}}}},
        "measured_from": "later",
        "steps": [
            {**one, **times, "side": side, "form": "", "joules": energy}
            for side in ("torch", "native")
        ],
        "ratios": [{**one, "predicted": 1.1, "measured": 1.0}],
        "gemms": [{**one, **times, **gemm, "side": "torch", "judged": True}],
        "passed": {"step": True, "ratio": True, "gemm": True},
    }
