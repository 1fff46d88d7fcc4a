"""How many seeds: the power of the paired t test and of the equivalence test, from a paired sd.

n pairs, differences normal with mean D and sd S, level 5 %, f = n - 1, t_q the quantile of T_f:

    paired t test     |mean| / (s / sqrt n) > t_0.975
                      power = P(|T'_f(D sqrt n / S)| > t_0.975), T' the noncentral t of scipy
    equivalence       -M + t_0.95 s / sqrt n < mean < M - t_0.95 s / sqrt n      (TOST, margin M)
                      power = E_s [Phi((M - D) sqrt n / S - t_0.95 s / S)
                                   - Phi(-(M + D) sqrt n / S + t_0.95 s / S)]+

The second has no closed form in scipy. Mean and s are independent and s sqrt(f) / S has the chi
distribution of f degrees, so it is one integral, done by quadrature: exact, nothing is simulated.

S is taken as known. An sd of three seeds is a poor guess (its 95 % interval reaches from half to
six times of it), so a number of seeds found from it is a plan, not a promise. A correction over m
rows (Holm) needs more: the level of the strictest of them is 5 % / m (`alpha`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from nybble.errors import UserError
from nybble.studies.equivalence import ALPHA

MOST = 100_000
"""More seeds than anybody will run."""


def power_of_t_test(n: int, sd: float, difference: float, alpha: float = ALPHA) -> float:
    """The chance that n pairs show a true `difference`, at the two-sided level `alpha`.

    >>> round(power_of_t_test(10, sd=1.0, difference=1.0), 3)
    0.803
    """
    _check(sd, alpha, n)
    if sd == 0.0:
        return 1.0 if difference else 0.0
    from scipy.special import stdtrit
    from scipy.stats import nct

    limit = float(stdtrit(n - 1, 1 - alpha / 2))
    shift = abs(difference) * math.sqrt(n) / sd
    wrong_side = float(nct.cdf(-limit, n - 1, shift))
    # scipy gives NaN for some shifts above 7, where this tail is below 1e-13.
    return float(nct.sf(limit, n - 1, shift)) + (0.0 if math.isnan(wrong_side) else wrong_side)


def power_of_tost(
    n: int, sd: float, margin: float, difference: float = 0.0, alpha: float = ALPHA
) -> float:
    """The chance that n pairs show equivalence to `margin`, given the true difference.

    >>> round(power_of_tost(10, sd=1.0, margin=1.0), 3)
    0.795
    """
    _check(sd, alpha, n)
    if not margin > 0:
        raise UserError(f"power: the margin must be above 0, not {margin}.")
    if sd == 0.0:
        return 1.0 if abs(difference) < margin else 0.0
    from scipy.integrate import quad
    from scipy.special import ndtr, stdtrit
    from scipy.stats import chi

    f, root = n - 1, math.sqrt(n) / sd
    limit = float(stdtrit(f, 1 - alpha)) / math.sqrt(f)
    middle = math.sqrt(f)
    top = min(margin * root / limit, middle + 12.0)  # beyond the first, mean has no place to be
    bottom = max(0.0, middle - 12.0)
    if top <= bottom:
        return 0.0

    def density(x: float) -> float:
        inside = ndtr((margin - difference) * root - limit * x) - ndtr(
            -(margin + difference) * root + limit * x
        )
        return float(chi.pdf(x, f)) * max(0.0, float(inside))

    value, _ = quad(density, bottom, top, limit=200)
    return min(1.0, max(0.0, float(value)))


def seeds_for_t_test(sd: float, difference: float, power: float = 0.8, alpha: float = ALPHA) -> int:
    """The smallest number of pairs that shows a true `difference` with this power.

    Raises:
        UserError: no difference to find, or more seeds than anybody will run.

    >>> seeds_for_t_test(sd=1.0, difference=1.0)
    10
    """
    _finite("difference", difference)
    if difference == 0:
        raise UserError("power: a difference of 0 cannot be shown; give --difference.")
    return _smallest(lambda n: power_of_t_test(n, sd, difference, alpha), power)


def seeds_for_tost(
    sd: float, margin: float, difference: float = 0.0, power: float = 0.8, alpha: float = ALPHA
) -> int:
    """The smallest number of pairs that shows equivalence to `margin` with this power.

    Raises:
        UserError: the true difference is not inside the margin.

    >>> seeds_for_tost(sd=1.0, margin=1.0)
    11
    """
    _finite("difference", difference)
    _finite("margin", margin)
    if not abs(difference) < margin:
        raise UserError(
            f"power: a true difference of {difference:g} is not inside the margin {margin:g}; no "
            "number of seeds shows equivalence."
        )
    return _smallest(lambda n: power_of_tost(n, sd, margin, difference, alpha), power)


def _smallest(reached: Callable[[int], float], power: float) -> int:
    if not 0 < power < 1:
        raise UserError(f"power: give a power between 0 and 1, for example 0.8, not {power}.")
    high = 2
    while not reached(high) >= power:  # and not `<`, of which a NaN would pass
        if high > MOST:
            raise UserError(f"power: more than {MOST} seeds would be needed.")
        high *= 2
    low = high // 2  # too few (or 1); power only rises with n where it matters, so bisect
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) >= power else (middle, high)
    return high


def _finite(what: str, value: float) -> None:
    if not math.isfinite(value):
        raise UserError(f"power: the {what} must be a number, not {value}.")


def _check(sd: float, alpha: float, n: int) -> None:
    if n < 2:
        raise UserError(f"power: {n} pairs have no sd; give 2 or more.")
    if not (math.isfinite(sd) and sd >= 0):
        raise UserError(f"power: the sd must be a number of at least 0, not {sd}.")
    if not 0 < alpha < 0.5:
        raise UserError(f"power: the level must be between 0 and 0.5, not {alpha}.")
