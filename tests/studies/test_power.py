"""Powers against simulation with fixed seeds and against each other, and the seeds they ask for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nybble.errors import UserError
from nybble.studies.power import (
    power_of_t_test,
    power_of_tost,
    seeds_for_t_test,
    seeds_for_tost,
)

TRIALS = 40_000
NOISE = 4 * math.sqrt(0.25 / TRIALS)  # four standard errors


def simulated(n: int, sd: float, difference: float) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(7).normal(difference, sd, size=(TRIALS, n))
    return draws.mean(1), draws.std(1, ddof=1) / math.sqrt(n)


@pytest.mark.parametrize(("n", "sd", "difference"), [(3, 1, 1.5), (8, 0.4, 0.3), (40, 2, 0.0)])
def test_t_test_against_simulation(n: int, sd: float, difference: float) -> None:
    mean, error = simulated(n, sd, difference)
    share = (abs(mean) > stats.t.ppf(0.975, n - 1) * error).mean()
    assert power_of_t_test(n, sd, difference) == pytest.approx(share, abs=NOISE)
    assert power_of_t_test(n, sd, -difference) == power_of_t_test(n, sd, difference)


@pytest.mark.parametrize(
    ("n", "sd", "margin", "difference"),
    [(2, 0.1, 0.5, 0.0), (5, 0.3, 0.3, 0.0), (12, 1, 1, 0.3), (12, 1, 1, -0.3), (60, 1, 0.5, 0.6)],
)
def test_equivalence_against_simulation(
    n: int, sd: float, margin: float, difference: float
) -> None:
    mean, error = simulated(n, sd, difference)
    half = stats.t.ppf(0.95, n - 1) * error
    share = ((mean - half > -margin) & (mean + half < margin)).mean()
    assert power_of_tost(n, sd, margin, difference) == pytest.approx(share, abs=NOISE)


def test_at_the_margin_the_power_is_the_level() -> None:
    assert power_of_tost(400, 0.1, 1.0, 1.0) == pytest.approx(0.05, abs=1e-4)
    assert power_of_t_test(5, 1.0, 0.0) == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize("sd", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_the_number_is_the_smallest(sd: float, power: float) -> None:
    n = seeds_for_tost(sd, 0.5, 0.1, power)
    assert power_of_tost(n, sd, 0.5, 0.1) >= power
    assert n == 2 or power_of_tost(n - 1, sd, 0.5, 0.1) < power
    n = seeds_for_t_test(sd, 0.5, power)
    assert power_of_t_test(n, sd, 0.5) >= power
    assert n == 2 or power_of_t_test(n - 1, sd, 0.5) < power


@pytest.mark.parametrize(("sd", "difference"), [(0.1, 0.54), (0.05, 0.4), (0.01, 0.3)])
def test_differences_of_many_sds(sd: float, difference: float) -> None:
    # scipy's lower tail is NaN for some of these shifts, and NaN is no power.
    powers = [power_of_t_test(n, sd, difference) for n in range(2, 40)]
    assert all(math.isfinite(power) for power in powers) and powers == sorted(powers)
    n = seeds_for_t_test(sd, difference)
    assert power_of_t_test(n, sd, difference) >= 0.8
    assert n == 2 or power_of_t_test(n - 1, sd, difference) < 0.8


def test_five_sds_need_more_than_two_seeds() -> None:
    mean, error = simulated(2, 0.1, 0.54)
    share = (abs(mean) > stats.t.ppf(0.975, 1) * error).mean()
    assert power_of_t_test(2, 0.1, 0.54) == pytest.approx(share, abs=NOISE)
    assert seeds_for_t_test(0.1, 0.54) == 3


def test_a_stricter_level_asks_for_more() -> None:
    assert seeds_for_tost(1.0, 1.0, alpha=0.01) > seeds_for_tost(1.0, 1.0)
    assert seeds_for_t_test(1.0, 1.0, alpha=0.01) > seeds_for_t_test(1.0, 1.0)


def test_no_spread_needs_the_fewest_seeds() -> None:
    assert seeds_for_tost(0.0, 0.1) == 2 and seeds_for_t_test(0.0, 0.1) == 2


def test_what_cannot_be_answered_says_why() -> None:
    with pytest.raises(UserError, match="not inside the margin"):
        seeds_for_tost(1.0, 0.5, 0.5)
    with pytest.raises(UserError, match="difference of 0"):
        seeds_for_t_test(1.0, 0.0)
    with pytest.raises(UserError, match="between 0 and 1"):
        seeds_for_tost(1.0, 0.5, power=1.0)
    with pytest.raises(UserError, match="sd must be"):
        seeds_for_tost(-1.0, 0.5)
    with pytest.raises(UserError, match="more than 100000"):
        seeds_for_tost(1.0, 0.001)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(UserError, match="must be a number"):
        seeds_for_t_test(1.0, bad)
    with pytest.raises(UserError, match="must be a number"):
        seeds_for_tost(1.0, bad)
    with pytest.raises(UserError, match="must be a number"):
        seeds_for_tost(1.0, 1.0, bad)
