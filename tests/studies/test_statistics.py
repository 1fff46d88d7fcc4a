"""Statistics against scipy, against numbers computed by hand, and at the edges."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from nybble.errors import UserError
from nybble.studies.equivalence import judge
from nybble.studies.statistics import (
    bootstrap_interval,
    median_ratio,
    paired_change,
    paired_difference,
    pairs_for_half_width,
    spread,
    t_interval,
)


def test_spread_by_hand() -> None:
    found = spread([2.0, 4.0, 9.0])
    assert found.mean == 5.0
    assert found.sd == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert (found.n, found.given) == (3, 3)


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_spread_counts_what_it_leaves_out(bad: float | None) -> None:
    found = spread([1.0, bad, 3.0])
    assert (found.n, found.given, found.mean) == (2, 3, 2.0)


def test_spread_of_one_and_none() -> None:
    assert spread([7.0]).sd is None
    assert spread([7.0]).mean == 7.0
    assert spread([]).mean is None
    assert spread([float("nan")]).mean is None


def test_t_interval_equals_scipy() -> None:
    rng = np.random.default_rng(1)
    for n in (2, 3, 5, 30):
        values = rng.normal(3.0, 2.0, n)
        want = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        got = t_interval(list(values))
        assert got is not None
        assert got.low == pytest.approx(want.low, rel=1e-12)
        assert got.high == pytest.approx(want.high, rel=1e-12)
        ninety = stats.ttest_1samp(values, 0.0).confidence_interval(0.90)
        other = t_interval(list(values), 0.90)
        assert other is not None and other.low == pytest.approx(ninety.low, rel=1e-12)


def test_t_interval_by_hand_for_two_pairs() -> None:
    # t(0.975, 1) = 12.7062; sd of (-1, -2) = 0.70711; half = 12.7062 * 0.70711 / 1.41421 = 6.3531
    got = t_interval([-1.0, -2.0])
    assert got is not None
    assert got.low == pytest.approx(-1.5 - 6.3531, abs=1e-4)
    assert got.high == pytest.approx(-1.5 + 6.3531, abs=1e-4)


def test_paired_interval_is_narrower_than_unpaired_when_seeds_share_luck() -> None:
    baseline = [80.0, 85.0, 90.0, 95.0]
    treatment = [79.0, 84.2, 88.9, 94.1]
    got = paired_difference(treatment, baseline)
    want = stats.ttest_rel(treatment, baseline).confidence_interval(0.95)
    assert got.t_interval is not None
    assert got.t_interval.low == pytest.approx(want.low)
    assert got.t_interval.high == pytest.approx(want.high)
    unpaired = stats.ttest_ind(treatment, baseline).confidence_interval(0.95)
    assert got.t_interval.high - got.t_interval.low < (unpaired.high - unpaired.low) / 5


def test_paired_difference_sign_is_treatment_minus_baseline() -> None:
    assert paired_difference([1.0, 1.0], [3.0, 4.0]).mean == -2.5


def test_paired_difference_without_pairs() -> None:
    got = paired_difference([float("nan"), None], [1.0, 2.0])
    assert (got.n, got.dropped, got.mean, got.t_interval) == (0, 2, None, None)
    assert "2 of 2 pairs" in got.note


def test_paired_difference_of_one_pair_has_no_interval_and_says_so() -> None:
    got = paired_difference([1.0, float("nan")], [2.0, 2.0])
    assert (got.n, got.dropped, got.mean) == (1, 1, -1.0)
    assert got.sd is None and got.t_interval is None and got.bootstrap is None
    assert "one pair: no interval" in got.note


def test_a_failed_baseline_drops_the_pair_too() -> None:
    got = paired_difference([1.0, 2.0, 3.0], [2.0, None, 5.0])
    assert got.differences == (-1.0, -2.0)


def test_identical_differences() -> None:
    got = paired_difference([1.5, 2.5, 3.5], [1.0, 2.0, 3.0])
    assert got.sd == 0.0
    assert got.t_interval is not None
    assert (got.t_interval.low, got.t_interval.high) == (0.5, 0.5)
    assert got.bootstrap is None
    assert "no width" in got.note


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(UserError, match="3 and 2 values"):
        paired_difference([1, 2, 3], [1, 2])


def test_bootstrap_is_repeatable_and_equals_scipy() -> None:
    values = [0.3, -0.2, 0.8, 0.5, 0.1, 0.9, -0.4]
    got = bootstrap_interval(values)
    assert got == bootstrap_interval(values)
    want = stats.bootstrap(
        (np.array(values),), np.mean, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    assert got is not None
    assert (got.low, got.high) == (pytest.approx(want.low), pytest.approx(want.high))


def test_bootstrap_of_two_is_there_and_is_their_range() -> None:
    got = bootstrap_interval([1.0, 2.0])
    assert got is not None and (got.low, got.high) == (1.0, 2.0)
    assert bootstrap_interval([1.0]) is None


def test_bootstrap_of_three_stays_within_the_data() -> None:
    got = bootstrap_interval([-1.0, -0.5, -1.5])
    assert got is not None
    assert -1.5 <= got.low < got.high <= -0.5


def test_median_ratio_pairs_before_dividing() -> None:
    # The second pair ran while the machine was three times slower: pairing removes it.
    got = median_ratio([2.0, 6.0, 2.2], [1.0, 3.0, 1.0])
    assert got.median == 2.0
    assert (got.low, got.high, got.n) == (2.0, 2.2, 3)
    assert got.interval is None


def test_median_ratio_interval_is_by_order_statistics() -> None:
    rng = np.random.default_rng(3)
    ratios = rng.lognormal(0.3, 0.1, 20)
    got = median_ratio(list(ratios), [1.0] * 20)
    want = stats.quantile_test(ratios, p=0.5).confidence_interval(0.95)
    assert got.interval is not None
    assert (got.interval.low, got.interval.high) == (want.low, want.high)
    # For 20 values these are the 6th smallest and the 15th (coverage 95.9 %).
    ordered = sorted(ratios)
    assert (got.interval.low, got.interval.high) == (ordered[5], ordered[14])


def test_median_ratio_edges() -> None:
    assert median_ratio([], []).median is None
    with pytest.raises(UserError, match="not above zero"):
        median_ratio([1.0], [0.0])
    with pytest.raises(UserError, match="give pairs"):
        median_ratio([1.0], [])


@pytest.mark.parametrize(("sd", "half"), [(0.5, 0.5), (0.3, 1.0), (2.0, 0.25), (0.31, 0.3)])
def test_pairs_for_half_width_is_the_smallest(sd: float, half: float) -> None:
    n = pairs_for_half_width(sd, half)

    def width(k: int) -> float:
        return float(stats.t.ppf(0.975, k - 1)) * sd / math.sqrt(k)

    assert width(n) <= half
    assert n == 2 or width(n - 1) > half


def test_pairs_for_half_width_refuses_nonsense() -> None:
    for sd, half in ((-1.0, 1.0), (float("nan"), 1.0), (1.0, 0.0)):
        with pytest.raises(UserError):
            pairs_for_half_width(sd, half)


def test_a_change_beyond_all_numbers_is_still_a_row() -> None:
    diverged = paired_change([math.exp(400), math.exp(106)], [8.0, 8.0])
    interval = diverged.t_interval
    assert interval is not None and math.isfinite(interval.high) and interval.low < 0
    vanished = paired_change([1e-300, 1e-300], [1e300, 1e300])
    first, second = judge([diverged, vanished], 0.5)
    assert first.p is not None and math.isfinite(first.p)
    assert second.p is None  # both changes are the smallest that per cents can tell: equal
    json.dumps([diverged.to_dict(), vanished.to_dict()], allow_nan=False)


def test_runs_that_diverged_beyond_squares_still_have_a_spread() -> None:
    for values in ([1e200, 100.0], [1e308, 1e308, 1e308], [1.7e308, 1e-300, -1.7e308]):
        found = spread(values)
        assert found.mean is not None and found.sd is not None
        assert math.isfinite(found.mean) and math.isfinite(found.sd)
        pairs = paired_difference(values, [0.0] * len(values))
        json.dumps(pairs.to_dict(), allow_nan=False)
    assert spread([1e200, 3e200]).sd == pytest.approx(math.sqrt(2) * 1e200)
    assert spread([1.0, 2.0, 4.0]).sd == math.sqrt(7 / 3)
