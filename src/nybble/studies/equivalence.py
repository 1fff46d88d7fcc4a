"""Tests of paired differences: not zero? equal to within a margin? And the correction by Holm.

With differences d_i over n seeds, mean m, sd s (n - 1), margin M > 0 and T of n - 1 degrees:

    different     two-sided paired t test of mean(d) = 0
    equivalent    two one-sided tests (TOST): mean(d) <= -M and mean(d) >= M are both refused;
                  p = max of the two one-sided p, so p <= 0.05 is the 90 % t interval inside (-M, M)
    undecided     neither: more seeds are needed, not "no difference"

A metric that is compared by ratio is tested on its logarithms, with the margin ln(1 + M / 100) on
both sides. Holm (1979): of m tests, the i-th smallest p (i = 0, 1, ...) becomes the running maximum
of min(1, (m - i) p); so the chance of any false verdict among a table's rows is at most 5 %, for
each of the two kinds of tests.

A difference can be within the margin and still not zero; then the verdict is `equivalent`, because
the margin says what matters. Differences that are all equal have an sd of zero or of rounding noise
and no p: dividing by it would call one wrong word in three seeds certain. `failed` is not found by
a test: a recipe of which a run failed is not equivalent to one whose runs ended, nor the other way
round, whatever the other runs say (`study.record`).

Not done: correction over several tables; a choice of margin (it must be stated before the runs).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nybble.errors import UserError
from nybble.studies.statistics import PairedDifference, all_equal, spread

ALPHA = 0.05
EQUIVALENT, DIFFERENT, UNDECIDED = "equivalent", "different", "undecided"
FAILED = "failed"


@dataclass(frozen=True)
class Verdict:
    """What the seeds of one row say; a p that does not exist (fewer than two pairs, or all of them
    equal) is None.

    p, p_tost: as tested. p_holm, p_tost_holm: corrected over the rows of the table.
    """

    verdict: str
    margin: float | None
    p: float | None
    p_holm: float | None
    p_tost: float | None
    p_tost_holm: float | None

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON values."""
        return {
            "verdict": self.verdict,
            "margin": self.margin,
            "p": self.p,
            "p_holm": self.p_holm,
            "p_tost": self.p_tost,
            "p_tost_holm": self.p_tost_holm,
        }


def t_test(values: Sequence[float], mean: float = 0.0) -> float | None:
    """p of the two-sided t test that the mean of `values` is `mean`; None below two values, or if
    all are equal.

    >>> round(t_test([1.0, 2.0, 3.0]), 4)
    0.0742
    >>> t_test([1.0, 1.0, 1.0]) is None
    True
    """
    if spread(values).n < 2 or all_equal(values):
        return None
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(list(values), mean).pvalue)


def tost(values: Sequence[float], margin: float) -> float | None:
    """p of the two one-sided t tests that the mean is in (-margin, margin); None below two values,
    or if all are equal.

    Raises:
        UserError: the margin is not a number above zero.

    >>> round(tost([-0.1, 0.0, 0.1], 0.5), 4)
    0.0065
    """
    if not (math.isfinite(margin) and margin > 0):
        raise UserError(f"equivalence: the margin must be a number above 0, not {margin}.")
    if spread(values).n < 2 or all_equal(values):
        return None
    from scipy.stats import ttest_1samp

    low = ttest_1samp(list(values), -margin, alternative="greater").pvalue
    high = ttest_1samp(list(values), margin, alternative="less").pvalue
    return float(max(low, high))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p, in the order given; None is no test and stays None.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    >>> holm([0.04, None])
    [0.04, None]
    """
    order = sorted((p, place) for place, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    running = 0.0
    for i, (p, place) in enumerate(order):
        running = max(running, min(1.0, (len(order) - i) * p))
        adjusted[place] = running
    return adjusted


_LEAST = math.nextafter(-1.0, 0.0)


def values_to_test(
    found: PairedDifference, margin: float | None
) -> tuple[list[float], float | None]:
    """The differences and the margin as they are tested: of a ratio, their logarithms.

    >>> from nybble.studies.statistics import paired_change
    >>> values, margin = values_to_test(paired_change([101.0, 99.0], [100.0, 100.0]), 0.5)
    >>> round(values[0], 5), round(margin, 5)
    (0.00995, 0.00499)
    """
    if found.kind != "ratio":
        return list(found.differences), margin
    # A change of -100 % is a run that ended below the smallest ratio that per cents can tell.
    logs = [math.log1p(max(change / 100, _LEAST)) for change in found.differences]
    return logs, None if margin is None else math.log1p(margin / 100)


def margin_to_plan(margin: float, ratio: bool) -> float:
    """The margin that goes with the sd of a `PairedDifference`: of a ratio, whose sd is that of the
    logarithms in per cent, the one that is tested.

    >>> round(margin_to_plan(5.0, ratio=True), 4), margin_to_plan(0.25, ratio=False)
    (4.879, 0.25)
    """
    return 100 * math.log1p(margin / 100) if ratio else margin


def judge(found: Sequence[PairedDifference | None], margin: float | None) -> list[Verdict]:
    """The verdicts on the rows of one table, with both kinds of p corrected over them.

    margin: None tests no equivalence. A row without differences is undecided.

    >>> from nybble.studies.statistics import paired_difference
    >>> near = paired_difference([1.0, 1.01, 0.99], [1.0, 1.0, 1.0])
    >>> far = paired_difference([0.0, 0.1, 0.2], [1.0, 1.0, 1.0])
    >>> [v.verdict for v in judge([near, far], 0.25)]
    ['equivalent', 'different']
    """
    tests: list[float | None] = []
    tosts: list[float | None] = []
    for row in found:
        values, within = values_to_test(row, margin) if row is not None else ([], None)
        tests.append(t_test(values))
        tosts.append(None if within is None else tost(values, within))
    rows = zip(tests, holm(tests), tosts, holm(tosts), strict=True)
    return [
        Verdict(_verdict(p_holm, tost_holm), margin, p, p_holm, p_tost, tost_holm)
        for p, p_holm, p_tost, tost_holm in rows
    ]


def _verdict(p: float | None, p_tost: float | None) -> str:
    if p_tost is not None and p_tost <= ALPHA:
        return EQUIVALENT
    if p is not None and p <= ALPHA:
        return DIFFERENT
    return UNDECIDED
