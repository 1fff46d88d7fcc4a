"""Two-phase rounding in numbers: where the even and the odd grid err, and what is left.

For magnitudes spread evenly on the logarithm, every number here is exact: between two neighbours
among all levels and thresholds both roundings are constant, q, and over an interval (a, b)

    share = ln(b / a) / ln(period)       mean of q / x = sum q (1 / a - 1 / b) / ln(period)

The thresholds are the formats' own (`LogFormat.thresholds`), the rounding is `round` in the middle
of each interval. The same is then measured on real gradients, with the layer's one scale.

Not done here: gradients that are rounded at random.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from nybble.formats import LogFormat, Rounding
from nybble.quantizers import Fit, GradScale, QTensor, absolute_max
from nybble.recipes import get_recipe
from nybble.reports.explain.scales import error, levels
from nybble.reports.explain.walk import Walk
from nybble.reports.explain.words import number, percent

POSITIONS = 241


def phases(walk: Walk, recipe: str) -> dict[str, Any]:
    """All of the section: curves, exact shares, and what real gradients say."""
    even, odd, rounding = grids(recipe)
    return {
        "base": even.base,
        "even": [number(v) for v in levels(even) if v > 0],
        "odd": [number(v) for v in levels(odd) if v > 0],
        "factor": getattr(rounding, "factor", ""),
        **_curves(even, odd, rounding),
        "exact": exact(even, odd, rounding),
        "real": real(walk.snapshots[-1].gradient, recipe),
    }


def grids(recipe: str) -> tuple[LogFormat, LogFormat, Rounding]:
    """The two grids of a recipe's gradients, and their rounding."""
    spec = get_recipe(recipe).spec
    first, second = spec.grad_input_grad, spec.grad_weight_grad
    assert first is not None and second is not None
    even, odd = cast("LogFormat", first.format), cast("LogFormat", second.format)
    return even, odd, first.rounding or even.default_rounding


def exact(even: LogFormat, odd: LogFormat, rounding: Rounding) -> dict[str, float]:
    """Shares of one period of the log axis, and means of q / x over it.

    >>> from nybble.formats import FP4_RADIX4
    >>> found = exact(FP4_RADIX4, FP4_RADIX4.odd(), FP4_RADIX4.default_rounding)
    >>> round(found["both_down"], 4), found["both_up"]
    (0.3219, 0.0)
    """
    low = sorted(v for v in levels(even) if v > 0)[2]  # a period far from both ends of both grids
    high = low * even.base
    cuts = {low, high}
    for grid in (even, odd):
        marks = [*levels(grid), *grid.thresholds(rounding)]
        cuts.update(v for v in marks if low < v < high)
    edges = sorted(cuts)
    sums = dict.fromkeys(("both_down", "both_up", "apart", "even", "odd"), 0.0)
    period = math.log(high / low)
    for a, b in pairwise(edges):
        middle = math.sqrt(a * b)
        x = torch.tensor([middle])
        down = []
        for name, grid in (("even", even), ("odd", odd)):
            q = float(grid.round(x, rounding))
            sums[name] += q * (1 / a - 1 / b) / period
            down.append(q < middle)
        kind = "both_down" if all(down) else "apart" if any(down) else "both_up"
        sums[kind] += math.log(b / a) / period
    sums["mean"] = (sums["even"] + sums["odd"]) / 2
    return sums


def _curves(even: LogFormat, odd: LogFormat, rounding: Rounding) -> dict[str, Any]:
    """Relative errors over three periods of the log axis."""
    start = sorted(v for v in levels(even) if v > 0)[2]
    base = even.base
    x = torch.tensor(
        [start * base ** (3 * k / (POSITIONS - 1)) for k in range(POSITIONS)], dtype=torch.float64
    ).float()
    first, second = even.round(x, rounding), odd.round(x, rounding)
    errors = {
        "even": first / x - 1,
        "odd": second / x - 1,
        "mean": (first + second) / 2 / x - 1,
    }
    return {
        "positions": [number(v) for v in x.tolist()],
        "places": [round(math.log(v / start, base), 5) for v in x.tolist()],
        "periods": [number(start * base**k) for k in range(4)],
        "results": {
            "even": [number(v) for v in first.tolist()],
            "odd": [number(v) for v in second.tolist()],
            "mean": [number(v) for v in ((first + second) / 2).tolist()],
        },
        "errors": {name: [round(v, 4) for v in e.tolist()] for name, e in errors.items()},
        "errors_text": {name: [_signed(v) for v in e.tolist()] for name, e in errors.items()},
        "scale": [[v / 4, _signed(v / 4)] for v in range(-3, 8)],
        "down": [bool(d) for d in (first < x) & (second < x)],
    }


def _signed(share: float) -> str:
    return ("+" if share > 0 else "") + percent(share)


def two_ways(g: Tensor, recipe: str) -> tuple[Tensor, Tensor, Fit]:
    """A gradient on both grids with the layer's one scale, as the layer's backward pass does."""
    spec = get_recipe(recipe).spec
    assert spec.grad_scale is not None
    config, top = spec.grad_scale
    assert isinstance(config, GradScale)
    fit = config.fit_scale(config.first(absolute_max(g), top))
    even, odd, rounding = grids(recipe)
    values = [
        QTensor.pack(f.encode(fit.scaled(g), rounding), f, fit).dequantize() for f in (even, odd)
    ]
    return values[0], values[1], fit


def real(gradient: Tensor, recipe: str) -> dict[str, float]:
    """What the two roundings do to real gradients; elements that are 0 are left out."""
    g = gradient.reshape(-1)
    g = g[g != 0]
    even, odd, _ = two_ways(g, recipe)
    mean = (even + odd) / 2
    wrong = [torch.stack([even, odd])[i] - g for i in (0, 1)]
    both = ((even.abs() < g.abs()) & (odd.abs() < g.abs())).float().mean()
    return {
        "even": error(g, even),
        "odd": error(g, odd),
        "mean": error(g, mean),
        "even_left": float((even * g).sum() / (g * g).sum()),
        "odd_left": float((odd * g).sum() / (g * g).sum()),
        "mean_left": float((mean * g).sum() / (g * g).sum()),
        "correlation": float(
            (wrong[0] * wrong[1]).sum() / (wrong[0].norm() * wrong[1].norm()).clamp(min=1e-30)
        ),
        "both_down": float(both),
    }
