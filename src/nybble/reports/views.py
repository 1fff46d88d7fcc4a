"""The figures of `nybble.studies.views` as files for a paper: SVG, PDF or PNG.

    save_figure(data, "a.pdf")              the whole figure of a view's dict, `width` inches wide
    draw(data, axes)                        the same on axes of your own, as many as `panels(data)`
    draw_gradients, draw_rounding_factor,   what `draw` calls, one a view (views_draw.py)
    draw_batch_norm, draw_gradscale

A figure keeps its type size (8 points) at any width; below `NARROW` inches its panels stand one
above the other. Letters are outlines in SVG, and embedded TrueType in PDF, as most venues ask for.
The same data give the same bytes: no date is written.

Colours and line styles are those of `figures.py`. Not done here: the computations; a dark style.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nybble.errors import UserError, suggest
from nybble.reports.views_draw import (
    draw_batch_norm,
    draw_gradients,
    draw_gradscale,
    draw_rounding_factor,
)
from nybble.training.files import disk_errors, write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "ENDINGS",
    "WIDTH",
    "check_out",
    "draw",
    "draw_batch_norm",
    "draw_gradients",
    "draw_gradscale",
    "draw_rounding_factor",
    "make_figure",
    "panels",
    "save_figure",
]

ENDINGS = ("svg", "pdf", "png")
WIDTH = 6.5
NARROW = 5.0
_WIDEST, _NARROWEST = 30.0, 2.5
_DPI = 300

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "nybble",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
}

Layout = tuple[tuple[int, int], float, Sequence[float] | None, bool]
"""Rows and columns of panels, height of the figure in inches, heights of rows, a shared x axis."""


def _layout(data: Mapping[str, Any], narrow: bool) -> Layout:
    view = _view(data)
    if view == "gradients":  # every grid of the strip needs two lines of letters
        histogram, strip = 1.8 if narrow else 2.2, 0.4 * len(data["grids"])
        return (2, 1), histogram + strip + 0.7, (histogram, strip), True
    layouts: dict[tuple[str, bool], Layout] = {
        ("rounding-factor", False): ((1, 2), 3.1, None, False),
        ("rounding-factor", True): ((2, 1), 5.2, None, False),
        ("batch-norm", False): ((2, 2), 5.0, None, False),
        ("batch-norm", True): ((4, 1), 8.4, None, False),
        ("gradscale", False): ((3, 1), 5.2, None, True),
        ("gradscale", True): ((3, 1), 6.2, None, True),
    }
    return layouts[view, narrow]


_DRAW: dict[str, tuple[int, Callable[..., None]]] = {
    "gradients": (2, draw_gradients),
    "rounding-factor": (2, draw_rounding_factor),
    "batch-norm": (4, draw_batch_norm),
    "gradscale": (3, draw_gradscale),
}


def panels(data: Mapping[str, Any]) -> int:
    """How many axes the view's drawing takes.

    >>> panels({"view": "gradscale"})
    3
    """
    return _DRAW[_view(data)][0]


def draw(data: Mapping[str, Any], axes: Sequence[Axes]) -> None:
    """Draw a view's dict on axes of your own.

    Raises:
        UserError: another number of axes than the view takes, or no dict of a view.
    """
    count, function = _DRAW[_view(data)]
    if len(axes) != count:
        raise UserError(f"the view {data['view']} is drawn on {count} axes, not {len(axes)}.")
    function(data, axes)


def make_figure(data: Mapping[str, Any], width: float = WIDTH) -> Figure:
    """The figure of a view's dict, `width` inches wide."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_width(width)
    (rows, columns), height, heights, shared = _layout(data, width < NARROW)
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(
            rows, columns, squeeze=False, sharex=shared, gridspec_kw={"height_ratios": heights}
        )
        draw(data, list(axes.flat))
        _add_legend(figure, list(axes.flat), _view(data), width < NARROW)
    return figure


def _add_legend(figure: Figure, axes: Sequence[Axes], view: str, narrow: bool) -> None:
    """The legend of the views that have none inside their axes."""
    if view == "batch-norm":
        handles, labels = axes[2].get_legend_handles_labels()
        columns = 2 if narrow else 4
        figure.legend(handles, labels, loc="outside upper center", ncols=columns)
    elif view == "rounding-factor":
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
    elif view == "gradscale" and narrow:
        figure.legend(loc="outside lower center", ncols=2)
    elif view == "gradscale":
        figure.legend(loc="outside right center", title="layer")


def save_figure(data: Mapping[str, Any], path: str | Path, width: float = WIDTH) -> None:
    """Write the figure of a view's dict; the ending of `path` says which kind of file.

    Raises:
        UserError: an ending or a width that is not known, no such folder, a full disk.
    """
    import matplotlib

    target = check_out(path)
    kind = target.suffix[1:].lower()
    title = f"{data['view']}: {data.get('command', '')}"
    metadata: dict[str, dict[str, Any]] = {
        "svg": {"Date": None, "Creator": "nybble", "Title": title},
        "pdf": {"CreationDate": None, "ModDate": None, "Creator": "nybble", "Title": title},
        "png": {"Software": None, "Title": title},
    }
    figure = make_figure(data, width)
    out = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(out, format=kind, dpi=_DPI, metadata=metadata[kind])
    with disk_errors(f"The figure {target}"):
        write_atomic(target, out.getvalue())


def check_out(path: str | Path) -> Path:
    """The path of a figure's file, if one can be written there; UserError if not.

    >>> check_out("figure.pdf").suffix
    '.pdf'
    """
    target = Path(path)
    ending = target.suffix[1:].lower()
    if ending not in ENDINGS:
        raise UserError(
            f"--out {path}: the file must end in .svg, .pdf or .png.{suggest(ending, ENDINGS)}"
        )
    if not target.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {target.parent}; make it first.")
    if target.is_dir():
        raise UserError(f"--out {path} is a folder; give the name of a file.")
    return target


def check_width(width: float) -> None:
    """UserError for a width at which letters of 8 points have no room, or no page has any."""
    if not _NARROWEST <= width <= _WIDEST:
        raise UserError(
            f"--width {width:g}: give {_NARROWEST:g} to {_WIDEST:g} inches; a column of two is "
            "about 3.3."
        )


def _view(data: Mapping[str, Any]) -> str:
    view = data.get("view")
    if view not in _DRAW:
        raise UserError(f"this is not the data of a view: view is {view!r}.")
    return str(view)
