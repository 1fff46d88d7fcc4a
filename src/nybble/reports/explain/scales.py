"""Rulers laid on real numbers: the weights, inputs and gradients of a `Walk`.

    ruler       the values of a format times its scale: all that a 4-bit code can say at the moment
    lost        the share of the numbers other than 0 that become 0
    error       sqrt(sum (x' - x)^2 / sum x^2): the error against the size of the numbers
    off         mean |x' - x| / |x| over the numbers that do not become 0

Not done here: scales per channel or block.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nybble.formats import Format, LogFormat
from nybble.quantizers import (
    AbsMax,
    Fit,
    GradScale,
    LogNearest,
    QTensor,
    Quantizer,
    get_quantizer,
    quantize,
)
from nybble.quantizers.scales.fit import value_range
from nybble.recipes import get_recipe
from nybble.reports.explain.walk import Walk
from nybble.reports.explain.words import number, percent, whole

BINS = 48
DECADES = 7
POSITIONS = 181


def levels(format: Format) -> list[float]:
    """What encoding can give, ascending.

    >>> from nybble.formats import get_format
    >>> levels(get_format("int4_sym"))[0], len(levels(get_format("int4_sym")))
    (-7.0, 15)
    """
    low, high = value_range(format)
    return sorted({v for v in format.values() if low <= v <= high})


def ticks(format: Format, fit: Fit) -> list[float]:
    """The ruler: every level as a number of the tensor that `fit` was made for."""
    return [float(v) for v in fit.dequantize(torch.tensor(levels(format)))]


def with_fit(x: Tensor, quantizer: Quantizer, fit: Fit) -> Tensor:
    """`x` on a ruler that was made for another tensor."""
    codes = quantizer.format.encode(fit.scaled(x), quantizer.rounding)
    return QTensor.pack(codes, quantizer.format, fit).dequantize()


def error(x: Tensor, rounded: Tensor) -> float:
    """See the module."""
    return math.sqrt(float(((rounded - x) ** 2).sum() / (x * x).sum()))


def rulers(walk: Walk, recipe: str) -> dict[str, Any]:
    """Weights and inputs at every snapshot, on their own ruler and on that of the first one."""
    spec = get_recipe(recipe).spec
    signed = any(bool((s.inputs < 0).any()) for s in walk.snapshots)
    for_inputs = get_quantizer("int4_sym:sawb") if signed else spec.output_input
    assert for_inputs is not None and spec.output_weight is not None
    rows = {
        "weights": (spec.output_weight, [s.weight for s in walk.snapshots]),
        "inputs": (for_inputs, [s.inputs for s in walk.snapshots]),
    }
    return {
        "layer": walk.layer,
        "kind": walk.kind,
        "place": walk.place,
        "layers": walk.layers,
        "weights_in_all": walk.weights,
        "steps": [s.step for s in walk.snapshots],
        "rows": {name: _row(*given) for name, given in rows.items()},
        "gradient_tops": [float(s.gradient.abs().max()) for s in walk.snapshots],
    }


def _row(quantizer: Quantizer, tensors: list[Tensor]) -> dict[str, Any]:
    flat = [t.reshape(-1) for t in tensors]
    # A few outliers would squeeze the rest into the middle; what is beyond is in the last bins.
    sample = torch.cat(flat)
    reach = float(sample.abs()[:: max(1, len(sample) // 100_000)].quantile(0.9995))
    low = -reach if bool((sample < 0).any()) else 0.0
    first = quantize(flat[0], quantizer).fit
    found = []
    for x in flat:
        own = quantize(x, quantizer)
        shown = x[x != 0].clamp(low, reach)  # ReLU's zeros are exact on any ruler
        counts = torch.histc(shown, BINS, low, reach)
        found.append(
            {
                "bars": [round(float(c), 4) for c in counts / counts.max()],
                "top": number(float(x.abs().max())),
                "own": _on_ruler(x, quantizer, own.fit),
                "first": _on_ruler(x, quantizer, first),
            }
        )
    return {"low": low, "high": reach, "levels": len(levels(quantizer.format)), "at": found}


def _on_ruler(x: Tensor, quantizer: Quantizer, fit: Fit) -> dict[str, Any]:
    marks = ticks(quantizer.format, fit)
    beyond = (x > marks[-1]) | (x < marks[0])
    wrong = error(x, with_fit(x, quantizer, fit))
    return {
        "ticks": [round(t, 6) for t in marks],
        "end": number(marks[-1]),
        "beyond": percent(float(beyond.float().mean())),
        "error": percent(wrong),
        "error_value": wrong,
    }


def _quantizer(format: Format) -> Quantizer:
    """A ruler for gradients: the largest number decides; a power of two for logarithmic ones."""
    if isinstance(format, LogFormat):
        return Quantizer(format, GradScale("fit"), LogNearest("mid"))
    return Quantizer(format, AbsMax())


def ruler_name(format: Format) -> str:
    """What the page calls a ruler."""
    return f"base {format.base}" if isinstance(format, LogFormat) else "linear"


def gradients(walk: Walk, formats: list[Format]) -> dict[str, Any]:
    """The gradients of the last snapshot on several rulers, and how many of them each loses."""
    g = walk.snapshots[-1].gradient.reshape(-1)
    alive = g[g != 0]
    size = alive.abs()
    top = math.ceil(math.log10(float(size.max())))
    low = top - DECADES
    place = ((size.log10() - low) * (BINS / DECADES)).long().clamp(0, BINS - 1)
    counts = torch.bincount(place, minlength=BINS)
    found = []
    for format in formats:
        rounded = quantize(alive, _quantizer(format))
        values = rounded.dequantize()
        lost = values == 0
        kept = ~lost
        marks = [t for t in ticks(format, rounded.fit) if t > 0]
        off = ((values - alive).abs() / size)[kept].mean() if bool(kept.any()) else torch.tensor(0)
        found.append(
            {
                "name": ruler_name(format),
                "base": getattr(format, "base", None),
                "ticks": [round(math.log10(t), 5) for t in marks],
                "lost_bars": torch.bincount(place[lost], minlength=BINS).tolist(),
                "lost": percent(float(lost.float().mean())),
                "lost_share": float(lost.float().mean()),
                "range": whole(marks[-1] / marks[0]),
                "error": percent(error(alive, values)),
                "error_value": error(alive, values),
                "off": percent(float(off)),
                "off_value": float(off),
            }
        )
    ordered = size.sort().values
    return {
        "step": walk.snapshots[-1].step,
        "count": len(alive),
        "zeros": percent(1 - len(alive) / len(g)),
        "top": number(float(ordered[-1])),
        "middle": number(float(ordered[len(ordered) // 2])),
        "times": whole(float(ordered[-1] / ordered[len(ordered) // 2])),
        "low": low,
        "high": top,
        "axis": [[v, number(10.0**v)] for v in range(low, top + 1)],
        "bars": counts.tolist(),
        "rulers": found,
    }


def line(article: LogFormat, formats: list[Format]) -> dict[str, Any]:
    """Numbers from the smallest to the largest level of `article`, evenly spaced on its logarithm,
    on rulers that all reach the largest."""
    marks = [v for v in levels(article) if v > 0]
    low, high = math.log10(marks[0]), math.log10(marks[-1])
    exponents = [low + (high - low) * k / (POSITIONS - 1) for k in range(POSITIONS)]
    # float32 before it is shown, so that what is read is what was rounded.
    x = torch.tensor([10.0**e for e in exponents], dtype=torch.float64).float()
    found = []
    for format in formats:
        # The article's own ruler is used as it is; another is stretched or shrunk to reach it.
        fit = GradScale.fit_scale(torch.tensor(1.0))
        if format != article:
            fit = _quantizer(format).scale.fit(torch.tensor(marks[-1]), format)
        y = with_fit(x, _quantizer(format), fit)
        found.append(
            {
                "name": ruler_name(format),
                "ticks": [round(math.log10(t), 5) for t in ticks(format, fit) if t > 0],
                "smallest": number(min(t for t in ticks(format, fit) if t > 0)),
                "values": [number(float(v)) for v in y],
                "places": [round(math.log10(v), 5) if v > 0 else None for v in y.tolist()],
                "lost": int((y == 0).sum()),
            }
        )
    return {
        "low": low,
        "high": high,
        "smallest": number(marks[0]),
        "largest": number(marks[-1]),
        "levels": len(marks),
        "positions": [number(float(v)) for v in x],
        "places": [round(e, 5) for e in exponents],
        "rulers": found,
    }
