"""p against scipy's own tests and against the interval, Holm against its definition, verdicts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nybble.errors import UserError
from nybble.studies.equivalence import (
    DIFFERENT,
    EQUIVALENT,
    UNDECIDED,
    holm,
    judge,
    t_test,
    tost,
)
from nybble.studies.statistics import paired_change, paired_difference, t_interval

VALUES = st.lists(st.floats(-5, 5), min_size=3, max_size=8).filter(lambda v: np.std(v) > 1e-3)


@given(VALUES)
def test_p_below_5_percent_is_an_interval_without_zero(values: list[float]) -> None:
    interval = t_interval(values)
    p = t_test(values)
    assert interval is not None and p is not None
    assert (p < 0.05) == (interval.low > 0 or interval.high < 0)
    assert p == pytest.approx(stats.ttest_rel(np.array(values) + 1, np.ones(len(values))).pvalue)


@given(VALUES, st.floats(0.1, 3))
def test_equivalence_is_the_90_percent_interval_inside_the_margin(
    values: list[float], margin: float
) -> None:
    interval = t_interval(values, 0.90)
    p = tost(values, margin)
    assert interval is not None and p is not None
    if abs(p - 0.05) > 1e-9:
        assert (p < 0.05) == (-margin < interval.low and interval.high < margin)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_rejects_what_stepping_down_rejects(values: list[float]) -> None:
    adjusted = holm(values)
    for level in (0.01, 0.05, 0.3):
        rejected: set[int] = set()
        for i, place in enumerate(sorted(range(len(values)), key=lambda k: values[k])):
            if values[place] * (len(values) - i) > level:
                break
            rejected.add(place)
        # A tie is rejected or kept as one: the step decides at its first member.
        kept = {values[k] for k in range(len(values)) if k not in rejected}
        found = {k for k, p in enumerate(adjusted) if p is not None and p <= level}
        assert found == {k for k in rejected if values[k] not in kept} or found == rejected


def test_holm_by_hand_and_in_any_order() -> None:
    wanted = {0.01: 0.04, 0.02: 0.06, 0.03: 0.06, 0.04: 0.06}
    for order in itertools.permutations(wanted):
        assert holm(order) == pytest.approx([wanted[p] for p in order])
    assert holm([None, 0.5, None]) == [None, 0.5, None]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


# One of 300 words lost on every seed: equal but for the rounding of the subtraction.
ONE_WORD = [100 * (k - 1) / 300 - 100 * k / 300 for k in (297, 298, 299)]


@pytest.mark.parametrize("values", [[0.0, 0.0], [-1.0, -1.0], ONE_WORD])
def test_equal_differences_are_tested_by_nothing(values: list[float]) -> None:
    assert t_test(values) is None and tost(values, 2.0) is None
    base = [90.0, 91.0, 92.0][: len(values)]
    same = paired_difference([v + d for v, d in zip(base, values, strict=True)], base)
    assert [v.verdict for v in judge([same], 2.0)] == [UNDECIDED]
    assert "all differences are equal" in same.note


def test_equal_words_are_not_one_number() -> None:
    assert max(ONE_WORD) > min(ONE_WORD)  # else the test above shows less than it says


def test_margins_and_single_pairs() -> None:
    assert t_test([0.1]) is None and tost([0.1], 0.2) is None
    for margin in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="margin"):
            tost([0.1, 0.2], margin)


def test_verdicts_and_that_the_margin_goes_before_zero() -> None:
    base = [90.0, 90.5, 91.0, 91.5]
    shifted = paired_difference([v - 0.1 + e for v, e in zip(base, SMALL, strict=True)], base)
    far = paired_difference([v - 2 + e for v, e in zip(base, SMALL, strict=True)], base)
    noisy = paired_difference([89.0, 91.5, 90.0, 92.5], base)
    found = judge([shifted, far, noisy, None], 0.25)
    assert [v.verdict for v in found] == [EQUIVALENT, DIFFERENT, UNDECIDED, UNDECIDED]
    assert found[0].p_holm is not None and found[0].p_holm < 0.05  # and not zero, though equivalent
    assert found[3].p is None and found[3].p_tost is None
    without = judge([shifted, noisy], None)
    assert [v.verdict for v in without] == [DIFFERENT, UNDECIDED]
    assert without[0].p_tost is None and without[0].margin is None


SMALL = (0.01, -0.01, 0.005, -0.005)


def test_correction_can_take_a_verdict_back() -> None:
    base = [1.0, 2.0, 3.0]
    row = paired_difference([1.6, 2.4, 3.55], base)
    p = t_test(row.differences)
    assert p is not None and 0.01 < p < 0.05
    assert judge([row], None)[0].verdict == DIFFERENT
    assert [v.verdict for v in judge([row] * 5, None)] == [UNDECIDED] * 5


def test_a_ratio_is_tested_on_logarithms() -> None:
    base = [100.0, 200.0, 150.0, 120.0]
    found = paired_change([100.3, 200.2, 150.5, 120.1], base)
    logs = np.log(np.array([100.3, 200.2, 150.5, 120.1]) / base)
    verdict = judge([found], 0.5)[0]
    assert verdict.p == pytest.approx(stats.ttest_1samp(logs, 0).pvalue)
    bound = math.log(1.005)
    low = stats.ttest_1samp(logs, -bound, alternative="greater").pvalue
    high = stats.ttest_1samp(logs, bound, alternative="less").pvalue
    assert verdict.p_tost == pytest.approx(max(low, high))
    assert verdict.verdict == EQUIVALENT
