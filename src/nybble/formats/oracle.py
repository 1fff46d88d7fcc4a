"""The scalar oracle: every format once more, in plain Python with exact fractions.

It is the definition that the torch code is tested against, bit for bit. It reads a format's
parameters (bits, base, bias, ...) and nothing else of its code: no tables, no thresholds, no bit
patterns. It is slow, a few microseconds a call, and meant to be read.

    levels(fmt)                         the exact value of every code
    encode(x, fmt, rounding, random)    the code of one float32 number
    decode(code, fmt)                   the float32 value of one code

Conventions (see `base.py`): x is first rounded to float32; a NaN without a code of its own is
code 0; no encoder gives a negative zero; in bases that are no power of two, thresholds are exact
rationals while the decoded value is the power rounded to float32. For stochastic rounding,
p = fl32(fl32(|x| - lo) / fl32(hi - lo)) between the float32 values of the two neighbours.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from nybble.errors import UserError
from nybble.formats.base import Format
from nybble.formats.e8m0 import E8M0Format
from nybble.formats.integer import Integer
from nybble.formats.log import LogFormat
from nybble.formats.minifloat import Minifloat
from nybble.formats.rounding import LogNearest, Rounding, Stochastic
from nybble.formats.table16 import Table16, ZeroLess

Level = Fraction | float  # a float is NaN or an infinity


def power(base: int, n: int) -> Fraction:
    """Return base^n exactly, for any integer n.

    >>> power(4, -3)
    Fraction(1, 64)
    """
    return Fraction(base**n) if n >= 0 else Fraction(1, base**-n)


def to_float32(q: Fraction) -> Fraction:
    """Round an exact number to float32, ties to the even mantissa; no overflow expected.

    >>> to_float32(Fraction(1, 3))
    Fraction(11184811, 33554432)
    """
    if Fraction(_as_float32(float(q))) == q:  # it is one already
        return q
    exponent = math.floor(math.log2(abs(q.numerator))) - math.floor(math.log2(q.denominator)) - 1
    while abs(q) >= power(2, exponent + 1):
        exponent += 1
    step = power(2, max(exponent, -126) - 23)
    return round(q / step) * step  # round() of a Fraction goes to the even integer at a tie


def _as_float32(x: float) -> float:
    """Round a Python float to float32 (beyond the range: infinity, as a conversion does)."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", x))[0])
    except OverflowError:
        return math.copysign(math.inf, x)


# -- the value of every code --------------------------------------------------------------------


@lru_cache(maxsize=256)
def levels(fmt: Format) -> tuple[Level, ...]:
    """Return the exact value of every code: a fraction, or the float NaN or infinity.

    >>> levels(LogFormat(10, 3))
    (Fraction(0, 1), Fraction(1, 10), Fraction(1, 1), Fraction(10, 1), Fraction(0, 1), \
Fraction(-1, 10), Fraction(-1, 1), Fraction(-10, 1))
    """
    return tuple(_level(code, fmt) for code in range(2**fmt.bits))


def _level(code: int, fmt: Format) -> Level:
    if isinstance(fmt, Integer):
        wraps = fmt.signed and code >= 2 ** (fmt.bits - 1)
        return Fraction(code - 2**fmt.bits if wraps else code)
    if isinstance(fmt, ZeroLess):
        k = code - 2**fmt.bits if code >= 2 ** (fmt.bits - 1) else code
        return Fraction(2 * k + 1, 2)
    if isinstance(fmt, Table16):
        return Fraction(fmt.levels[code])
    if isinstance(fmt, E8M0Format):
        return math.nan if code == 255 else power(2, code - 127)
    sign = -1 if code >= 2 ** (fmt.bits - 1) else 1
    magnitude = code % 2 ** (fmt.bits - 1)
    if isinstance(fmt, LogFormat):
        if magnitude == 0:
            return Fraction(0)
        shift = fmt.odd_offset if fmt.phase == "odd" else 0
        return sign * power(fmt.base, magnitude - 2 ** (fmt.bits - 2)) * power(2, shift)
    if isinstance(fmt, Minifloat):
        return _minifloat_level(sign, magnitude, fmt)
    raise UserError(f"the oracle does not know the format {fmt.name}.")


def _minifloat_level(sign: int, magnitude: int, fmt: Minifloat) -> Level:
    e, m = divmod(magnitude, 2**fmt.mantissa)
    top_e, top_m = 2**fmt.exponent - 1, 2**fmt.mantissa - 1
    if fmt.specials == "ieee" and e == top_e:
        return sign * math.inf if m == 0 else math.nan
    if fmt.specials in ("fn", "merged") and (e, m) == (top_e, top_m):
        return math.nan
    fraction = Fraction(m, 2**fmt.mantissa)
    if e > 0 or (m > 0 and not fmt.subnormals):
        return sign * power(2, e - fmt.bias) * (1 + fraction)
    return sign * power(2, 1 - fmt.bias) * fraction


def decode(code: int, fmt: Format) -> float:
    """Return the float32 value of a code, as a Python float; never -0.

    >>> decode(15, LogFormat(4, 4)), decode(8, LogFormat(4, 4))
    (-64.0, 0.0)
    """
    level = levels(fmt)[code]
    return level if isinstance(level, float) else float(to_float32(level)) + 0.0


class Ladder:
    """Ascending exact numbers, and where a number stands among them.

    >>> Ladder([Fraction(0), Fraction(1, 3), Fraction(2)]).at_or_below(Fraction(1, 3))
    1
    """

    def __init__(self, steps: list[Fraction]) -> None:
        self.steps = steps
        self.middles = [(a + b) / 2 for a, b in pairwise(steps)]
        self._near = [float(v) for v in steps]

    def at_or_below(self, q: Fraction) -> int:
        """Return the index of the last step <= q; q is not below the first."""
        index = max(0, bisect_right(self._near, float(q)) - 1)  # a guess by rounded numbers
        while index + 1 < len(self.steps) and self.steps[index + 1] <= q:
            index += 1
        while index > 0 and self.steps[index] > q:
            index -= 1
        return index


# -- encoding -----------------------------------------------------------------------------------


def encode(
    x: float, fmt: Format, rounding: Rounding | None = None, random: int | None = None
) -> int:
    """Return the code of one number.

    Args:
        x: rounded to float32 first.
        random: an integer in [0, 2^24), for Stochastic.

    >>> encode(0.625, LogFormat(4, 4)), encode(-3.5, Integer(4)), encode(0.3, Integer(4))
    (4, 12, 0)
    """
    rule = fmt.default_rounding if rounding is None else rounding
    x = _as_float32(x)
    u = Fraction(0)
    if isinstance(rule, Stochastic):
        if random is None:
            raise UserError("the oracle needs random= for Stochastic rounding.")
        u = Fraction(random, 2**24)
    if isinstance(fmt, Integer):
        return _encode_integer(x, fmt, rule, u)
    if isinstance(fmt, Table16 | ZeroLess):
        return _encode_ordered(x, fmt, rule, u)
    if isinstance(fmt, E8M0Format):
        return _encode_e8m0(x, fmt, rule, u)
    return _encode_sign_magnitude(x, fmt, rule, u)


def _encode_integer(x: float, fmt: Integer, rule: Rounding, u: Fraction) -> int:
    if math.isnan(x):
        return 0
    top = 2 ** (fmt.bits - 1) - 1 if fmt.signed else 2**fmt.bits - 1
    bottom = (-top if fmt.symmetric else -top - 1) if fmt.signed else 0
    if math.isinf(x):
        return (top if x > 0 else bottom) % (1 << fmt.bits)
    q = max(Fraction(bottom), min(Fraction(top), Fraction(x)))
    if isinstance(rule, Stochastic):
        below = math.floor(q)
        integer = below + (u < to_float32(q - below))
    else:
        integer = round(q)  # ties to even
    return integer % (1 << fmt.bits)


@lru_cache(maxsize=256)
def _ordered(fmt: Format) -> Ladder:
    """The different finite values, ascending."""
    return Ladder(sorted({v for v in levels(fmt) if isinstance(v, Fraction)}))


def _encode_ordered(x: float, fmt: Table16 | ZeroLess, rule: Rounding, u: Fraction) -> int:
    """Formats without a sign bit: neighbours in the order of the values."""
    if math.isnan(x):
        return 0
    table = levels(fmt)
    ladder = _ordered(fmt)
    order = ladder.steps
    q = order[0] if x == -math.inf else order[-1] if x == math.inf else Fraction(x)
    q = max(order[0], min(order[-1], q))
    index = ladder.at_or_below(q)
    low, high = order[index], order[min(index + 1, len(order) - 1)]
    if isinstance(rule, Stochastic):
        return table.index(high if u < _share(q, low, high) else low)
    best = min(abs(q - low), abs(q - high))
    codes = [table.index(v) for v in (low, high) if abs(q - v) == best]
    return min(codes, key=lambda code: (code % 2, code))


def _encode_e8m0(x: float, fmt: E8M0Format, rule: Rounding, u: Fraction) -> int:
    if math.isnan(x) or math.isinf(x) or x < 0:
        return 255
    ladder = _ordered(fmt)
    steps = ladder.steps
    q = max(steps[0], Fraction(x))
    low = ladder.at_or_below(q)
    if isinstance(rule, Stochastic):
        if low == 254:
            return 254
        return low + (u < _share(q, steps[low], steps[low + 1]))
    return low + (q >= steps[low] * Fraction(3, 2))  # a tie goes up; 255 is NaN


@lru_cache(maxsize=256)
def _magnitudes(fmt: Format) -> Ladder:
    """The finite magnitudes, ascending; index == magnitude code."""
    half = levels(fmt)[: 1 << (fmt.bits - 1)]
    return Ladder([v for v in half if isinstance(v, Fraction)])


@lru_cache(maxsize=256)
def _float32_magnitudes(fmt: Format) -> Ladder:
    """The magnitudes as they are decoded: the same, except in bases that are no power of two."""
    return Ladder([to_float32(v) for v in _magnitudes(fmt).steps])


def _encode_sign_magnitude(x: float, fmt: Format, rule: Rounding, u: Fraction) -> int:
    overflow = fmt.overflow if isinstance(fmt, Minifloat) else "saturate"
    ladder = _magnitudes(fmt)
    finite = len(ladder.steps)  # also the code of infinity, where there is one
    sign_bit = 1 << (fmt.bits - 1) if x < 0 else 0
    if math.isnan(x) or (math.isinf(x) and overflow == "nan"):
        return _nan_code(fmt)
    if math.isinf(x):
        return sign_bit + (finite if overflow == "infinity" else finite - 1)
    q = abs(Fraction(x))
    if isinstance(rule, Stochastic):
        code = _stochastic(q, _float32_magnitudes(fmt), u)
    elif isinstance(rule, LogNearest) and isinstance(fmt, LogFormat):
        code = _log_nearest(q, ladder, fmt, rule)
    else:
        code = _nearest(q, ladder, overflow)
        if code == finite and overflow == "nan":  # beyond the largest value
            return _nan_code(fmt)
    return sign_bit + code if code > 0 else 0


@lru_cache(maxsize=256)
def _nan_code(fmt: Format) -> int:
    codes = [c for c, v in enumerate(levels(fmt)) if isinstance(v, float) and math.isnan(v)]
    if not codes:
        return 0
    if isinstance(fmt, Minifloat) and fmt.specials == "ieee":
        # The quiet NaN: top exponent, then a 1 and zeros.
        return (((1 << fmt.exponent) - 1) << fmt.mantissa) + (1 << (fmt.mantissa - 1))
    return codes[0]


def _nearest(q: Fraction, ladder: Ladder, overflow: str) -> int:
    """Nearest magnitude, ties to the even code; one more than the last when beyond it."""
    grid = ladder.steps
    top = len(grid) - 1
    low = ladder.at_or_below(q)
    if low < top:
        middle = ladder.middles[low]
        if q == middle:
            return low + low % 2
        return low + (q > middle)
    if overflow == "saturate":
        return top
    beyond = 2 * grid[top] - grid[top - 1]  # the level that would follow
    middle = (grid[top] + beyond) / 2
    return top + (q > middle or (q == middle and top % 2 == 1))


def _log_nearest(q: Fraction, ladder: Ladder, fmt: LogFormat, rule: LogNearest) -> int:
    """The highest level whose threshold level / factor is not above q."""
    midpoint = Fraction(2 * fmt.base, fmt.base + 1)
    factor = midpoint if rule.factor == "mid" else Fraction(rule.factor)
    if rule.underflow == "half":
        if q <= ladder.steps[1] / 2:
            return 0
        return max(1, ladder.at_or_below(q * factor))
    return ladder.at_or_below(q * factor)


def _share(q: Fraction, low: Fraction, high: Fraction) -> Fraction:
    """Probability of the upper neighbour: two float32 differences and one float32 quotient."""
    if high == low:
        return Fraction(0)
    return to_float32(to_float32(q - low) / to_float32(high - low))


def _stochastic(q: Fraction, ladder: Ladder, u: Fraction) -> int:
    """Lower or upper neighbour; the largest level beyond it."""
    grid = ladder.steps
    low = ladder.at_or_below(q)
    if low == len(grid) - 1:
        return low
    return low + (u < _share(q, grid[low], grid[low + 1]))
