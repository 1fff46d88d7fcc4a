"""Minima and shrinkages against closed forms and against rounding written out in Python."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from nybble.errors import UserError
from nybble.studies.views import ViewConfig, measure_rounding_factor
from nybble.studies.views.rounding_factor import (
    curves,
    figures,
    least_error,
    log_uniform,
    mean_ratio_log_uniform,
    no_shrinkage,
    relative_error_log_uniform,
    uniform,
)

SMALL = ViewConfig(model="cnn", steps=2, batch_size=16)


def rounded(x: float, factor: float) -> float:
    """The rule by logarithms: n = floor(log4(f x)), clamped; below the first threshold 0."""
    n = min(math.floor(math.log(factor * x, 4)), 3)
    return 4.0**n if n >= -3 else 0.0


@given(st.floats(1.1, 3.0), st.integers(0, 10_000))
def test_figures_by_hand(factor: float, seed: int) -> None:
    factor = round(factor, 3)
    # Odd numbers over 1000 never meet a threshold.
    x = torch.rand(20, generator=torch.Generator().manual_seed(seed)).mul_(2).exp_().div_(1.0009)
    pairs = [(v, rounded(v, factor)) for v in x.tolist()]
    power = sum(v * v for v, _ in pairs)
    found = figures(torch.cat([x, torch.zeros(3)]), factor)
    assert found["relative_error"] == pytest.approx(sum((q / v - 1) ** 2 for v, q in pairs) / 20)
    assert found["error"] == pytest.approx(sum((q - v) ** 2 for v, q in pairs) / power)
    assert found["mean_ratio"] == pytest.approx(sum(q / v for v, q in pairs) / 20)
    assert found["projection"] == pytest.approx(sum(q * v for v, q in pairs) / power)


@pytest.mark.parametrize("factor", [1.2, 1.6, 1.848, 2.5])
def test_log_uniform_data_follow_the_closed_forms(factor: float) -> None:
    found = figures(log_uniform(), factor)
    assert found["mean_ratio"] == pytest.approx(mean_ratio_log_uniform(factor), abs=1e-3)
    assert found["relative_error"] == pytest.approx(relative_error_log_uniform(factor), abs=1e-3)
    t = 4 / factor
    assert found["projection"] == pytest.approx((t - 1 + 4 * (4 - t)) / 7.5, abs=1e-3)


@pytest.mark.parametrize("factor", [1.2, 1.6, 1.848, 2.5])
def test_uniform_data_follow_integrals(factor: float) -> None:
    t = 4 / factor

    def mean(of) -> float:
        low = quad(lambda x: of(1.0, x), 1, t)[0]
        return (low + quad(lambda x: of(4.0, x), t, 4)[0]) / 3

    found = figures(uniform(), factor)
    assert found["relative_error"] == pytest.approx(mean(lambda q, x: (q / x - 1) ** 2), abs=1e-3)
    assert found["mean_ratio"] == pytest.approx((math.log(t) + 4 * math.log(4 / t)) / 3, abs=1e-3)
    power = mean(lambda q, x: x * x)
    assert found["projection"] == pytest.approx(mean(lambda q, x: q * x) / power, abs=1e-3)
    closed = (t**2 - 1 + 4 * (16 - t**2)) / (2 * 63 / 3)
    assert found["projection"] == pytest.approx(closed, abs=1e-3)


@pytest.mark.parametrize("data", ["uniform", "log-uniform", "steep", "falling"])
def test_the_errors_are_least_at_1_6_whatever_the_density(data: str) -> None:
    inside = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000
    x = {
        "uniform": uniform(),
        "log-uniform": log_uniform(),
        "steep": (1 + 3 * inside.sqrt()).float(),
        "falling": (1 + 3 * inside**2).float(),
    }[data]
    found = curves(x)["minimum"]
    assert least_error() == 1.6
    assert found["relative_error"] == pytest.approx(1.6, abs=0.002)
    assert found["error"] == pytest.approx(1.6, abs=0.002)


def test_below_the_smallest_level_the_nearer_one_changes_at_half() -> None:
    x = ((torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000 / 64).float()
    assert curves(x)["minimum"]["relative_error"] == pytest.approx(2.0, abs=0.002)


def test_where_log_uniform_data_do_not_shrink() -> None:
    found = curves(log_uniform())["unbiased"]
    assert no_shrinkage() == pytest.approx(4 * math.log(4) / 3)
    assert found["mean_ratio"] == pytest.approx(no_shrinkage(), abs=1e-3)
    assert found["projection"] == pytest.approx(1.6, abs=1e-3)
    assert mean_ratio_log_uniform(1.6) == pytest.approx(0.8656, abs=1e-4)


def test_the_closed_form_is_the_integral() -> None:
    for factor in (1.3, 1.6, 2.2):
        t = 4 / factor
        low = quad(lambda x: (1 / x - 1) ** 2 / x, 1, t)[0]
        high = quad(lambda x: (4 / x - 1) ** 2 / x, t, 4)[0]
        closed = (low + high) / math.log(4)
        assert relative_error_log_uniform(factor) == pytest.approx(closed, rel=1e-9)


def test_nothing_has_no_minimum() -> None:
    found = curves(torch.zeros(4))
    assert found["minimum"] == {"relative_error": None, "error": None}
    assert found["elements"] == 0 and found["zeroed_at_1.6"] is None
    assert set(found["mean_ratio"]) == {None}


@pytest.mark.parametrize("recipe", ["sun2020", "fp32"])
def test_the_view(recipe: str) -> None:
    config = ViewConfig(**{**vars(SMALL), "recipe": recipe})
    found = measure_rounding_factor(config, layer="features.4")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == measure_rounding_factor(config, layer="features.4")
    assert [one["name"] for one in found["sets"]] == [
        "log-uniform",
        "uniform in value",
        "gradients",
    ]
    log, flat, gradients = found["sets"]
    assert log["minimum"]["relative_error"] == pytest.approx(1.6, abs=0.002)
    assert flat["minimum"]["relative_error"] == pytest.approx(1.6, abs=0.002)
    # Gradients reach below the grid, where the nearer level changes at factor 2.
    assert 1.599 <= gradients["minimum"]["relative_error"] <= 2.001
    assert gradients["minimum"]["error"] == pytest.approx(1.6, abs=0.03)
    assert gradients["zeroed_at_1.6"] > 0 and found["layers"] == ["features.4"]


def test_a_layer_that_does_not_exist() -> None:
    with pytest.raises(UserError, match=r"Did you mean 'features\.4'"):
        measure_rounding_factor(SMALL, layer="feature.4")
