"""Exact rational numbers against the float32 grid.

A level or a threshold is known as a fraction; what the vectorised code compares with is a float32.
These three functions turn one into the other without ever rounding twice. They are used when
tables are built, never in a hot path. Positive and negative numbers and zero; no overflow handling
beyond an error, since every format's levels lie inside float32's finite range.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np


def _neighbour(value: np.float32, up: bool) -> np.float32:
    return np.float32(np.nextafter(value, np.float32(np.inf if up else -np.inf)))


def float32_at_least(q: Fraction) -> float:
    """Return the smallest float32 that is >= q.

    >>> float32_at_least(Fraction(5, 8))
    0.625
    >>> float32_at_least(Fraction(1, 3)) >= Fraction(1, 3)
    True
    """
    value = np.float32(float(q))
    while Fraction(float(value)) < q:
        value = _neighbour(value, up=True)
    while Fraction(float(_neighbour(value, up=False))) >= q:
        value = _neighbour(value, up=False)
    return float(value)


def float32_above(q: Fraction) -> float:
    """Return the smallest float32 that is > q.

    >>> float32_above(Fraction(1, 2)) == 0.5 + 2.0**-24
    True
    """
    value = float32_at_least(q)
    if Fraction(value) == q:
        return float(_neighbour(np.float32(value), up=True))
    return value


def nearest_float32(q: Fraction) -> float:
    """Return q rounded once to float32, ties to the even mantissa.

    >>> nearest_float32(Fraction(1, 3)) == float(np.float32(1 / 3))
    True
    """
    above = np.float32(float32_at_least(q))
    if Fraction(float(above)) == q:
        return float(above)
    below = _neighbour(above, up=False)
    up, down = Fraction(float(above)) - q, q - Fraction(float(below))
    if up == down:
        even = int(above.view(np.int32)) & 1 == 0
        return float(above if even else below)
    return float(above if up < down else below)


def float32_bits(value: float) -> int:
    """Return the 32 bits of a float32 as a non-negative integer.

    >>> hex(float32_bits(0.625))
    '0x3f200000'
    """
    return int(np.float32(value).view(np.uint32))


def number(value: float) -> str:
    """Return a float32 as the shortest text that reads back to it; far powers of two as 2^n.

    >>> number(0.015625), number(0.1), number(float("nan")), number(2.0**-40), number(-448.0)
    ('0.015625', '0.1', 'nan', '2^-40', '-448')
    """
    if not math.isfinite(value):
        return f"{value}"
    mantissa, exponent = math.frexp(value)
    if abs(mantissa) == 0.5 and not -10 < exponent < 24:
        return f"{'-' if value < 0 else ''}2^{exponent - 1}"
    single = np.float32(value)
    texts = (f"{value:.{digits}g}" for digits in range(1, 10))
    text = next((t for t in texts if np.float32(float(t)) == single), f"{value:.9g}")
    return np.format_float_positional(float(text), trim="-") if 1e-4 < abs(value) < 1e6 else text
