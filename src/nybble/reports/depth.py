"""The record of study `depth` as tables and as curves over the blocks.

A table a chain and a kind of forward pass: for every recipe the cosine of the weight gradient at
the first block (the farthest from the loss) of each depth, and for the deepest chain its shrinkage,
its bias and what the block alone adds, each with the 95 % t interval over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from nybble.reports.figures import COLOURS, STYLES, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIRST = 0
"""The block of which the tables speak: the first behind the stem."""
DEEPEST = {
    "shrinkage": "weight.shrinkage",
    "bias": "weight.bias",
    "own shrinkage": "own_weight.shrinkage",
    "own bias": "own_weight.bias",
}
"""Columns of the deepest chain: heading and figure."""
SHOWN = ("weight.cosine", "weight.shrinkage", "output.norm_ratio", "weight.bias")
"""Figures that are drawn over the blocks."""

Row = Mapping[str, Any]


def groups(record: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Row]]]:
    """(kind of chain, forward pass, its rows), in the order of the configuration."""
    for kind in record["configuration"]["kinds"]:
        for forward in record["configuration"]["forwards"]:
            rows = [r for r in record["rows"] if (r["kind"], r["forward"]) == (kind, forward)]
            yield kind, forward, rows


def header(record: Mapping[str, Any]) -> list[str]:
    """Titles of the columns."""
    depths = record["configuration"]["depths"]
    at = [f"cosine at depth {depth}" for depth in depths]
    return ["recipe", *at, *(f"{name} at {max(depths)}" for name in DEEPEST)]


def cells(record: Mapping[str, Any], rows: list[Row], recipe: str) -> list[str]:
    """One line of the table."""
    by_depth = {row["depth"]: row["figures"] for row in rows if row["recipe"] == recipe}
    depths = record["configuration"]["depths"]
    deepest = by_depth[max(depths)]
    return [
        recipe,
        *(with_interval(by_depth[depth]["weight.cosine"], FIRST) for depth in depths),
        *(with_interval(deepest[name], FIRST) for name in DEEPEST.values()),
    ]


def with_interval(figure: Mapping[str, Any], block: int) -> str:
    """A figure of one block with its interval.

    >>> with_interval({"mean": [0.5], "low": [0.4], "high": [0.61]}, 0)
    '0.50 [0.40, 0.61]'
    >>> with_interval({"mean": [0.5], "low": [None], "high": [None]}, 0)
    '0.50 (no interval)'
    """
    mean, low, high = (figure[key][block] for key in ("mean", "low", "high"))
    if mean is None:
        return "none"
    if low is None or high is None:
        return f"{mean:.2f} (no interval)"
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def caption(kind: str, forward: str) -> str:
    """What a table is of."""
    passes = "forward pass in float32" if forward == "float32" else "forward pass as the recipe's"
    return f"{kind} chain, {passes}"


def about(record: Mapping[str, Any]) -> str:
    """What was measured, in one sentence."""
    c = record["configuration"]
    what = f"after {c['steps']} steps in float32" if c["steps"] else "without training"
    return (
        f"Gradients of {c['layers']} chains of width {c['width']} {what}, against float32's on the "
        f"same batch of {c['batch_size']}; {len(c['seeds'])} seeds of {c['batches']} batches, "
        "95 % t interval over seeds. Cosine, shrinkage and bias are the weight gradient's at the "
        "first block, the farthest from the loss; own: against float32 products of the very "
        "operands that the block had."
    )


def markdown(record: Mapping[str, Any]) -> str:
    """The tables for docs/."""
    lines = [about(record)]
    titles = header(record)
    for kind, forward, rows in groups(record):
        lines += ["", f"**{caption(kind, forward)}**", ""]
        lines += ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
        for recipe in record["configuration"]["recipes"]:
            first, *rest = cells(record, rows, recipe)
            lines.append("| " + " | ".join([f"`{first}`", *rest]) + " |")
    lines += [line for note in record["notes"] for line in ("", f"- {note}")]
    return "\n".join(lines)


def plain(record: Mapping[str, Any]) -> str:
    """The tables for a terminal."""
    lines = [about(record)]
    titles = header(record)
    for kind, forward, rows in groups(record):
        table = [titles]
        table += [cells(record, rows, recipe) for recipe in record["configuration"]["recipes"]]
        widths = [max(len(line[i]) for line in table) for i in range(len(titles))]
        lines += ["", caption(kind, forward)]
        for line in table:
            padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            lines.append("  " + "  ".join(padded).rstrip())
    lines += ["", *(f"note: {note}" for note in record["notes"])] if record["notes"] else []
    return "\n".join(lines)


def curves(record: Mapping[str, Any], kind: str, forward: str, figure: str) -> str:
    """A figure over the blocks of the deepest chain, one line a recipe with its interval: SVG."""
    depth = max(record["configuration"]["depths"])

    def draw(axes: Axes) -> None:
        for place, recipe in enumerate(record["configuration"]["recipes"]):
            values = next(
                row["figures"][figure]
                for row in record["rows"]
                if (row["recipe"], row["kind"], row["forward"], row["depth"])
                == (recipe, kind, forward, depth)
            )
            colour, style = COLOURS[place % len(COLOURS)], STYLES[place % len(STYLES)]
            kept = [i for i, value in enumerate(values["mean"]) if value is not None]
            blocks = [i + 1 for i in kept]
            mean = [values["mean"][i] for i in kept]
            axes.plot(blocks, mean, style, color=colour, linewidth=2, label=recipe)
            sure = [i for i in kept if values["low"][i] is not None]
            axes.fill_between(
                [i + 1 for i in sure],
                [values["low"][i] for i in sure],
                [values["high"][i] for i in sure],
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
        axes.set_xlabel("block (1: behind the stem, last: before the head)")
        axes.set_ylabel(figure)
        if figure.endswith(("norm_ratio", "bias", "error")):
            axes.set_yscale("symlog", linthresh=1.0)
        axes.legend(fontsize=8)

    prefix = f"{kind}-{forward}-{figure.replace('.', '-')}"
    return svg(draw, f"{figure}, {caption(kind, forward)}", (6.4, 4.0), prefix)


def page(record: Mapping[str, Any]) -> str:
    """One HTML page with tables and curves, which needs nothing else."""
    from nybble.reports.html import STYLE

    parts = [f"<h1>{escape(str(record['title']))}</h1>", f"<p>{escape(about(record))}</p>"]
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in header(record))
    for kind, forward, rows in groups(record):
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(c)}</td>" for c in cells(record, rows, recipe)) + "</tr>"
            for recipe in record["configuration"]["recipes"]
        )
        parts += [
            f"<h2>{escape(caption(kind, forward))}</h2>",
            f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody>'
            "</table></div>",
            '<div class="figures">',
            *(f"<figure>{curves(record, kind, forward, name)}</figure>" for name in SHOWN),
            "</div>",
        ]
    parts += [f"<p>{escape(note)}</p>" for note in record["notes"]]
    parts += ["<h2>To repeat it</h2>", f"<pre>{escape(str(record['command']))}</pre>"]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(str(record['title']))}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )
