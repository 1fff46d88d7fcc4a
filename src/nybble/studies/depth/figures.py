"""One gradient against another: how far a quantised one is from float32's.

With g of float32, q of few bits, e = q - g, and <a, b> the sum of products:

    cosine        <q, g> / (|q| |g|)
    shrinkage     <q, g> / <g, g>          E[x_q x] / E[x^2]: below 1, the step is too short
    norm_ratio    |q| / |g|
    error         |e|^2 / |g|^2
    bias          <e1, e2> / |g|^2         of two independent draws of the random bits: the part of
                                           the error that no averaging removes. All of the error
                                           without random bits; around zero, and so sometimes below
                                           it, of unbiased rounding

All sums are in float64. A figure whose denominator is zero is NaN (null in records), never 0.
"""

from __future__ import annotations

import math

from torch import Tensor

FIGURES = ("cosine", "shrinkage", "norm_ratio", "error", "bias")


def compare(
    first: Tensor, second: Tensor, exact: Tensor, other: Tensor | None = None
) -> dict[str, float]:
    """The figures of two draws of a gradient against the exact one; means over the two draws.

    other: what is exact for the second draw, where that is not the same (a layer's own products:
    each draw has its own operands). Then |g|^2 of `bias` is the geometric mean of both.

    >>> import torch
    >>> found = compare(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), torch.ones(2))
    >>> {name: round(value, 3) for name, value in found.items()}
    {'cosine': 0.707, 'shrinkage': 1.0, 'norm_ratio': 1.414, 'error': 1.0, 'bias': -1.0}
    """
    found = {name: 0.0 for name in FIGURES}
    errors, powers = [], []
    for draw, wanted in ((first, exact), (second, exact if other is None else other)):
        q, g = draw.double(), wanted.double()
        power = _dot(g, g)
        powers.append(power)
        size, inner = _dot(q, q), _dot(q, g)
        errors.append(q - g)
        found["cosine"] += _ratio(inner, math.sqrt(size * power)) / 2
        found["shrinkage"] += _ratio(inner, power) / 2
        found["norm_ratio"] += _ratio(math.sqrt(size), math.sqrt(power)) / 2
        found["error"] += _ratio(_dot(errors[-1], errors[-1]), power) / 2
    found["bias"] = _ratio(_dot(errors[0], errors[1]), math.sqrt(powers[0] * powers[1]))
    return found


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum())


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan
