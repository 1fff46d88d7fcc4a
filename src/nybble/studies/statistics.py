"""Statistics of paired runs: mean and sd, the paired t interval, the bootstrap, medians of ratios.

Runs of two recipes with the same seed see the same batches, augmentation and initial weights, so
their difference cancels the luck of the seed.  With d_i = treatment_i - baseline_i for n seeds:

    mean(d) +- t(0.975, n - 1) * sd(d) / sqrt(n)            (sd with n - 1 in the denominator)

which is scipy's `ttest_1samp(d, 0).confidence_interval(0.95)`.  The interval is a statement about
the mean over seeds of this network on this test set, nothing wider.

Beside it stands the bias-corrected and accelerated (BCa) bootstrap of scipy.  For n <= 3 a resample
that repeats the smallest (or largest) difference n times is likelier than 2.5 %, so the bootstrap
interval cannot be wider than the range of the data and is too narrow; the t interval is the one the
tables show, and the bootstrap is kept in the JSON.

A metric that is compared by ratio (perplexity) is compared in the same way through its logarithm:
`paired_change`.

A run that failed or ended in NaN has no metric.  Its pair is left out of the difference, is
counted in `dropped`, and every report shows the count: what is left is the mean of the survivors.

Not done: correction for several comparisons (each row is compared with float32 on its own), and
intervals for a ratio of means.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nybble.errors import UserError

LEVEL = 0.95
"""Confidence level of every interval in the reports."""

RESAMPLES = 9999
"""Bootstrap resamples; the generator is seeded, so a record can be recomputed."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval, closed, with the method that gave it."""

    low: float
    high: float
    level: float
    method: str

    def to_dict(self) -> dict[str, Any]:
        """The interval as JSON values.

        >>> Interval(-1.0, 2.0, 0.95, "t").to_dict()
        {'low': -1.0, 'high': 2.0, 'level': 0.95, 'method': 't'}
        """
        return {"low": self.low, "high": self.high, "level": self.level, "method": self.method}


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of the finite values among `given` ones."""

    n: int
    mean: float | None
    sd: float | None
    given: int

    def to_dict(self) -> dict[str, Any]:
        """The spread as JSON values."""
        return {"n": self.n, "mean": self.mean, "sd": self.sd, "given": self.given}


@dataclass(frozen=True)
class PairedDifference:
    """Treatment minus baseline over the pairs in which both have a finite value.

    kind "ratio" (`paired_change`): the numbers are per cent of the baseline.
    """

    n: int
    dropped: int
    differences: tuple[float, ...]
    mean: float | None
    sd: float | None
    t_interval: Interval | None
    bootstrap: Interval | None
    note: str
    kind: str = "difference"

    def to_dict(self) -> dict[str, Any]:
        """The difference as JSON values; an interval that does not exist is null."""
        return {
            "n": self.n,
            "dropped": self.dropped,
            "differences": list(self.differences),
            "mean": self.mean,
            "sd": self.sd,
            "t_interval": self.t_interval.to_dict() if self.t_interval else None,
            "bootstrap": self.bootstrap.to_dict() if self.bootstrap else None,
            "note": self.note,
            "kind": self.kind,
        }


@dataclass(frozen=True)
class MedianRatio:
    """Median of per-pair ratios, with a distribution-free interval where n allows one."""

    n: int
    median: float | None
    low: float | None
    high: float | None
    interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """The ratio as JSON values; `low` and `high` are the extremes, not the interval."""
        return {
            "n": self.n,
            "median": self.median,
            "min": self.low,
            "max": self.high,
            "interval": self.interval.to_dict() if self.interval else None,
        }


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def spread(values: Sequence[float | None]) -> Spread:
    """Mean and sd (n - 1) of the finite values; None and NaN are counted in `given` only.

    One value has no sd, no value has no mean: both are None, never NaN.

    >>> spread([1.0, 2.0, 3.0])
    Spread(n=3, mean=2.0, sd=1.0, given=3)
    >>> spread([5.0, float("nan")])
    Spread(n=1, mean=5.0, sd=None, given=2)
    """
    finite = [float(v) for v in values if v is not None and math.isfinite(v)]
    n = len(finite)
    if n == 0:
        return Spread(0, None, None, len(values))
    # A run that diverged may have a perplexity whose square, or sum, is beyond all numbers.
    largest = max(map(abs, finite))
    unit = 1.0 if largest < _SQUARES else largest
    parts = [v / unit for v in finite]
    mean = math.fsum(parts) / n
    if n == 1:
        return Spread(1, mean * unit, None, len(values))
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in parts) / (n - 1))
    return Spread(n, _held(mean * unit), _held(sd * unit), len(values))


_SQUARES = 1e140
"""Below, squares and their sums are numbers."""


def _held(value: float) -> float:
    """The nearest number: records hold no infinity."""
    most = sys.float_info.max
    return max(-most, min(most, value))


EQUAL = "all differences are equal"
"""Begins the note of such pairs."""
_ALIKE = 1e-9
"""Spread, relative to the largest value, below which values differ by rounding alone."""


def all_equal(values: Sequence[float]) -> bool:
    """Whether the values, two or more, differ by nothing but the rounding of a subtraction.

    Their sd is then zero or noise, and a t test would divide by it: no test can be made.

    >>> all_equal([99.7 - 99.4, 100.0 - 99.7]), all_equal([0.3, 0.4]), all_equal([0.3])
    (True, False, False)
    """
    if len(values) < 2:
        return False
    return max(values) - min(values) <= _ALIKE * max(map(abs, values))


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """The t interval of the mean of `values`; None for fewer than two.

    Identical values give the interval [mean, mean]: correct arithmetic, but no evidence that the
    next seed would give the same; the caller says so.

    >>> interval = t_interval([1.0, 2.0, 3.0])
    >>> round(interval.low, 4), round(interval.high, 4)
    (-0.4841, 4.4841)
    >>> t_interval([1.0]) is None
    True
    """
    stats = spread(values)
    if stats.n < 2 or stats.mean is None or stats.sd is None:
        return None
    half = _t_quantile(stats.n, level) * stats.sd / math.sqrt(stats.n)
    return Interval(_held(stats.mean - half), _held(stats.mean + half), level, "t")


def _t_quantile(n: int, level: float) -> float:
    """The quantile of Student's t with n - 1 degrees of freedom for a two-sided interval."""
    from scipy.special import stdtrit  # a tenth of the import time of scipy.stats

    return float(stdtrit(n - 1, 0.5 + level / 2))


def bootstrap_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """The BCa bootstrap interval of the mean; None for fewer than two or identical values.

    >>> interval = bootstrap_interval([0.1, 0.4, 0.2, 0.9, 0.5])
    >>> 0.1 <= interval.low < interval.high <= 0.9
    True
    >>> bootstrap_interval([1.0, 1.0, 1.0]) is None
    True
    """
    if len(values) < 2 or min(values) == max(values):
        return None
    import numpy as np
    from scipy.stats import bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate resamples are reported below as None
        result = bootstrap(
            (np.asarray(values, dtype=np.float64),),
            np.mean,
            confidence_level=level,
            n_resamples=RESAMPLES,
            method="BCa",
            rng=np.random.default_rng(0),
        )
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    return Interval(low, high, level, "bca")


def paired_difference(
    treatment: Sequence[float | None], baseline: Sequence[float | None], level: float = LEVEL
) -> PairedDifference:
    """Treatment minus baseline, seed by seed, with its t interval and its bootstrap interval.

    Both sequences have one entry a seed, in the same order; None or a non-finite number stands for
    a run without a result.

    Raises:
        UserError: the two sequences differ in length, so they cannot be pairs.

    >>> d = paired_difference([90.0, 91.0, 89.5], [91.0, 91.5, 91.0])
    >>> d.n, d.mean, d.differences
    (3, -1.0, (-1.0, -0.5, -1.5))
    >>> round(d.t_interval.low, 3), round(d.t_interval.high, 3)
    (-2.242, 0.242)
    >>> paired_difference([90.0], [91.0]).t_interval is None
    True
    """
    if len(treatment) != len(baseline):
        raise UserError(
            f"paired difference: {len(treatment)} and {len(baseline)} values given; "
            "give one value a seed for both, None for a run without a result"
        )
    differences = tuple(
        float(a) - float(b)
        for a, b in zip(treatment, baseline, strict=True)
        if a is not None and b is not None and _finite(a) and _finite(b)
    )
    stats = spread(differences)
    dropped = len(treatment) - stats.n
    notes = []
    if dropped:
        notes.append(f"{dropped} of {len(treatment)} pairs have no result and are left out")
    if stats.n == 0:
        notes.append("no pair: no difference")
    elif stats.n == 1:
        notes.append("one pair: no interval")
    elif all_equal(differences):
        notes.append(f"{EQUAL}: the interval has no width")
    elif stats.n <= 3:
        notes.append("few pairs: the bootstrap cannot be wider than the data")
    return PairedDifference(
        n=stats.n,
        dropped=dropped,
        differences=differences,
        mean=stats.mean,
        sd=stats.sd,
        t_interval=t_interval(differences, level),
        bootstrap=bootstrap_interval(differences, level),
        note="; ".join(notes),
    )


def paired_change(
    treatment: Sequence[float | None], baseline: Sequence[float | None], level: float = LEVEL
) -> PairedDifference:
    """Treatment relative to baseline, seed by seed, in per cent, for a metric compared by ratio.

    With l_i = ln(treatment_i / baseline_i), of which the t interval is taken:

        mean = 100 (exp(mean(l)) - 1)      low, high = 100 (exp(low or high of l) - 1)

    so it does not matter which of the two is divided by which. sd is 100 sd(l), which for small
    changes is the sd of the changes in per cent. A value that is not above zero has no logarithm
    and counts as a run without a result.

    Raises:
        UserError: the two sequences differ in length, so they cannot be pairs.

    >>> d = paired_change([102.0, 204.0], [100.0, 200.0])
    >>> round(d.mean, 6), [round(change, 6) for change in d.differences]
    (2.0, [2.0, 2.0])
    """

    def logarithm(value: float | None) -> float | None:
        return math.log(value) if value is not None and _finite(value) and value > 0 else None

    found = paired_difference(
        [logarithm(value) for value in treatment], [logarithm(value) for value in baseline], level
    )

    def interval(of: Interval | None) -> Interval | None:
        return of and Interval(_percent(of.low), _percent(of.high), of.level, of.method)

    return replace(
        found,
        differences=tuple(_percent(value) for value in found.differences),
        mean=None if found.mean is None else _percent(found.mean),
        sd=None if found.sd is None else 100 * found.sd,
        t_interval=interval(found.t_interval),
        bootstrap=interval(found.bootstrap),
        kind="ratio",
    )


MOST_PER_CENT = 1e300
"""What a change beyond all numbers is written as: a run diverged, and records hold no infinity."""


def _percent(logarithm: float) -> float:
    try:
        return min(100 * math.expm1(logarithm), MOST_PER_CENT)
    except OverflowError:
        return MOST_PER_CENT


FEWEST_PAIRS = 6
"""Below, no order statistics reach 95 %."""


def median_ratio(
    numerator: Sequence[float], denominator: Sequence[float], level: float = LEVEL
) -> MedianRatio:
    """Median of numerator_i / denominator_i, its extremes, and its interval by order statistics.

    The interval is scipy's `quantile_test(...).confidence_interval`: exact for any distribution of
    independent ratios, and absent (None) below `FEWEST_PAIRS`.

    Raises:
        UserError: lengths differ, or a denominator is not positive.

    >>> median_ratio([2.0, 3.0, 8.0], [1.0, 2.0, 2.0])
    MedianRatio(n=3, median=2.0, low=1.5, high=4.0, interval=None)
    """
    if len(numerator) != len(denominator):
        raise UserError(
            f"ratio: {len(numerator)} numerators and {len(denominator)} denominators given; "
            "give pairs"
        )
    if any(not d > 0 for d in denominator):
        raise UserError("ratio: a denominator is not above zero; measure longer steps")
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    if not ratios:
        return MedianRatio(0, None, None, None, None)
    import numpy as np

    return MedianRatio(
        n=len(ratios),
        median=float(np.median(ratios)),
        low=min(ratios),
        high=max(ratios),
        interval=_median_interval(ratios, level),
    )


def _median_interval(values: Sequence[float], level: float) -> Interval | None:
    from scipy.stats import quantile_test

    found = quantile_test(list(values), p=0.5).confidence_interval(level)
    low, high = float(found.low), float(found.high)
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    return Interval(low, high, level, "order statistics")


def pairs_for_half_width(sd: float, half_width: float, level: float = LEVEL) -> int:
    """The smallest number of pairs whose t interval is at most +- `half_width`, given sd.

    It takes the sd as known, so it is a hint for planning, not a promise.

    Raises:
        UserError: `half_width` is not above zero, or sd is negative or not finite.

    >>> pairs_for_half_width(sd=0.5, half_width=0.5)
    7
    >>> pairs_for_half_width(sd=0.0, half_width=0.5)
    2
    """
    if not half_width > 0 or not math.isfinite(sd) or sd < 0:
        raise UserError(
            f"number of pairs: sd {sd} and half width {half_width} given; "
            "give a finite sd >= 0 and a half width > 0"
        )

    def too_wide(n: int) -> bool:
        return _t_quantile(n, level) * sd / math.sqrt(n) > half_width

    high = 2
    while too_wide(high):
        high *= 2
    low = high // 2  # too wide (or 1); the width only falls with n, so bisect
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if too_wide(middle) else (low, middle)
    return high
