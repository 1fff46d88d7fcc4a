"""How a real number between two levels of a format is sent to one of them.

Three rules, each a small frozen value that can be compared, hashed and printed:

- `Nearest`: the nearer level; an exact tie goes to the even code (even integer, even mantissa).
- `LogNearest`: for logarithmic formats. Level `b^n` is taken from `b^n / factor` upwards, ties
  included, compared exactly. Factor 1.6 on base 4 is the arithmetic midpoint 0.625 * 4^n
  (Sun et al., NeurIPS 2020); 1.848 removes the mean shrinkage of log-uniform data in base 4
  (3 / ln 4 = 2.164 = 4 / 1.848); "mid" is the arithmetic midpoint of any base, 2b / (b + 1).
- `Stochastic`: one of the two neighbouring levels, the upper with probability
  `p = (|x| - lo) / (hi - lo)`, so that the expected value is x inside the range.

Two-phase rounding is not a rule of its own: it is one rule applied on two grids (see `log.py`).
Nothing here draws random numbers: `Stochastic` reads the integers that the caller hands in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from nybble.errors import UserError

#: Random integers handed to `Stochastic` are uniform in [0, 2^RANDOM_BITS).
RANDOM_BITS = 24


@dataclass(frozen=True)
class Nearest:
    """Round to the nearest level, ties to the even code.

    >>> Nearest()
    Nearest()
    """


@dataclass(frozen=True)
class LogNearest:
    """Round to level b^n from `b^n / factor` upwards, an exact tie going up.

    Args:
        factor: a decimal number as text, kept exact ("1.6", "1.848"), or "mid" for the
            arithmetic midpoint of the base: 2b / (b + 1), which is 1.6 for base 4.
        underflow: "rule" applies the same threshold to the smallest level; "half" sends the
            magnitudes up to half of the smallest level, that half included, to zero.

    >>> LogNearest("1.6").exact_factor(4)
    Fraction(8, 5)
    >>> LogNearest("mid").exact_factor(2)
    Fraction(4, 3)
    """

    factor: str = "1.6"
    underflow: str = "rule"

    def __post_init__(self) -> None:
        if self.underflow not in ("rule", "half"):
            raise UserError(
                f"LogNearest: underflow is {self.underflow!r}; choose 'rule' (the factor decides) "
                "or 'half' (half of the smallest level goes to zero)."
            )
        if self.factor != "mid":
            self._parsed()

    def _parsed(self) -> Fraction:
        try:
            value = Fraction(self.factor)
        except (ValueError, TypeError, ZeroDivisionError):
            raise UserError(
                f"LogNearest: factor is {self.factor!r}; give a decimal number as text, "
                "for example '1.6', or 'mid'."
            ) from None
        if value <= 1:
            raise UserError(f"LogNearest: factor is {self.factor}; it must be greater than 1.")
        return value

    def exact_factor(self, base: int) -> Fraction:
        """Return the factor for a base as an exact fraction; it lies in (1, base).

        Raises:
            UserError: the factor is not below the base, so a level could never be reached.

        >>> LogNearest("1.848").exact_factor(4)
        Fraction(231, 125)
        """
        value = Fraction(2 * base, base + 1) if self.factor == "mid" else self._parsed()
        if value >= base:
            raise UserError(
                f"LogNearest: factor {self.factor} is not below the base {base}; "
                f"choose one between 1 and {base}."
            )
        return value


@dataclass(frozen=True)
class Stochastic:
    """Round to one of the two neighbours, up with probability (|x| - lo) / (hi - lo).

    With u = random * 2^-24 and p = fl32(fl32(|x| - lo) / fl32(hi - lo)), the upper neighbour is
    taken if and only if u < p. Beyond the last level the result saturates.

    >>> Stochastic()
    Stochastic()
    """


Rounding = Nearest | LogNearest | Stochastic


def rounding_name(rounding: Rounding) -> str:
    """Return a short printable name of a rounding rule.

    >>> [rounding_name(r) for r in (Nearest(), LogNearest("1.848"), Stochastic())]
    ['nearest', 'log-nearest(1.848)', 'stochastic']
    """
    if isinstance(rounding, Nearest):
        return "nearest"
    if isinstance(rounding, Stochastic):
        return "stochastic"
    tail = "" if rounding.underflow == "rule" else ", underflow=half"
    return f"log-nearest({rounding.factor}{tail})"


def parse_rounding(name: str) -> Rounding:
    """Return the rounding rule that `rounding_name` prints as `name`.

    >>> parse_rounding("log-nearest(1.6, underflow=half)")
    LogNearest(factor='1.6', underflow='half')
    """
    if name == "nearest":
        return Nearest()
    if name == "stochastic":
        return Stochastic()
    found = re.fullmatch(r"log-nearest\(([^(),]+)(, underflow=half)?\)", name)
    if found is None:
        raise UserError(
            f"unknown rounding {name!r}: use nearest, stochastic, log-nearest(1.6), or "
            "log-nearest(1.6, underflow=half) with a factor of yours."
        )
    return LogNearest(found[1], "half" if found[2] else "rule")
