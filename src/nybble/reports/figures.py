"""Curves and intervals of a comparison as SVG text that can stand inside an HTML page.

Drawn by matplotlib without a display.  What matplotlib writes for a file of its own (XML header,
document type, metadata, namespace addresses) is removed, so that the text loads nothing and names
no other site; identifiers get a prefix, so that several figures fit in one page.  Texts stay texts:
they can be selected and searched, and take the page's font.

Colours are those of Okabe and Ito, which people with colour-blindness can tell apart; the baseline
is black; every recipe has a line style of its own too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nybble.reports.cells import by_ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f")
STYLES = ("--", "-.", ":", "-")
BASELINE = "#000000"

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nybble",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def palette(record: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Colour and line style of every recipe of the record.

    >>> from nybble.studies import sample
    >>> palette(sample.record())["fp32"]
    ('#000000', '-')
    """
    found: dict[str, tuple[str, str]] = {}
    others = 0
    for row in record["rows"]:
        if row["baseline"]:
            found[row["recipe"]] = (BASELINE, "-")
        else:
            found[row["recipe"]] = (COLOURS[others % len(COLOURS)], STYLES[others % len(STYLES)])
            others += 1
    return found


def metric_curves(record: Mapping[str, Any], against: str = "epoch") -> str:
    """The metric of every run over epochs (or over `seconds` of training): SVG.

    One thin line a seed, one thick line for the mean over the seeds that have all epochs.

    >>> from nybble.studies import sample
    >>> metric_curves(sample.record()).startswith("<svg")
    True
    """
    metric = record["metric"]
    unit = f" ({metric['unit']})" if metric.get("unit") else ""
    label = "epoch" if against == "epoch" else "seconds of training steps"
    title = f"{metric['name']} over {'epochs' if against == 'epoch' else 'time'}"
    return _curves(record, against, "metric", label, f"{metric['name']}{unit}", title)


def loss_curves(record: Mapping[str, Any]) -> str:
    """The training loss of every run over epochs, on a logarithmic axis: SVG."""
    return _curves(record, "epoch", "train_loss", "epoch", "training loss", "training loss", True)


def _curves(
    record: Mapping[str, Any],
    x: str,
    y: str,
    x_label: str,
    y_label: str,
    title: str,
    logarithmic: bool = False,
) -> str:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

    def draw(axes: Axes) -> None:
        colours = palette(record)
        for recipe in record["recipes"]:
            curves = [run["curve"] for run in record["runs"] if run["recipe"] == recipe]
            colour, style = colours[recipe]
            for curve in curves:
                points = _points(curve, x, y)
                # A line of one point shows nothing.
                dot = "." if len(points[0]) == 1 else None
                axes.plot(*points, color=colour, alpha=0.35, linewidth=0.8, marker=dot)
            xs, ys = _mean_curve([_points(curve, x, y) for curve in curves])
            dot = "o" if len(xs) == 1 else None
            axes.plot(xs, ys, style, color=colour, linewidth=2, label=recipe, marker=dot)
        if logarithmic and _any_positive(record, y):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if x == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()

    return svg(draw, title, (6.4, 4.0), f"{y}-{x}")


def _points(curve: Sequence[Mapping[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    kept = [point for point in curve if point[y] is not None and point[x] is not None]
    return [point[x] for point in kept], [point[y] for point in kept]


def _mean_curve(
    curves: Sequence[tuple[list[float], list[float]]],
) -> tuple[list[float], list[float]]:
    """Mean of x and of y at every epoch, over the curves that are as long as the longest."""
    longest = max((len(xs) for xs, _ in curves), default=0)
    whole = [curve for curve in curves if len(curve[0]) == longest and longest]
    xs = [sum(curve[0][i] for curve in whole) / len(whole) for i in range(longest)]
    ys = [sum(curve[1][i] for curve in whole) / len(whole) for i in range(longest)]
    return xs, ys


def _any_positive(record: Mapping[str, Any], y: str) -> bool:
    values = [point[y] for run in record["runs"] for point in run["curve"] if point[y] is not None]
    return bool(values) and min(values) > 0


def differences(record: Mapping[str, Any]) -> str | None:
    """Every recipe's paired difference: a dot a seed, the mean, and its 95 % interval: SVG.

    None when there is nothing to compare with the baseline.

    >>> from nybble.studies import sample
    >>> differences(sample.record(baseline=None)) is None
    True
    """
    rows = [row for row in record["rows"] if row["difference"] and row["difference"]["n"]]
    if not rows:
        return None
    metric = record["metric"]
    unit = " (points)" if metric.get("unit") == "%" else ""
    label = f"{metric['name']} minus {record['baseline']}'s{unit}"
    if by_ratio(record):
        label = f"{metric['name']}: per cent above {record['baseline']}'s"

    def draw(axes: Axes) -> None:
        colours = palette(record)
        for place, row in enumerate(reversed(rows)):
            found = row["difference"]
            colour, _ = colours[row["recipe"]]
            interval = found["t_interval"]
            if interval:
                axes.plot([interval["low"], interval["high"]], [place, place], color=colour)
            axes.plot(found["differences"], [place] * found["n"], "o", color=colour, alpha=0.4)
            axes.plot([found["mean"]], [place], "D", color=colour, markersize=8)
        axes.axvline(0, color=BASELINE, linewidth=1)
        axes.set_yticks(range(len(rows)), [row["recipe"] for row in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(label)

    what = "change" if by_ratio(record) else "difference"
    title = f"paired {what} to {record['baseline']}"
    return svg(draw, title, (6.4, 1.1 + 0.5 * len(rows)), "difference")


def svg(draw: Any, title: str, size: tuple[float, float], prefix: str) -> str:
    """What `draw(axes)` draws, as SVG for a page; `prefix` keeps its identifiers apart."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        return inline(_write(figure), prefix, title)


def _write(figure: Figure) -> str:
    out = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(out, format="svg", metadata=nothing, transparent=True)
    return out.getvalue()


def inline(svg: str, prefix: str, title: str) -> str:
    """An SVG file's text made fit for a page: no header, no addresses, unique identifiers, a title.

    >>> text = '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><g id="a"/>'
    >>> inline(text + '<use xlink:href="#a"/></svg>', "f", "A & B")
    '<svg role="img" aria-label="A &amp; B"><g id="f-a"/><use xlink:href="#f-a"/></svg>'
    """
    from html import escape

    text = svg[svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1).strip()
