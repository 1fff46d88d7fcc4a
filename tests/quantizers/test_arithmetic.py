"""The float32 formulas of the scales: numbers, arrays and tensors give the oracle's bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from nybble.quantizers import oracle
from nybble.quantizers.scales import arithmetic
from nybble.quantizers.scales.arithmetic import (
    clamp,
    divide,
    finite,
    inverse_of,
    round_even,
    scale_of,
    select,
    square_root,
    times,
    to_array,
    to_tensor,
)

HARD = [
    *(0.0, 1.0, 0.1, 3.0, 2.5, 7.5, 1e-45, 1e-40, 2.0**-126, 2.0**-127, 3.4e38, 1.7e38, 1e30),
    *(math.inf, math.nan),
]


def operands() -> list[float]:
    x = torch.rand(200, generator=torch.Generator().manual_seed(0)) * 100
    return [float(v) for v in torch.cat([torch.tensor(HARD), x])]


def same(a: float, b: float) -> bool:
    return oracle.bits(a) == oracle.bits(b) or (math.isnan(a) and math.isnan(b))


def three_ways(formula: Callable[[Any], Any], expected: Callable[[float], float]) -> None:
    values = operands()
    tensor = torch.tensor(values, dtype=torch.float32)
    with np.errstate(all="ignore"):
        as_tensor = formula(tensor).tolist()
        as_array = formula(tensor.numpy()).tolist()
        as_number = [float(formula(np.float32(v))) for v in values]
    wanted = [expected(v) for v in values]
    for got in (as_tensor, as_array, as_number):
        assert len(got) == len(wanted)
        assert all(same(a, b) for a, b in zip(got, wanted, strict=True))


def test_divide_equals_oracle() -> None:
    three_ways(lambda a: divide(a, 7.0), lambda v: oracle.div(v, 7.0))
    three_ways(lambda a: divide(a, 0.1), lambda v: oracle.div(v, oracle.f32(0.1)))


def test_times_equals_oracle() -> None:
    three_ways(lambda a: times(a, 12.035), lambda v: oracle.mul(v, oracle.f32(12.035)))


def test_square_root_equals_oracle() -> None:
    three_ways(square_root, oracle.sqrt)


def test_square_root_of_many_numbers_is_the_machines() -> None:
    # torch's own float32 root fails this.
    x = torch.rand(200_000, generator=torch.Generator().manual_seed(1))
    x = x * torch.exp2(torch.randint(-140, 120, x.shape).float())
    assert np.array_equal(square_root(x).numpy(), np.sqrt(x.numpy()))


def test_scale_and_inverse_equal_oracle() -> None:
    for levels in (7.0, 7.5, 15.0, 64.0):
        three_ways(lambda a, n=levels: scale_of(a, n), lambda v, n=levels: oracle._scale(v, n))
    three_ways(
        lambda a: inverse_of(scale_of(a, 7.0)), lambda v: oracle.div(1.0, oracle._scale(v, 7.0))
    )


def test_round_even_and_clamp() -> None:
    three_ways(
        lambda a: round_even(clamp(a, -8.0, 7.0)),
        lambda v: v if math.isnan(v) else float(round(min(max(v, -8.0), 7.0))),
    )


def test_select_and_finite() -> None:
    three_ways(
        lambda a: select(finite(a), 1.0, select(a > 0, a, 2.0)),
        lambda v: 1.0 if math.isfinite(v) else v if v > 0 else 2.0,
    )


def test_crossing_over() -> None:
    number = to_array(torch.tensor(1.5))
    assert isinstance(number, np.float32)
    assert torch.equal(to_tensor(number), torch.tensor(1.5))
    array = to_array(torch.ones(2))
    assert isinstance(array, np.ndarray)
    assert torch.equal(to_tensor(array), torch.ones(2))
    parameter = to_array(torch.nn.Parameter(torch.ones(2)))
    assert isinstance(parameter, np.ndarray)
    meta = torch.ones(2, device="meta")
    assert to_tensor(to_array(meta)).device.type == "meta"


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-30])
def test_constants_are_rounded_to_float32_first(value: float) -> None:
    tensor = arithmetic._constant(torch.ones(1), value)
    assert tensor.dtype == torch.float32
    assert float(tensor) == oracle.f32(value) == float(arithmetic._constant(np.float32(1), value))
