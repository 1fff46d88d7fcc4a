"""Fixed-order sums: the oracle's tree, on numpy, torch, and every length around a row."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.quantizers import oracle, per_channel_sum, sums, tree_mean, tree_sum

LENGTHS = [0, 1, 2, 3, 5, 511, 512, 513, 1023, 1024, 1025, 2047, 2048, 2049, 3072, 3073, 5000]


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Float32 of many magnitudes, so that another order of adds gives other bits."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator)
    return x * torch.exp2(torch.randint(-12, 12, shape, generator=generator).float())


def same(a: float, b: float) -> bool:
    return oracle.bits(a) == oracle.bits(b)


def by_torch(x: torch.Tensor) -> torch.Tensor:
    """The path of other devices, on this one."""
    return sums._fold_lanes_torch(sums._sum_rows_torch(x, until=1)[:, 0])


@pytest.mark.parametrize("n", LENGTHS)
def test_tree_sum_equals_oracle(n: int) -> None:
    x = numbers(n)
    assert same(float(tree_sum(x)), oracle.tree_sum(x.tolist()))


def test_the_order_matters_for_these_numbers() -> None:
    # Otherwise the tests above could not fail.
    x = numbers(5000)
    assert float(tree_sum(x)) != float(tree_sum(x.flip(0)))


@pytest.mark.parametrize("n", [1, 1024, 1025, 2048, 2049, 3072, 4097, 65536, 65537, 70000, 200001])
@pytest.mark.parametrize("batch", [1, 3])
def test_numpy_torch_and_mixed_paths_agree(n: int, batch: int) -> None:
    x = numbers(batch, n)
    together = sums.tree_sum_last(x)
    small = torch.from_numpy(sums.tree_sum_rows(x.numpy()))
    assert torch.equal(together.view(torch.int32), small.view(torch.int32))
    assert torch.equal(together.view(torch.int32), by_torch(x).view(torch.int32))
    each = torch.stack([tree_sum(row) for row in x])
    assert torch.equal(together.view(torch.int32), each.view(torch.int32))


def test_threads_do_not_matter() -> None:
    x = numbers(300_000)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(float(tree_sum(x)))
    finally:
        torch.set_num_threads(before)
    assert same(*results)


def test_a_zero_sum_is_positive_zero() -> None:
    for n in (1, 7, 1024, 3000, 70_000):
        x = torch.full((n,), -0.0)
        assert oracle.bits(float(tree_sum(x))) == 0
        assert oracle.bits(float(by_torch(x.view(1, -1))[0])) == 0
    assert oracle.bits(float(tree_sum(torch.tensor([1.0, -1.0])))) == 0
    assert oracle.bits(float(tree_sum(torch.empty(0)))) == 0


@pytest.mark.parametrize("n", [3, 2000, 70_000])
def test_nan_and_infinity_arrive(n: int) -> None:
    for place in (0, n // 2, n - 1):
        x = torch.ones(n)
        x[place] = math.nan
        assert math.isnan(float(tree_sum(x)))
        x[place] = -math.inf
        assert float(tree_sum(x)) == -math.inf
        x[(place + 1) % n] = math.inf
        assert math.isnan(float(tree_sum(x)))


def test_the_input_is_not_modified() -> None:
    for n in (100, 5000, 100_000):
        x = numbers(n)
        before = x.clone()
        tree_sum(x)
        assert torch.equal(x, before)


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_per_channel_sum_equals_oracle(dim: int) -> None:
    x = numbers(3, 4, 110)
    result = per_channel_sum(x, dim)
    assert result.shape == (x.shape[dim],)
    for index, value in enumerate(result.tolist()):
        assert same(value, oracle.tree_sum(x.select(dim, index).reshape(-1).tolist()))


def test_per_channel_sum_of_nothing() -> None:
    assert per_channel_sum(torch.empty(3, 0), 0).tolist() == [0.0, 0.0, 0.0]
    assert per_channel_sum(torch.empty(0, 3), 0).shape == (0,)
    assert per_channel_sum(torch.empty(0, 3), 1).tolist() == [0.0, 0.0, 0.0]
    assert sums.tree_sum_last(torch.empty(0, 5)).shape == (0,)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_numbers_equal_oracle(values: list[float]) -> None:
    result = float(tree_sum(torch.tensor(values, dtype=torch.float32)))
    expected = oracle.tree_sum(values)
    assert same(result, expected) or (math.isnan(result) and math.isnan(expected))


def test_other_float_types_and_layouts() -> None:
    x = numbers(40, 50)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert same(float(tree_sum(x.to(dtype))), float(tree_sum(x.to(dtype).float())))
    assert same(float(tree_sum(x.T)), float(tree_sum(x.T.contiguous())))
    weight = torch.nn.Parameter(x)
    assert not tree_sum(weight).requires_grad
    assert same(float(tree_sum(weight)), float(tree_sum(x)))


def test_mean() -> None:
    x = numbers(777)
    assert same(float(tree_mean(x)), oracle.div(oracle.tree_sum(x.tolist()), 777.0))
    assert float(tree_mean(torch.empty(0))) == 0.0


def test_wrong_input_is_a_user_error() -> None:
    with pytest.raises(UserError, match="float"):
        tree_sum(torch.arange(3))
    with pytest.raises(UserError, match="dimension 2"):
        per_channel_sum(torch.zeros(2, 2), 2)


class Fake(torch.Tensor):
    """A subclass, which the numpy path must leave alone, like a tensor of another device."""


@pytest.mark.parametrize("n", [0, 5, 3000, 70_000])
def test_tensor_subclasses_and_other_devices_stay_in_torch(n: int) -> None:
    x = numbers(2, n)
    result = sums.tree_sum_last(x.as_subclass(Fake))
    assert result.shape == (2,)
    assert torch.equal(result.as_subclass(torch.Tensor), sums.tree_sum_last(x))
    assert sums.tree_sum_last(x.to("meta")).shape == (2,)
    assert tree_sum(x.to("meta")).device.type == "meta"
