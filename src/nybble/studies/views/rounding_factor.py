"""Error and shrinkage of the log-nearest rule in base 4, against its factor f.

The rule sends x of a cell [4^n, 4^(n+1)) to the upper level from 4^(n+1) / f upwards, else to the
lower one. In units of the lower level, with b = 4 and the threshold T = b / f:

    Q(x) = 1 for 1 <= x < T,   b for T <= x < b

Four figures, over all elements that are not zero:

    relative_error   E[((Q - x) / x)^2]         every element counts alike
    error            E[(Q - x)^2] / E[x^2]      large elements count more
    mean_ratio       E[Q / x]                   shrinkage, every element alike
    projection       E[Q x] / E[x^2]            shrinkage, as a Gemm sees it: the part of Q along x

**Where the errors are least.** For a single x both errors depend on T only through which of the two
levels x goes to, and the weights 1 / x^2 and 1 are positive. So the sum is least when every x goes
to the nearer level, whatever the data's density is:

    T - 1 = b - T    =>    T = (b + 1) / 2,    f = 2 b / (b + 1) = 1.6 for b = 4

(With density p and weight w the derivative by T is p(T) w(T) ((T - 1)^2 - (b - T)^2), negative
below this T and positive above it.) It holds for data uniform in value, for log-uniform data and
for gradients, as long as they lie inside the grid. Below the smallest level 4^-3 the same rule
chooses between 0 and that level, whose nearer one changes at half of it, f = 2: gradients that
reach there have the minimum of their relative error above 1.6.

**Where the shrinkage is none.** For log-uniform data (density 1 / (x ln b) on [1, b)):

    mean_ratio  = ((1 - 1/T) + b (1/T - 1/b)) / ln b = (b - 1) / (T ln b)
                = 1 at T = (b - 1) / ln b = 2.164,  f = b ln b / (b - 1) = 1.848
                = 0.8656 at f = 1.6
    projection  = (T - 1 + b (b - T)) / ((b^2 - 1) / 2)
                = 1 at T = (b + 1) / 2,             f = 2 b / (b + 1) = 1.6

Both are called shrinkage in the literature and they do not agree: at 1.6 the average element loses
13 % of itself while the product with the gradient itself loses nothing. For data uniform in value
inside each cell mean_ratio and projection are (ln T + b ln(b / T)) / (b - 1) and
((T^2 - 1) + b (b^2 - T^2)) / (2 (b^3 - 1) / 3).

That the paper (Sun et al., NeurIPS 2020) takes 1.6 is known from reading notes of it; 1.848 is
derived here. Curves are computed by the library's own rounding, on points spread evenly over six
whole cells and on gradients of a short run, each layer's scaled by the power of two that GradScale
fits to it. Not done here: other bases, the odd grid (the same figures, shifted by a factor of 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from nybble.formats import FP4_RADIX4, LogNearest
from nybble.quantizers import GradScale
from nybble.studies.views.run import (
    Progress,
    ShortRun,
    ViewConfig,
    chosen,
    layers,
    output_gradients,
    record,
    short,
    short_run,
)

BASE = 4
FACTORS = tuple(round(1.1 + 0.02 * i, 2) for i in range(96))
"""1.1 to 3.0."""
FIGURES = ("relative_error", "error", "mean_ratio", "projection")
POINTS = 1 << 13
"""Points of a cell."""
MOST = 1 << 14
"""Elements that are taken of a layer's gradient, evenly spaced."""
STEP = 0.001
"""To this a minimum is located."""


def measure_rounding_factor(
    config: ViewConfig | None = None,
    layer: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train for a few steps and return the view; see the module.

    layer: whose gradients are taken; None is every layer that the recipe quantises.

    Raises:
        UserError: an unknown recipe, model, data set or layer.
    """
    config = config or ViewConfig()
    with short_run(config) as run:
        known = layers(run)
        taken = known if layer is None else {layer: known[chosen(layer, list(known), "layer")]}
        for step in range(config.steps - 1):
            run.forward_backward(step)
            run.update(step)
            if progress:
                progress(step + 1, config.steps)
        found = _gradients(run, taken, config.steps - 1)
    if progress:
        progress(config.steps, config.steps)
    sets = {"log-uniform": log_uniform(), "uniform in value": uniform(), "gradients": found}
    return record(
        "rounding-factor",
        config,
        {"layer": layer},
        factors=list(FACTORS),
        theory={
            "minimum": least_error(),
            "unbiased": short(no_shrinkage()),
            "mean_ratio_at_minimum": short(mean_ratio_log_uniform(least_error())),
        },
        layers=list(taken),
        sets=[{"name": name, **curves(x)} for name, x in sets.items()],
    )


# ---- theory --------------------------------------------------------------------------------------


def least_error(base: int = BASE) -> float:
    """The factor of the least squared error: 2 b / (b + 1), for any density.

    >>> least_error(4)
    1.6
    """
    return 2 * base / (base + 1)


def no_shrinkage(base: int = BASE) -> float:
    """The factor at which E[Q / x] = 1 for log-uniform data: b ln b / (b - 1).

    >>> round(no_shrinkage(4), 3)
    1.848
    """
    return base * math.log(base) / (base - 1)


def mean_ratio_log_uniform(factor: float, base: int = BASE) -> float:
    """E[Q / x] of log-uniform data: (b - 1) f / (b ln b).

    >>> round(mean_ratio_log_uniform(1.6), 4)
    0.8656
    """
    return (base - 1) * factor / (base * math.log(base))


def relative_error_log_uniform(factor: float, base: int = BASE) -> float:
    """E[((Q - x) / x)^2] of log-uniform data, with the antiderivative -c^2 / (2 x^2) + 2 c / x +
    ln x of (c - x)^2 / x^3 for either level c.

    >>> round(relative_error_log_uniform(1.6), 4)
    0.1344
    """
    threshold = base / factor

    def part(level: float, a: float, b: float) -> float:
        def at(x: float) -> float:
            return -(level**2) / (2 * x * x) + 2 * level / x + math.log(x)

        return at(b) - at(a)

    return (part(1, 1, threshold) + part(base, threshold, base)) / math.log(base)


# ---- measured ------------------------------------------------------------------------------------


def log_uniform(points: int = POINTS) -> Tensor:
    """Points even in log x over the six cells of the grid, float32 [6 * points].

    >>> log_uniform(1).tolist()[:3]
    [0.03125, 0.125, 0.5]
    """
    inside = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    return torch.cat([(4.0 ** (inside + n)).float() for n in range(-3, 3)])


def uniform(points: int = POINTS) -> Tensor:
    """Points even in value within each of the six cells, as many in each, float32 [6 * points].

    >>> uniform(1).tolist()[:3]
    [0.0390625, 0.15625, 0.625]
    """
    inside = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    return torch.cat([((1 + 3 * inside) * 4.0**n).float() for n in range(-3, 3)])


def figures(x: Tensor, factor: float) -> dict[str, float]:
    """The four figures of float32 `x`, already scaled; zeros are left out. NaN of nothing.

    >>> figures(torch.tensor([1.0, 2.0]), 1.6)["projection"]
    0.6
    """
    x = x[x != 0]
    q = FP4_RADIX4.round(x, LogNearest(f"{factor:.6g}")).double()
    x = x.double()
    ratio = q / x
    power = float((x * x).sum())
    if not power:
        return dict.fromkeys(FIGURES, math.nan)
    return {
        "relative_error": float((ratio - 1).square().mean()),
        "error": float((q - x).square().sum()) / power,
        "mean_ratio": float(ratio.mean()),
        "projection": float((q * x).sum()) / power,
    }


def curves(x: Tensor, factors: Sequence[float] = FACTORS) -> dict[str, Any]:
    """The figures over the factors, the factors of the least errors, and those without shrinkage
    (None where there is none among the factors)."""
    rows = {factor: figures(x, factor) for factor in factors}

    def least(name: str) -> float | None:
        if any(math.isnan(row[name]) for row in rows.values()):
            return None
        coarse = min(factors, key=lambda factor: rows[factor][name])
        width = max(b - a for a, b in pairwise(factors))
        count = round(width / STEP)
        near = [round(coarse + STEP * i, 6) for i in range(-count, count + 1)]
        fine = {f: figures(x, f)[name] for f in near if 1 < f < BASE}
        return min(fine, key=lambda factor: fine[factor])

    at = figures(x, least_error())
    kept = x[x != 0]
    zeroed = FP4_RADIX4.round(kept, LogNearest("1.6")) == 0
    return {
        "elements": kept.numel(),
        **{name: [short(rows[factor][name]) for factor in factors] for name in FIGURES},
        "minimum": {name: least(name) for name in ("relative_error", "error")},
        "unbiased": {
            name: _crossing(factors, [rows[f][name] for f in factors])
            for name in ("mean_ratio", "projection")
        },
        "at_1.6": {name: short(value) for name, value in at.items()},
        "zeroed_at_1.6": short(float(zeroed.double().mean())) if kept.numel() else None,
    }


def _crossing(factors: Sequence[float], values: Sequence[float]) -> float | None:
    """Where a rising curve passes 1, on the straight line between two factors."""
    for (f, v), (g, w) in pairwise(zip(factors, values, strict=True)):
        if v <= 1.0 < w:
            return short(f + (1.0 - v) * (g - f) / (w - v))
    return None


def _gradients(run: ShortRun, taken: dict[str, torch.nn.Module], step: int) -> Tensor:
    """Elements of every layer's gradient of one step, each layer's on the grid's range."""
    with output_gradients(taken) as found:
        run.forward_backward(step)
    parts = []
    for name in taken:
        for g in found.get(name, []):
            y = g.float() * GradScale().fit(g, FP4_RADIX4).inv
            flat = y.flatten()
            parts.append(flat[:: -(-flat.numel() // MOST)])
    return torch.cat(parts)
