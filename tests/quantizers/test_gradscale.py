"""GradScale: the state machine, its exactness, and what must never move it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.formats import get_format
from nybble.quantizers import GradScale, absolute_max, oracle
from nybble.quantizers.scales import gradscale
from nybble.quantizers.scales.gradscale import update, usable, warm_start

BAD = [0.0, -0.0, math.nan, math.inf]
TOPS = [64.0, 32.0, 6.0, 7.0, 448.0]
positive = st.floats(min_value=2.0**-149, max_value=2.0**127, width=32)


def one(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float32)


@pytest.fixture(params=["numbers", "tensors"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms: Python numbers on the CPU, tensors elsewhere."""
    if request.param == "tensors":
        monkeypatch.setattr(gradscale, "is_number", lambda x: False)


@given(positive, st.sampled_from(TOPS))
@settings(max_examples=200)
def test_warm_start_equals_oracle(statistic: float, top: float) -> None:
    expected = oracle.warm_start(statistic, top)
    assert float(warm_start(one(statistic), top)) == expected
    pair = warm_start(torch.tensor([statistic, 1.0], dtype=torch.float32), top)
    assert pair.tolist() == [expected, oracle.warm_start(1.0, top)]


@pytest.mark.parametrize("top", TOPS)
def test_warm_start_at_the_edges(path: None, top: float) -> None:
    for exponent in (-30, -1, 0, 5):
        exact = top * 2.0**exponent
        assert float(warm_start(one(exact), top)) == 2.0**-exponent
        above = float(torch.nextafter(one(exact), one(math.inf)))
        assert float(warm_start(one(above), top)) == 2.0 ** (-exponent - 1)
        below = float(torch.nextafter(one(exact), one(0.0)))
        assert float(warm_start(one(below), top)) == 2.0**-exponent


def test_warm_start_keeps_scale_and_inverse_normal(path: None) -> None:
    assert float(warm_start(one(2.0**-149), 64.0)) == 2.0**126
    assert float(warm_start(one(3e38), 64.0)) == 2.0**-122
    assert float(warm_start(one(3e38), 2.0**-10)) == 2.0**-126


@pytest.mark.parametrize("bad", BAD)
def test_bad_statistics_start_nothing(path: None, bad: float) -> None:
    assert float(warm_start(one(bad), 64.0)) == 1.0
    assert float(warm_start(one(bad), 64.0, default=8.0)) == 8.0
    assert not bool(usable(one(bad)))


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("mode", ["delayed", "immediate", "fit"])
def test_bad_gradients_never_move_it(path: None, bad: float, mode: str) -> None:
    for scale in (2.0**-126, 0.25, 1.0, 2.0**126):
        assert float(update(one(scale), one(bad), 64.0)) == scale
        used, kept = GradScale(mode).step(one(scale), one(bad), 64.0)  # type: ignore[arg-type]
        assert float(kept) == scale
        assert float(used) == scale
    used, kept = GradScale(mode).step(one(0.0), one(bad), 64.0)  # type: ignore[arg-type]
    assert (float(used), float(kept)) == (1.0, 0.0)


@given(positive, st.integers(-126, 126), st.sampled_from(TOPS))
@settings(max_examples=200)
def test_update_equals_oracle(scaled_max: float, exponent: int, top: float) -> None:
    scale = 2.0**exponent
    expected = oracle.gradscale_update(scale, scaled_max, top)
    assert float(update(one(scale), one(scaled_max), top)) == expected
    pair = update(one(scale).expand(2), one(scaled_max).expand(2), top)
    assert pair.tolist() == [expected] * 2


def test_the_target_is_half_open(path: None) -> None:
    assert float(update(one(1.0), one(64.0), 64.0)) == 1.0
    assert float(update(one(1.0), one(32.0), 64.0)) == 2.0
    assert float(update(one(1.0), torch.nextafter(one(32.0), one(99.0)), 64.0)) == 1.0
    assert float(update(one(1.0), torch.nextafter(one(64.0), one(99.0)), 64.0)) == 0.5


def test_the_ends_hold(path: None) -> None:
    assert float(update(one(2.0**126), one(1.0), 64.0)) == 2.0**126
    assert float(update(one(2.0**-126), one(1e30), 64.0)) == 2.0**-126


@pytest.mark.parametrize("k", [1, 5, 20, -1, -5, -20])
def test_a_drift_of_2_to_the_k_takes_k_steps(path: None, k: int) -> None:
    config = GradScale()
    statistic = one(0.9)
    scale = config.warm_start(statistic, 64.0)
    assert 32 < 0.9 * float(scale) <= 64
    drifted = statistic * 2.0**k
    for i in range(abs(k) + 3):
        assert (32 < float(drifted * scale) <= 64) == (i >= abs(k))
        _, scale = config.step(scale, drifted, 64.0)
    assert float(scale) == float(config.warm_start(drifted, 64.0))


def test_modes(path: None) -> None:
    scale, statistic = one(1.0), one(1.0)  # far below (32, 64]
    assert [float(v) for v in GradScale("delayed").step(scale, statistic, 64.0)] == [1.0, 2.0]
    assert [float(v) for v in GradScale("immediate").step(scale, statistic, 64.0)] == [2.0, 2.0]
    assert [float(v) for v in GradScale("fit").step(scale, statistic, 64.0)] == [64.0, 64.0]


@pytest.mark.parametrize("mode", ["delayed", "immediate", "fit"])
def test_the_first_gradient_is_fitted_exactly(path: None, mode: str) -> None:
    used, kept = GradScale(mode).step(one(0.0), one(0.75), 64.0)  # type: ignore[arg-type]
    assert float(used) == 64.0
    assert float(kept) == 64.0


@given(
    st.sampled_from(["delayed", "immediate", "fit"]),
    st.sampled_from(["fit", "one"]),
    st.one_of(st.just(0.0), st.integers(-126, 126).map(lambda e: 2.0**e)),
    st.one_of(positive, st.sampled_from(BAD)),
)
@settings(max_examples=300)
def test_numbers_and_tensors_step_alike(
    mode: str, start: str, scale: float, statistic: float
) -> None:
    config = GradScale(mode, start)  # type: ignore[arg-type]
    numbers = config.step(one(scale), one(statistic), 64.0)
    tensors = config.step(one(scale).expand(2), one(statistic).expand(2), 64.0)
    for number, tensor in zip(numbers, tensors, strict=True):
        assert tensor.tolist() == [float(number)] * 2


def test_shapes_and_the_state_are_left_alone() -> None:
    state = torch.tensor([4.0])
    moved = update(state, torch.tensor([1.0]), 64.0)
    assert moved.shape == (1,)
    assert state.tolist() == [4.0]
    used, kept = GradScale().step(state, torch.tensor([1.0]), 64.0)
    assert used.shape == kept.shape == (1,)


def test_fit_is_exact_and_poisons() -> None:
    x = torch.tensor([0.75, -0.1])
    fit = GradScale().fit(x, get_format("fp4_radix4"))
    assert float(fit.inv) == 64.0
    assert float(fit.scale) == 1 / 64
    assert math.isnan(float(GradScale().fit(x * math.inf, get_format("fp4_radix4")).scale))
    for empty in (torch.empty(0), torch.zeros(3)):
        assert float(GradScale().fit(empty, get_format("fp4_radix4")).scale) == 1.0
    again = GradScale.fit_scale(torch.tensor([0.25]))
    assert (float(again.scale), float(again.inv)) == (4.0, 0.25)
    assert again.scale.shape == ()


def test_absolute_max() -> None:
    assert float(absolute_max(torch.tensor([1.0, -3.0, 2.0]))) == 3.0
    assert float(absolute_max(torch.empty(0, 2))) == 0.0
    assert math.isnan(float(absolute_max(torch.tensor([1.0, math.nan]))))
    assert float(absolute_max(torch.tensor([1.0, -math.inf]))) == math.inf
    assert absolute_max(torch.ones(2, dtype=torch.float16)).dtype == torch.float32
    assert math.copysign(1.0, float(absolute_max(torch.tensor([0.0, -0.0])))) == 1.0


def test_wrong_use_is_a_user_error() -> None:
    with pytest.raises(UserError, match="mode"):
        GradScale("late")  # type: ignore[arg-type]
    assert GradScale("fit").short == "gradscale(fit)"
