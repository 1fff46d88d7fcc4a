"""LSQ: formulas against the oracle, the gradient against a numerical one, learning a step."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.formats import get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import LSQ, Quantizer, get_quantizer, oracle, oracle_scales, quantize

RANGES = {
    "int4": (-8.0, 7.0),
    "int4_sym": (-7.0, 7.0),
    "uint4": (0.0, 15.0),
    "int8": (-128.0, 127.0),
}


def same(a: float, b: float) -> bool:
    return oracle.bits(a) == oracle.bits(b) or (math.isnan(a) and math.isnan(b))


def data(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", list(RANGES))
@pytest.mark.parametrize("size", [1, 7, 1500])
def test_equals_oracle(name: str, size: int) -> None:
    low, high = RANGES[name]
    format = get_format(name)
    x, grad = 3 * data(size), data(size, seed=1)
    numbers = x.tolist()
    step = float(LSQ().initial_alpha(x, format))
    mean = oracle.div(oracle.tree_sum([abs(v) for v in numbers]), float(size))
    assert same(step, oracle.div(oracle.add(mean, mean), oracle.f32(high**0.5)))
    for chosen in (step, 0.3, -1.0, 0.0):
        alpha = torch.tensor([chosen])
        fit = LSQ().fit_alpha(alpha, format)
        scale = max(float(alpha), 2.0**-126)
        assert float(fit.scale) == scale
        assert float(fit.inv) == oracle.div(1.0, scale)
        assert fit.bound is not None
        assert float(fit.bound) == oracle.mul(scale, high)
        dx, dstep = LSQ().gradient(x, alpha, grad, format)
        expected = oracle_scales.lsq_gradient(
            numbers, float(alpha), grad.tolist(), format, low, high
        )
        assert dx.tolist() == expected[0]
        assert same(float(dstep), expected[1])


@given(
    st.lists(
        st.tuples(st.floats(-(2.0**20), 2.0**20, width=32), st.floats(-8, 8, width=32)),
        min_size=1,
        max_size=30,
    ),
    st.floats(2.0**-10, 2.0**10, width=32),
    st.sampled_from(["int4", "uint4"]),
)
@settings(max_examples=80)
def test_any_numbers_equal_oracle(pairs: list[tuple[float, float]], step: float, name: str) -> None:
    x, grad = (torch.tensor(numbers, dtype=torch.float32) for numbers in zip(*pairs, strict=True))
    format = get_format(name)
    dx, dstep = LSQ().gradient(x, torch.tensor([step]), grad, format)
    want = oracle_scales.lsq_gradient(x.tolist(), step, grad.tolist(), format, *RANGES[name])
    assert dx.tolist() == want[0]
    assert same(float(dstep), want[1])


def test_an_element_on_an_end_is_beyond_it() -> None:
    x = torch.tensor([7.0, -8.0, 6.75, 7.25])
    dx, _ = LSQ().gradient(x, torch.ones(1), torch.ones(4), get_format("int4"))
    assert dx.tolist() == [0.0, 0.0, 1.0, 0.0]
    _, top = LSQ().gradient(x[:1], torch.ones(1), torch.ones(1), get_format("int4"))
    assert float(top) == pytest.approx(7.0 / math.sqrt(7.0))
    _, counted = LSQ().gradient(x[:1], torch.ones(1), torch.ones(1), get_format("int4"), count=28)
    assert float(counted) == pytest.approx(7.0 / math.sqrt(28 * 7.0))


def test_the_step_gradient_is_that_of_the_straight_through_estimator() -> None:
    """By autograd, the rounding passing its gradient, as the paper derives it."""
    x = (2 * data(400)).requires_grad_()
    step = torch.tensor(0.4, requires_grad=True)
    v = (x / step).clamp(-8, 7)
    y = (v + (v.round() - v).detach()) * step
    grad = data(400, seed=2)
    y.backward(grad)
    dx, dstep = LSQ().gradient(x, step, grad, get_format("int4"))
    assert x.grad is not None
    assert step.grad is not None
    assert torch.allclose(dx, x.grad, atol=1e-6)
    assert float(dstep) == pytest.approx(float(step.grad) / math.sqrt(400 * 7), rel=1e-4)


def test_the_step_learns_its_way_to_a_small_error() -> None:
    x, format = data(4000), get_format("int4_sym")
    step = torch.tensor([2.0])

    def error(step: torch.Tensor) -> float:
        return float(
            (quantize(x, Quantizer(format, LSQ()), alpha=step).dequantize() - x).square().mean()
        )

    before = error(step)
    for _ in range(300):
        y = quantize(x, Quantizer(format, LSQ()), alpha=step).dequantize()
        _, slope = LSQ().gradient(x, step, 2 * (y - x), format)
        step = step - 0.003 * slope
    best = min(error(torch.tensor([0.25 + 0.01 * k])) for k in range(30))
    assert best * 1.05 > error(step)
    assert error(step) < before / 10


def test_what_is_not_finite_and_empty() -> None:
    quantizer = Quantizer(get_format("int4"), LSQ())
    for bad in (math.nan, math.inf, -math.inf):
        x = torch.tensor([1.0, bad])
        assert bool(quantize(x, quantizer).dequantize().isnan().all())
        alpha = torch.tensor([bad])
        assert bool(quantize(torch.ones(2), quantizer, alpha=alpha).dequantize().isnan().all())
    nan = quantize(torch.tensor([1.0, math.nan]), quantizer, alpha=torch.ones(1))
    assert bool(nan.dequantize().isnan().all())
    assert quantize(torch.zeros(0), quantizer).dequantize().shape == (0,)
    assert float(quantize(torch.zeros(3), quantizer).scale) == 1.0


def test_names_json_and_errors() -> None:
    quantizer = Quantizer(get_format("int4"), LSQ())
    assert quantizer.short == "int4·lsq"
    assert get_quantizer("int4:lsq") == quantizer
    assert Quantizer.from_dict(json.loads(json.dumps(quantizer.to_dict()))) == quantizer
    with pytest.raises(UserError, match="not of 'w20'"):
        LSQ().fit(torch.ones(3), get_format("w20"))
    with pytest.raises(UserError, match="1 step to learn, got 2"):
        quantize(torch.ones(3), quantizer, alpha=torch.ones(2))
    with pytest.raises(UserError, match="LSQ learns steps of the output Gemm's operands"):
        LayerSpec(grad_input_grad=quantizer)


@pytest.mark.parametrize("count", [None, 0, 7])
def test_a_batch_of_nothing_moves_no_step(count: int | None) -> None:
    none = torch.empty(0, 4)
    dx, dstep = LSQ().gradient(none, torch.ones(1), none, get_format("int4"), count=count)
    assert dx.shape == (0, 4) and dstep.tolist() == [0.0]
