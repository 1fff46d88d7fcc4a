"""The drawings of `nybble.studies.views` on matplotlib axes, one function a view.

    draw_gradients        (histogram, strip of grids)
    draw_rounding_factor  (error, shrinkage)
    draw_batch_norm       (received beta, received gamma, passed on beta, passed on gamma)
    draw_gradscale        (scale, maxima, scaled maxima)

Each takes the view's dict and that many axes. Sizes of letters come from matplotlib's settings, so
drawings on axes of your own look like your own; `views.py` has the settings of the program. The
legend of lines is left to the caller, since it needs room outside of the axes: `axes[0].legend()`,
of draw_batch_norm `axes[2].legend()`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nybble.reports.figures import BASELINE, COLOURS, STYLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 12
"""So many layers can be named in a legend or under an axis; of more, some are."""
_LINES = 16
"""Of a grid with more levels the lines would hide the histogram."""
_FAINT = "#888888"


# ---- gradients -----------------------------------------------------------------------------------


def draw_gradients(data: Mapping[str, Any], axes: Sequence[Axes]) -> None:
    """The histogram of log2|g| with the first two grids' levels in it, and all grids below it."""
    top, strip = axes
    edges, shares = data["edges"], [100 * (s or 0.0) for s in data["shares"]]
    top.stairs(shares, edges, fill=True, color="#c9d6df")
    top.stairs(shares, edges, color="#5b7083", linewidth=0.8)
    for place, grid in enumerate(data["grids"][:2]):
        if grid["place"] == "beside" or len(grid["levels"]) > _LINES:
            continue
        for level in grid["log2_levels"]:
            top.axvline(level, color=COLOURS[place], linestyle=_style(place), linewidth=0.8)
    top.set_ylabel("share of elements (%)")
    zero = f", {100 * data['zero']:.1f} % are zero" if data["zero"] else ""
    top.set_title(f"{data['layer']}: {data['elements']:,} elements{zero}")
    _draw_strip(data, strip)


def _draw_strip(data: Mapping[str, Any], axes: Axes) -> None:
    grids = data["grids"]
    low = min([data["edges"][0], *(g["log2_levels"][0] for g in grids)]) - 0.5
    high = max([data["edges"][-1], *(g["log2_levels"][-1] for g in grids)]) + 0.5
    for place, grid in enumerate(grids):
        colour = COLOURS[place % len(COLOURS)]
        y, levels = len(grids) - 1 - place, grid["log2_levels"]
        axes.plot([levels[0], levels[-1]], [y, y], color=colour, linewidth=0.8)
        axes.vlines(levels, y - 0.15, y + 0.15, color=colour)
        text = f"to zero {_percent(grid['underflow'])}, beyond {_percent(grid['saturation'])}"
        axes.annotate(text, (0.005, y + 0.2), xycoords=("axes fraction", "data"), fontsize="small")
    axes.set_ylim(-0.45, len(grids) - 0.3)
    axes.set_yticks(range(len(grids)), [_grid_name(grid) for grid in reversed(grids)])
    axes.grid(visible=False, axis="y")
    axes.set_xlim(low, high)
    axes.set_xlabel("log2 |g|")


def _grid_name(grid: Mapping[str, Any]) -> str:
    name, place = str(grid["format"]), grid["place"]
    return name if place in ("beside", "both backward Gemms") else f"{name}\n{place}"


def _percent(share: float | None) -> str:
    """A share in per cent.

    >>> _percent(0.1234), _percent(0.0), _percent(0.00001)
    ('12.3 %', '0 %', '<0.1 %')
    """
    if not share:
        return "0 %"
    return "<0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


# ---- rounding factor -----------------------------------------------------------------------------


def draw_rounding_factor(data: Mapping[str, Any], axes: Sequence[Axes]) -> None:
    """The mean squared relative error, and both shrinkages, over the factor."""
    error, shrinkage = axes
    factors, theory = data["factors"], data["theory"]
    for place, one in enumerate(data["sets"]):
        colour, style = COLOURS[place], ("-", "--", "-.")[place % 3]
        if any(v is None for v in one["relative_error"]):
            continue
        error.plot(factors, one["relative_error"], style, color=colour, label=one["name"])
        least = one["minimum"]["relative_error"]
        error.plot([least], [_at(factors, one["relative_error"], least)], "o", color=colour)
        shrinkage.plot(factors, one["mean_ratio"], style, color=colour)
        shrinkage.plot(factors, one["projection"], style, color=colour, linewidth=2.2, alpha=0.45)
    for panel in axes:
        panel.axvline(theory["minimum"], color=BASELINE, linewidth=0.8)
        panel.axvline(theory["unbiased"], color=_FAINT, linewidth=0.8, linestyle=":")
        panel.set_xlabel("rounding factor f")
        panel.set_xlim(factors[0], factors[-1])
    highest = max(max(v or 0 for v in one["relative_error"]) for one in data["sets"])
    error.set_ylim(0, 1.15 * highest)
    error.text(theory["minimum"], 1.14 * highest, "1.6 ", ha="right", va="top", fontsize="small")
    error.text(theory["unbiased"], 1.14 * highest, " 1.848", va="top", fontsize="small")
    error.set_ylabel("E[((Q(x) − x) / x)²]")
    error.set_title("error; the dots are minima")
    shrinkage.axhline(1.0, color=BASELINE, linewidth=0.8)
    shrinkage.set_ylabel("mean of Q(x) relative to x")
    shrinkage.set_title("shrinkage; below 1 values shrink")
    shrinkage.plot([], [], color=_FAINT, label="E[Q(x) / x]")
    shrinkage.plot([], [], color=_FAINT, linewidth=2.2, alpha=0.6, label="E[Q(x) x] / E[x²]")
    shrinkage.legend(loc="lower right")


def _at(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """y at x on the line through the points."""
    import numpy as np

    return float(np.interp(x, xs, ys))


# ---- batch norm ----------------------------------------------------------------------------------

_CONDITION = {
    "float32": (BASELINE, "-", "float32"),
    "even": (COLOURS[0], "--", "one phase, even"),
    "odd": (COLOURS[1], "-.", "one phase, odd"),
    "both": (COLOURS[2], "-", "mean of two phases"),
}


def draw_batch_norm(data: Mapping[str, Any], axes: Sequence[Axes]) -> None:
    """Errors of dL/dbeta and dL/dgamma that arrive, and the two sums that rounding leaves; the
    lines are means over steps, the bands reach from the least to the largest."""
    for axis, (name, sign) in zip(axes[:2], (("beta", "β"), ("gamma", "γ")), strict=True):
        _draw_lines(axis, data["received"], f"{name}_error", ("even", "odd", "both"))
        axis.set_title(f"received: error of dL/d{sign}")
        axis.set_ylabel("relative to float32")
        axis.set_ylim(bottom=0)
    for axis, name in zip(axes[2:], ("beta", "gamma"), strict=True):
        _draw_lines(axis, data["passed_on"], name, tuple(_CONDITION))
        what = "Σ Q(dz)" if name == "beta" else "Σ Q(dz) x̂"
        axis.set_title(f"passed on: {what}")
        below = "Σ |dz|" if name == "beta" else "Σ |dz x̂|"
        axis.set_ylabel(f"relative to {below}")
        axis.set_yscale("log")


def _draw_lines(
    axis: Axes, rows: Sequence[Mapping[str, Any]], name: str, conditions: Sequence[str]
) -> None:
    for condition in conditions:
        colour, style, label = _CONDITION[condition]
        xs, means, lows, highs = [], [], [], []
        for place, row in enumerate(rows):
            values = [v for v in row["conditions"][condition][name] if v is not None]
            if values:
                xs.append(place)
                means.append(sum(values) / len(values))
                lows.append(min(values))
                highs.append(max(values))
        axis.plot(xs, means, style, color=colour, marker="o", label=label)
        axis.fill_between(xs, lows, highs, color=colour, alpha=0.12, linewidth=0)
    names = [str(row["layer"]) for row in rows]
    every = -(-len(names) // _NAMED)
    axis.set_xticks(range(0, len(names), every), names[::every])
    for text in axis.get_xticklabels():
        text.set(rotation=40, ha="right", rotation_mode="anchor", fontsize="x-small")


# ---- GradScale -----------------------------------------------------------------------------------


def draw_gradscale(data: Mapping[str, Any], axes: Sequence[Axes]) -> None:
    """log2 of every layer's scale, of its gradient's maximum, and of the product, with the band in
    which the rule keeps it."""
    scale, maxima, product = axes
    top, rows = data["log2_top"], data["layers"]
    count = max(len(row["log2_scale"]) for row in rows)
    product.axhspan(top - 1, top, color="#dfe8d8", linewidth=0)
    for place, row in enumerate(rows):
        look = _look(place, len(rows))
        named = len(rows) <= _NAMED or place % -(-len(rows) // _NAMED) == 0
        label = str(row["layer"]) if named else None
        # Lines that would lie on each other are moved apart a little: scales are whole powers.
        shift = 0.25 * ((place + 0.5) / len(rows) - 0.5)
        lifted = [None if v is None else v + shift for v in row["log2_scale"]]
        steps = range(1, len(lifted) + 1)
        scale.plot(steps, _numbers(lifted), drawstyle="steps-mid", label=label, **look)
        maxima.plot(steps, _numbers(row["log2_max"]), **look)
        product.plot(steps, _numbers(row["log2_scaled"]), **look)
    scale.set_ylabel("log2 s")
    scale.set_title("GradScale s of each layer (lines moved apart)")
    maxima.set_ylabel("log2 max |g|")
    lifted_by = data["log2_loss_scale"]
    maxima.set_title(
        "largest output gradient" + (f" (loss scale 2^{lifted_by:g})" if lifted_by else "")
    )
    product.set_ylabel("log2 max |s g|")
    product.set_title(f"the product; the rule keeps it in the band ({top - 1:g}, {top:g}]")
    product.set_xlabel("training step")
    from matplotlib.ticker import MaxNLocator

    for axis in axes:
        axis.set_xlim(0.5, count + 0.5)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    scale.yaxis.set_major_locator(MaxNLocator(integer=True))


def _look(place: int, count: int) -> dict[str, Any]:
    """Colour and style of one of many layers: from the input (dark) to the output (light)."""
    if count <= len(COLOURS) * len(STYLES) and count <= _NAMED:
        return {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": STYLES[(place // len(COLOURS) + 3) % len(STYLES)],
        }
    from matplotlib import colormaps

    return {"color": colormaps["viridis"](0.9 * place / max(count - 1, 1)), "linewidth": 0.8}


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _style(place: int) -> str:
    return ("-", "--", ":", "-.")[place % 4]
