"""An estimate as one HTML page that needs nothing else: tables, roofline, bars of time and energy.

roofline     operations of Gemms a byte of main memory, against what was reached; the roofs are the
             main memory's bandwidth and the peaks of the engines
bars         time and energy of each estimate, stacked by cause; of its costliest layers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nybble.reports import figures, hardware
from nybble.reports.html import STYLE
from nybble.training.files import disk_errors, write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
LAYERS = 16
_PALETTE = (*figures.COLOURS, "#332288", "#88CCEE", "#117733", "#AA4499", "#882255", "#DDCC77")


def write_page(path: Path, record: Record) -> None:
    """Write the page, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    with disk_errors(f"The page {path}"):
        write_atomic(path, page(record).encode())


def page(record: Record) -> str:
    """The page of a record of `nybble hardware estimate`, as text."""
    title = f"{record['network']}, batch {record['batch']}"
    drawn = [_roofline(record), _stacked(record, "seconds"), _stacked(record, "joules")]
    for place, entry in enumerate(record["estimates"]):
        drawn += [_layers(entry, place), _layer_energy(entry, place)]
    notes = [
        f"<h3>{escape(entry['chip'])}, {escape(entry['recipe'])}</h3>"
        f"<ul>{''.join(f'<li>{escape(n)}</li>' for n in hardware.remarks(entry))}</ul>"
        for entry in record["estimates"]
    ]
    parts = [
        f"<h1>What a chip would need: {escape(title)}</h1>",
        f'<p class="sub">A model, not a measurement. Made by <code>{escape(record["command"])}'
        "</code></p>",
        "<h2>Time and energy of a training step</h2>",
        _table(*hardware.estimate_rows(record)),
        "<p>Ratios are against the first line. Gemms: of the Gemms alone. At peak: of the Gemms at "
        "the peaks of the engines that they run on.</p>",
        "<h2>Where it goes: share of time / of energy</h2>",
        _table(*hardware.cause_rows(record)),
        '<div class="figures">' + "".join(f"<figure>{svg}</figure>" for svg in drawn) + "</div>",
        "<h2>What decided, and what is not in it</h2>",
        *notes,
        "<h2>The machines</h2>",
        *(_machine(chip) for chip in record["chips"]),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n'
        "</tbody></table></div>"
    )


def _machine(chip: Mapping[str, Any]) -> str:
    rows = [[f["field"], f"{f['value']:g}", f["confidence"], f["source"]] for f in chip["figures"]]
    return (
        f"<details><summary>{escape(chip['name'])}: {escape(chip['title'])}</summary>"
        + _table(("field", "value", "confidence", "source"), rows)
        + "</details>"
    )


def _label(entry: Record) -> str:
    return f"{entry['chip']}\n{entry['recipe']}"


def _stacked(record: Record, what: str) -> str:
    """Time or energy of every estimate, stacked by cause: SVG."""
    estimates = record["estimates"]
    causes = list(dict.fromkeys(c for e in estimates for c in e["causes"]))
    causes = [c for c in causes if any(_part(e, c, what) > 0.004 * e[what] for e in estimates)]
    unit, size = ("ms", 1e-3) if what == "seconds" else ("J", 1.0)

    def draw(axes: Axes) -> None:
        left = [0.0] * len(estimates)
        for place, cause in enumerate(causes):
            widths = [_part(entry, cause, what) / size for entry in estimates]
            axes.barh(
                range(len(estimates)),
                widths,
                left=left,
                color=_PALETTE[place % len(_PALETTE)],
                label=cause,
                height=0.6,
            )
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(estimates)), [_label(entry) for entry in estimates])
        axes.invert_yaxis()
        axes.set_xlabel(f"{'time' if what == 'seconds' else 'energy'} of a step, {unit}")
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.45, -0.2), ncols=4)

    title = "time by cause" if what == "seconds" else "energy by cause"
    return figures.svg(draw, title, (6.4, 1.9 + 0.75 * len(estimates)), f"bars-{what}")


def _part(entry: Record, cause: str, what: str) -> float:
    return float(entry["causes"].get(cause, {}).get(what, 0.0))


def _layers(entry: Record, place: int) -> str:
    """The costliest layers of one estimate: time that was computing, and time that stalled: SVG."""
    rows = sorted(entry["layers"].items(), key=lambda item: -item[1]["seconds"])[:LAYERS]

    def draw(axes: Axes) -> None:
        busy = [1e3 * (row["seconds"] - row["stalled"]) for _, row in rows]
        stalled = [1e3 * row["stalled"] for _, row in rows]
        axes.barh(range(len(rows)), busy, color=figures.COLOURS[0], label="computing")
        axes.barh(range(len(rows)), stalled, left=busy, color=figures.COLOURS[4], label="waiting")
        axes.set_yticks(range(len(rows)), [_short(name) for name, _ in rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("time of a step, ms")
        axes.legend()
        axes.set_title(_label(entry).replace("\n", ", "), fontsize=10)

    return figures.svg(draw, "costliest layers", (6.4, 1.2 + 0.24 * len(rows)), f"layers-{place}")


def _layer_energy(entry: Record, place: int) -> str:
    """The layers that take the most energy: SVG."""
    rows = sorted(entry["layers"].items(), key=lambda item: -item[1]["joules"])[:LAYERS]

    def draw(axes: Axes) -> None:
        axes.barh(range(len(rows)), [row["joules"] for _, row in rows], color=figures.COLOURS[2])
        axes.set_yticks(range(len(rows)), [_short(name) for name, _ in rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("energy of a step, J")
        axes.set_title(_label(entry).replace("\n", ", "), fontsize=10)

    return figures.svg(draw, "energy by layer", (6.4, 1.2 + 0.24 * len(rows)), f"energy-{place}")


def _short(name: str) -> str:
    """A layer's name that fits beside a bar; names of a user's layers may hold anything."""
    text = name or "(the model)"
    return (text if len(text) <= 36 else "..." + text[-33:]).replace("$", r"\$")


def _roofline(record: Record) -> str:
    """Every Gemm cause and the whole step of each estimate under the machine's roofs: SVG."""

    def draw(axes: Axes) -> None:
        import numpy as np

        x = np.logspace(0, 5, 200)
        roofs: dict[tuple[float, float], list[str]] = {}
        for chip in record["chips"]:
            for engine in chip["roofs"]:
                key = (engine["tops"], chip["main_tb_per_s"])
                roofs.setdefault(key, []).append(f"{chip['name']} {engine['name']}")
        for place, ((tops, bandwidth), names) in enumerate(roofs.items()):
            roof = np.minimum(tops, x * bandwidth)
            style = figures.STYLES[place % len(figures.STYLES)]
            axes.plot(x, roof, style, color="#999999", linewidth=0.9)
            axes.annotate(
                ", ".join(names),
                (x[-1], tops),
                fontsize=6,
                ha="right",
                va="bottom",
                color="#555555",
            )
        for place, entry in enumerate(record["estimates"]):
            colour = _PALETTE[place % len(_PALETTE)]
            label = _label(entry).replace("\n", ", ")
            chips = entry["chips"]
            for cause in ("output", "grad_input", "grad_weight"):
                row = entry["causes"].get(cause)
                if row and row["bytes"] > 0 and row["seconds"] > 0:
                    work = 2 * row["macs"]
                    axes.plot(
                        work / row["bytes"], chips * work / row["seconds"] / 1e12, ".", color=colour
                    )
            total = sum(row["bytes"] for row in entry["causes"].values())
            if total:
                axes.plot(2 * entry["macs"] / total, entry["tops"], "D", color=colour, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("operations of Gemms a byte of main memory")
        axes.set_ylabel("operations a second, 1e12")
        axes.set_title("dots: the three Gemms; diamonds: the whole step", fontsize=9)
        axes.legend(fontsize=8)

    return figures.svg(draw, "roofline", (6.4, 4.4), "roofline")
