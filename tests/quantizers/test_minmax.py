"""MinMax: the article's example, the oracle's bits, degenerate ranges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.formats import get_format
from nybble.quantizers import MinMax, Quantizer, Unit, oracle, quantize

INT4 = Quantizer(get_format("int4"), MinMax())


def same(a: float, b: float) -> bool:
    return oracle.bits(a) == oracle.bits(b) or (math.isnan(a) and math.isnan(b))


def check(x: torch.Tensor, name: str = "int4") -> None:
    low, high = (-8, 7) if name == "int4" else (0, 15)
    q = quantize(x, Quantizer(get_format(name), MinMax()))
    fit = oracle.minmax(x.reshape(-1).tolist(), low, high)
    assert same(float(q.scale), fit.scale)
    assert q.zero_point is not None
    assert same(float(q.zero_point), fit.zero or 0.0)
    codes, values = oracle.quantize(x.reshape(-1).tolist(), get_format(name), fit)
    assert q.codes().reshape(-1).tolist() == codes
    assert all(same(a, b) for a, b in zip(q.dequantize().view(-1).tolist(), values, strict=True))


def test_the_articles_example() -> None:
    x = torch.tensor([0.0, 0.3, 1.0])
    fit = MinMax().fit(x, get_format("int4"))
    scaled = fit.scaled(x).tolist()
    assert scaled[0] == -8.0
    assert scaled[1] == -3.5  # exactly, after two float32 roundings
    assert scaled[2] == pytest.approx(7.0, abs=1e-6)
    q = quantize(x, INT4)
    assert get_format("int4").integers(q.codes()).tolist() == [-8.0, -4.0, 7.0]
    assert q.integers().tolist() == [0.0, 4.0, 15.0]


@pytest.mark.parametrize("name", ["int4", "uint4"])
def test_ranges_equal_oracle(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for low, high in ((0.0, 1.0), (-1.0, 0.0), (-3.0, 5.0), (2.0, 3.0), (-4.0, -1.0), (-1e-3, 9.0)):
        check(low + (high - low) * torch.rand(100, generator=generator), name)


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20),
    st.sampled_from(["int4", "uint4"]),
)
@settings(max_examples=150)
def test_any_numbers_equal_oracle(values: list[float], name: str) -> None:
    check(torch.tensor(values, dtype=torch.float32), name)


def test_zero_is_represented_exactly() -> None:
    for x in (torch.tensor([0.0, -0.37, 1.9]), torch.tensor([0.0, 5.1]), torch.tensor([0.0, -2.7])):
        assert float(quantize(x, INT4).dequantize()[0]) == 0.0


def test_zero_constant_single_and_empty() -> None:
    for x in (torch.zeros(3), torch.empty(0), torch.empty(0, 3), torch.zeros(2, 0)):
        q = quantize(x, INT4)
        assert float(q.scale) == 1.0
        assert q.dequantize().shape == x.shape
        assert not bool(q.dequantize().any())
    for value in (3.3, -3.3, 1e-30):
        assert quantize(torch.full((4,), value), INT4).dequantize().tolist() == pytest.approx(
            [value] * 4
        )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_makes_everything_nan(bad: float) -> None:
    q = quantize(torch.tensor([1.0, bad, 2.0]), INT4)
    assert bool(q.dequantize().isnan().all())
    assert q.zero_point is not None
    assert bool(q.zero_point.isfinite())


def test_a_range_beyond_float32_is_nan() -> None:
    x = torch.tensor([3e38, -3e38])
    check(x)
    assert bool(quantize(x, INT4).dequantize().isnan().all())


def test_formats_without_all_integers_are_refused() -> None:
    for name in ("int4_sym", "fp4_radix4", "fp4_e2m1", "int4_zeroless", "fp16"):
        with pytest.raises(UserError, match="use int4 or uint4"):
            MinMax().fit(torch.ones(2), get_format(name))


def test_unit_keeps_the_numbers() -> None:
    x = torch.tensor([1.0, 0.1, -70000.0])
    q = quantize(x, Quantizer(get_format("bf16"), Unit()))
    assert torch.equal(q.dequantize(), x.to(torch.bfloat16).float())
    assert float(q.scale) == 1.0
    q = quantize(torch.tensor([math.nan, 1.0]), Quantizer(get_format("fp16"), Unit()))
    assert math.isnan(q.dequantize()[0])
    assert float(q.dequantize()[1]) == 1.0
    q = quantize(torch.tensor([math.nan, 1.0]), Quantizer(get_format("int4"), Unit()))
    assert bool(q.dequantize().isnan().all())
    assert (MinMax().short, Unit().short) == ("minmax", "unit")
