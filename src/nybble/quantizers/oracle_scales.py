"""The oracle of the block and row scales that came after 2020: plain Python, number by number.

It continues oracle.py, with its float32 operations, and is written from the formulas in the
docstrings of scales/*.py; nothing is shared with the torch code. A group is a sequence of floats,
and a function gives the `OracleFit` of each.
"""

from __future__ import annotations

from collections.abc import Sequence

from nybble.formats import Format
from nybble.quantizers.oracle import OracleFit, absmax, add, div, f32, mul, quantize, sqrt, tree_sum

__all__ = ["best_of_two", "rms", "squared_error"]


def rms(numbers: Sequence[float]) -> float:
    """Root mean square; 0 for no numbers."""
    if not numbers:
        return 0.0
    return sqrt(div(tree_sum([mul(x, x) for x in numbers]), f32(float(len(numbers)))))


def squared_error(numbers: Sequence[float], format: Format, fit: OracleFit) -> float:
    """Sum of squared errors of nearest rounding, in the order of sums.py."""
    _, back = quantize(numbers, format, fit)
    differences = [add(b, -x) for b, x in zip(back, numbers, strict=True)]
    return tree_sum([mul(d, d) for d in differences])


def best_of_two(numbers: Sequence[float], format: Format, unit: float) -> OracleFit:
    """BestOfTwo over one group."""
    top = absmax(numbers, format.max_value)
    size = rms(numbers)
    scale = 1.0 if size == 0 else mul(f32(unit), size)
    other = OracleFit(scale, div(1.0, scale))
    if squared_error(numbers, format, other) < squared_error(numbers, format, top):
        return other
    return top
