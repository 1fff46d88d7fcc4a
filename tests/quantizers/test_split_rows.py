"""SplitRows: the digits and row weights by hand, the mean of the estimate, what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from nybble.errors import UserError
from nybble.formats import Stochastic, get_format
from nybble.formats.oracle import decode, encode
from nybble.quantizers import Quantizer, RandomKey, SplitRows, oracle, quantize, random24

SYM = get_format("int4_sym")


def bits(call: int):  # type: ignore[no-untyped-def]
    return lambda stream, shape: random24(shape, RandomKey(seed=2, call=call, operand=8 * stream))


def scalar(rows: list[list[float]], call: int, limit: int, sample: bool) -> list[list[float]]:
    """The estimate, number by number (lengths and chances in double precision)."""
    scale = max(abs(x) for row in rows for x in row) / 98.0
    width = len(rows[0])
    digits: list[list[float]] = []
    lows: list[list[float]] = []
    for i, row in enumerate(rows):
        high, low = [], []
        for j, x in enumerate(row):
            y = x / scale
            d = max(-limit, min(limit, round(y / 14)))
            rest = y - 14 * d
            u = oracle.random24(i * width + j, RandomKey(seed=2, call=call, operand=0))
            value = decode(encode(rest, SYM, Stochastic(), u), SYM)
            high.append(14.0 * d)
            low.append(max(-limit, min(limit, value)))
        digits.append(high)
        lows.append(low)
    digits += lows
    if sample:
        lengths = [math.sqrt(sum(x * x for x in row)) for row in digits]
        chances = share(lengths, len(rows))
        for i, row in enumerate(digits):
            u = oracle.random24(i, RandomKey(seed=2, call=call, operand=8)) / 2**24
            weight = 1 / chances[i] if u < chances[i] else 0.0
            digits[i] = [x * weight for x in row]
    half = len(rows)
    return [
        [scale * (a + b) for a, b in zip(digits[i], digits[half + i], strict=True)]
        for i in range(half)
    ]


def share(scores: list[float], budget: float) -> list[float]:
    """min(1, t score) with the sum `budget`, by bisection on t."""
    low, high = 0.0, 1e9
    for _ in range(200):
        t = (low + high) / 2
        if sum(min(1.0, t * s) for s in scores) < budget:
            low = t
        else:
            high = t
    return [min(1.0, high * s) for s in scores]


@pytest.mark.parametrize("sample", [True, False])
@pytest.mark.parametrize("limit", [7, 6])
def test_equals_the_scalar_rule(limit: int, sample: bool) -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(12, 5, generator=g) * torch.randn(12, 1, generator=g).exp()
    for call in range(5):
        found = SplitRows(limit, sample).estimate(x, 1, bits(call))
        want = torch.tensor(scalar(x.tolist(), call, limit, sample))
        assert torch.allclose(found, want, rtol=1e-4, atol=1e-5)


def test_channels_may_lie_anywhere() -> None:
    x = torch.randn(2, 3, 4, 5)
    found = SplitRows().estimate(x, 1, bits(0))
    rows = SplitRows().estimate(x.permute(0, 2, 3, 1).reshape(-1, 3), 1, bits(0))
    assert torch.equal(found.permute(0, 2, 3, 1).reshape(-1, 3), rows)


def test_the_mean_is_the_gradient_and_half_of_the_rows_are_kept() -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(16, 6, generator=g) * torch.randn(16, 1, generator=g).exp()
    runs, total, square = 2000, torch.zeros(16, 6).double(), torch.zeros(16, 6).double()
    for call in range(runs):
        found = SplitRows().estimate(x, 1, bits(call)).double()
        total += found
        square += found**2
    mean = total / runs
    error = ((square / runs - mean**2) / runs).sqrt().clamp(min=1e-9)
    assert float(((mean - x) / error).square().mean()) < 1.4
    cut = sum(SplitRows(6, False).estimate(x, 1, bits(call)).double() for call in range(200)) / 200
    top = x.abs() == x.abs().max()
    assert float(cut[top].abs() / x[top].abs()) < 0.93  # 90 of 98


def test_bad_numbers_and_names() -> None:
    x = torch.ones(3, 2)
    x[1, 1] = math.nan
    assert SplitRows().estimate(x, 1, bits(0)).isnan().all()
    assert SplitRows().estimate(torch.zeros(3, 2), 1, bits(0)).tolist() == [[0.0, 0.0]] * 3
    assert SplitRows().estimate(torch.zeros(0, 2), 1, bits(0)).shape == (0, 2)
    with pytest.raises(UserError, match="limit"):
        SplitRows(5)
    with pytest.raises(UserError, match="no codes"):
        quantize(torch.ones(2, 2), Quantizer(get_format("int4_sym"), SplitRows()), key=RandomKey())
