"""Where an encoder changes its code, over all float32 numbers, found by asking the scalar oracle.

Every deterministic encoder is constant between a few break points. With the float32 numbers laid on
a line (`key`: -inf, ..., -0, +0, ..., +inf as consecutive integers), bisection finds each break
point with some 32 oracle calls, and then two numpy operations tell the code of millions of
numbers: that is how the tests compare the torch code with the oracle over the whole bit space.

Formats of more than 8 bits have tens of thousands of break points; there the place is computed
and the oracle only asked on both sides of it, so a wrong guess is an error, never a wrong table.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from nybble.errors import NybbleError
from nybble.formats import oracle
from nybble.formats.base import Format
from nybble.formats.exact import float32_at_least
from nybble.formats.minifloat import Minifloat
from nybble.formats.rounding import Rounding, Stochastic

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

Run = tuple[int, int]  # first position, code
Code = Callable[[int], int]  # the oracle's code at a position

_LAST = 0x7F800000  # key of +inf


def key(x: Floats) -> Ints:
    """Return the position of each float32 (not NaN) on the line; -0 is -1 and +0 is 0.

    >>> key(np.array([0.0, -0.0, np.inf], dtype=np.float32)).tolist()
    [0, -1, 2139095040]
    """
    bits = x.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -1 - (bits & 0x7FFFFFFF), bits)


def unkey(position: Ints) -> Floats:
    """Return the float32 at each position; the inverse of `key`.

    >>> unkey(np.array([0x3F800000, -1]))
    array([ 1., -0.], dtype=float32)
    """
    bits = np.where(position < 0, 0x80000000 + (-1 - position), position)
    return bits.astype(np.uint32).view(np.float32)


@dataclass(frozen=True)
class Breakpoints:
    """The first position of every run of equal codes, and the code of the run.

    Attributes:
        first: ascending positions; first[0] is that of -inf.
        codes: the code from first[i] up to first[i + 1], as the oracle gives it.
        nan: the code of NaN.
    """

    first: Ints
    codes: Ints
    nan: int

    def expected(self, x: Floats) -> Ints:
        """Return the oracle's code of every float32, NaN included.

        >>> from nybble.formats import INT4
        >>> breakpoints(INT4).expected(np.array([0.5, 0.51, np.nan], dtype=np.float32)).tolist()
        [0, 1, 0]
        """
        nan = np.isnan(x)
        where = np.searchsorted(self.first, key(np.where(nan, np.float32(0), x)), side="right")
        return np.where(nan, self.nan, self.codes[where - 1])

    def neighbourhood(self) -> Floats:
        """Return every break point with one ulp below and above it, and the ends of the line."""
        around = np.concatenate([self.first - 1, self.first, self.first + 1])
        return unkey(np.unique(np.clip(around, -1 - _LAST, _LAST)))


def breakpoints(fmt: Format, rounding: Rounding | None = None) -> Breakpoints:
    """Return all break points of a format under a deterministic rounding.

    >>> from nybble.formats import FP4_RADIX4
    >>> len(breakpoints(FP4_RADIX4).first)
    15
    """
    if isinstance(rounding, Stochastic):
        raise NybbleError("stochastic rounding has no fixed break points.")

    @cache
    def code(position: int) -> int:
        bits = position if position >= 0 else 0x80000000 - 1 - position
        (x,) = struct.unpack("<f", struct.pack("<I", bits))
        return oracle.encode(x, fmt, rounding)

    if isinstance(fmt, Minifloat) and fmt.bits > 8:
        found = _computed(fmt, code)
    else:
        seeds = [-1 - _LAST, -1, 0, _LAST]
        known = {position: code(position) for position in seeds}
        found = [(seeds[0], known[seeds[0]])]
        for low, high in pairwise(seeds):
            found += _between(low, known[low], high, known[high], code)
    positions, codes = zip(*found, strict=True)
    nan = oracle.encode(math.nan, fmt, rounding)
    return Breakpoints(np.array(positions), np.array(codes), nan)


def _between(low: int, low_code: int, high: int, high_code: int, code: Code) -> list[Run]:
    """Every change in (low, high]: encoders are monotone, so a run of one code is an interval."""
    if low_code == high_code:
        return []
    if high - low == 1:
        return [(high, high_code)]
    middle = (low + high) // 2
    middle_code = code(middle)
    return _between(low, low_code, middle, middle_code, code) + _between(
        middle, middle_code, high, high_code, code
    )


def _computed(fmt: Minifloat, code: Code) -> list[Run]:
    """Sign-magnitude formats: guess each change at a midpoint, let the oracle confirm it."""
    levels = oracle.levels(fmt)[: 1 << (fmt.bits - 1)]
    finite = [v for v in levels if isinstance(v, Fraction)]
    finite.append(2 * finite[-1] - finite[-2])  # overflow begins half a step above the largest
    changes = []
    for m in range(1, len(finite)):
        middle = np.float32(float32_at_least((finite[m - 1] + finite[m]) / 2))
        position = int(key(np.array([middle]))[0])
        if code(position) == m - 1:  # a tie that goes down
            position += 1
        if code(position - 1) != m - 1 or code(position) == m - 1:
            raise NybbleError(f"{fmt.name}: no break between codes {m - 1} and {m}.")
        changes.append(position)
    # Position -p is the mirror image of p - 1: there the run of the lower code begins.
    runs = [(-1 - _LAST, code(-1 - _LAST))]
    runs += [(-p, code(-p)) for p in reversed(changes)]
    return runs + [(p, code(p)) for p in changes]
