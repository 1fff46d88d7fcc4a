"""Bit splitting and sampling: exact facts, the oracle's probabilities, unbiased means."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.quantizers import RandomKey, oracle_scales, random24
from nybble.quantizers.sampling import (
    bit_split,
    keep_probabilities,
    keep_weights,
    leverage_scores,
)


def data(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x * torch.exp(torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 1)))


def bits(*shape: int, call: int = 0) -> torch.Tensor:
    return random24(shape, RandomKey(seed=5, call=call))


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30),
    st.sampled_from([6, 7]),
)
@settings(max_examples=100)
def test_digits_are_four_bits_and_near(values: list[float], limit: int) -> None:
    x = torch.tensor([values], dtype=torch.float32)
    split = bit_split(x, bits(1, len(values)), limit)
    for digit in (split.hi, split.lo):
        assert torch.equal(digit, digit.round())
        assert float(digit.abs().max()) <= limit
    if limit == 7:
        # The lower digit is a stochastic integer: less than one of its units away.
        distance = (split.dequantize() - x).abs()
        assert bool((distance <= split.scale * 1.0001).all())
    rows = split.rows()
    assert rows.shape == (2, len(values))
    assert torch.equal((rows[:1] + rows[1:]) * split.scale, split.dequantize())


def mean_split(x: torch.Tensor, limit: int, calls: int) -> torch.Tensor:
    total = torch.zeros(x.shape, dtype=torch.float64)
    for call in range(calls):
        total += bit_split(x, bits(*x.shape, call=call), limit).dequantize()
    return (total / calls).float()


def test_the_split_is_unbiased_and_that_of_the_public_code_is_not() -> None:
    x = data(4, 40)
    x[0, 0] = 1.05 * x.abs().max()
    unit = float(x.abs().max()) / 98
    spread = 0.5 * unit / math.sqrt(2000)
    assert float((mean_split(x, 7, 2000) - x).abs().max()) < 5 * spread
    # The largest element becomes 14 * 6 + 6 = 90 units of 98.
    cut = mean_split(x, 6, 200)
    assert float(cut[0, 0] / x[0, 0]) == pytest.approx(90 / 98, rel=1e-4)


def test_the_split_has_a_much_smaller_error_than_four_bits() -> None:
    x = data(50, 50)
    split = bit_split(x, bits(50, 50)).dequantize()
    plain = bit_split(x, bits(50, 50)).hi * 14 * bit_split(x, bits(50, 50)).scale
    assert float((split - x).square().mean()) < float((plain - x).square().mean()) / 30


@given(
    st.lists(
        st.one_of(st.just(0.0), st.floats(2.0**-20, 2.0**20, width=32)), min_size=1, max_size=20
    ),
    st.floats(0.25, 20.0),
)
@settings(max_examples=150)
def test_probabilities_equal_the_oracle_s(scores: list[float], budget: float) -> None:
    found = keep_probabilities(torch.tensor(scores, dtype=torch.float32), budget)
    expected = oracle_scales.keep_probabilities(scores, budget)
    for p, want, score in zip(found.tolist(), expected, scores, strict=True):
        assert p == pytest.approx(float(want), rel=1e-4, abs=2.0**-23)
        assert 0 <= p <= 1
        assert (p > 0) == (score > 0)
        assert p * 2**24 == int(p * 2**24)


def test_probabilities_at_the_ends() -> None:
    assert keep_probabilities(torch.zeros(3), 2.0).tolist() == [0.0, 0.0, 0.0]
    assert keep_probabilities(torch.ones(3), 3.0).tolist() == [1.0, 1.0, 1.0]
    assert keep_probabilities(torch.ones(3), 9.0).tolist() == [1.0, 1.0, 1.0]
    assert keep_probabilities(torch.zeros(0), 1.0).tolist() == []
    tiny = keep_probabilities(torch.tensor([1e-30, 1.0]), 1.0)
    assert tiny.tolist() == [2.0**-24, 1.0]
    assert keep_probabilities(torch.tensor([3e38, 3e38]), 1.0).tolist() == [0.5, 0.5]


def test_the_mean_weight_is_one_over_all_random_bits() -> None:
    for p in (0.25, 2.0**-24, 0.3, 1.0):
        chosen = torch.ceil(torch.tensor(p) * 2.0**24) * 2.0**-24
        kept = int(float(chosen) * 2**24)  # of 2^24 equally likely integers
        edges = torch.tensor([0, kept - 1, min(kept, 2**24 - 1)])
        weights = keep_weights(chosen.expand(3), edges)
        assert bool((weights[:2] > 0).all())
        assert (float(weights[2]) > 0) == (kept == 2**24)
        assert kept / 2**24 * float(weights[0]) == pytest.approx(1.0, rel=1e-6)


def test_the_sampled_product_is_unbiased_and_better_than_uniform_sampling() -> None:
    g, x = data(16, 6), data(16, 5, seed=9)
    g[3] *= 10
    exact = g.T @ x
    calls = 600

    def run(uniform: bool) -> tuple[torch.Tensor, float, float]:
        total = torch.zeros(exact.shape, dtype=torch.float64)
        error = kept = 0.0
        for call in range(calls):
            split = bit_split(g, bits(16, 6, call=call))
            rows = split.rows() * split.scale
            scores = leverage_scores(rows, x)
            p = keep_probabilities((scores > 0).float() if uniform else scores, 16.0)
            weights = keep_weights(p, bits(32, call=calls + call))
            found = (rows * weights[:, None]).T @ torch.cat([x, x])
            total += found
            error += float((found - exact).square().mean()) / calls
            kept += float((weights > 0).sum()) / calls
        return (total / calls).float(), error, kept

    mean, error, kept = run(uniform=False)
    assert kept == pytest.approx(16.0, rel=0.02)  # half of the 32 rows
    left = float((mean - exact).square().mean())
    assert left < 3 * error / calls
    _, uniform_error, _ = run(uniform=True)
    assert error < uniform_error / 2


def test_what_is_not_finite_and_wrong_use() -> None:
    for bad in (math.nan, math.inf):
        split = bit_split(torch.tensor([[1.0, bad]]), bits(1, 2))
        assert bool(split.dequantize().isnan().all())
    assert bit_split(torch.zeros(2, 3), bits(2, 3)).dequantize().tolist() == [[0.0] * 3] * 2
    assert bit_split(torch.zeros(0, 3), bits(0, 3)).rows().shape == (0, 3)
    with pytest.raises(UserError, match="limit must be 7"):
        bit_split(torch.ones(1, 1), bits(1, 1), 5)
    with pytest.raises(UserError, match="one random integer an element"):
        bit_split(torch.ones(1, 2), bits(1, 1))
    with pytest.raises(UserError, match="one random integer a row"):
        keep_weights(torch.ones(2), bits(1))
    for scores in (torch.ones(1, 2), torch.tensor([-1.0]), torch.tensor([math.nan])):
        with pytest.raises(UserError, match="a vector of finite scores"):
            keep_probabilities(scores, 1.0)
    for budget in (0.0, math.nan, math.inf):
        with pytest.raises(UserError, match="budget"):
            keep_probabilities(torch.ones(2), budget)
    with pytest.raises(UserError, match="two matrices"):
        leverage_scores(torch.ones(3, 2), torch.ones(2, 2))
