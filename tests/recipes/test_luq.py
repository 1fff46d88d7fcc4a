"""LUQ: its quantiser against the scalar oracle, and the paper's claims for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.ops.test_layer_slots_oracle import columns, dot, equal, quantized

import nybble
from nybble.formats.oracle import decode, encode
from nybble.nn.function import LayerCall
from nybble.ops.geometry import Geometry
from nybble.ops.reference.operand import GRAD_INPUT_GRAD, GRAD_WEIGHT_GRAD, SAMPLE
from nybble.ops.spec import SLOTS, LayerSpec
from nybble.quantizers import RandomKey
from nybble.quantizers import oracle as scalar
from nybble.recipes import get_recipe

SEED, LAYER, CALL = 5, 2, 9


def test_six_slots_of_four_bits_with_fifteen_values_of_a_gradient() -> None:
    spec = get_recipe("luq").spec
    assert {spec.slot(name).format.bits for name in SLOTS} == {4}
    values = set(spec.grad_input_grad.format.values())
    assert len(values) == 15 and max(values) / min(v for v in values if v > 0) == 2**6
    x = torch.randn(1000)
    q = nybble.quantize(x, spec.grad_input_grad, key=RandomKey(seed=1)).dequantize()
    found = q.abs().unique()
    alpha = x.abs().max() / 2**6
    assert len(found) <= 8
    torch.testing.assert_close(found[1:], alpha * 2.0 ** torch.arange(7), rtol=1e-6, atol=0)


def test_the_expected_value_is_the_number_from_zero_to_the_maximum() -> None:
    """Unbiased for every number, those just above a level included, where rounding after added
    noise is not; and in the underflow, where |g| < alpha."""
    quantizer = get_recipe("luq").spec.grad_input_grad
    x = torch.cat([torch.linspace(-64, 64, 257), 2.0 ** torch.arange(7) * 1.001, torch.rand(50)])
    total = torch.zeros_like(x, dtype=torch.float64)
    square = torch.zeros_like(total)
    trials = 3000
    for seed in range(trials):
        q = nybble.quantize(x, quantizer, key=RandomKey(seed=seed)).dequantize().double()
        total += q
        square += q * q
    mean = total / trials
    error = (square / trials - mean * mean).clamp(min=1e-12).sqrt() / trials**0.5
    assert ((mean - x).abs() / error.clamp(min=1e-4)).max() < 5


def gradient(dy: np.ndarray, scale: scalar.OracleFit, operand: int, fmt: object, rounding: object):
    key = RandomKey(SEED, 0, LAYER, CALL, operand)
    width = dy.shape[1]
    ints = [
        [
            round(
                decode(
                    encode(
                        scalar.mul(float(v), scale.inv),
                        fmt,
                        rounding,
                        scalar.random24(m * width + j, key),
                    ),
                    fmt,
                )
                / fmt.unit
            )
            for j, v in enumerate(row)
        ]
        for m, row in enumerate(dy)
    ]
    return ints, scalar.mul(scale.scale, fmt.unit)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("samples", [1, 2, 4])
@pytest.mark.parametrize("switches", ["", "+pair=each", "+scale=hindsight", "+power_of_two=yes"])
def test_a_linear_layer_equals_the_oracle(switches: str, samples: int, backend: str) -> None:
    if backend == "native" and nybble.ops.native.core()[0] is None:
        pytest.skip("no compiled module")
    spec = get_recipe(f"luq:samples={samples}{switches}").spec
    rng = np.random.default_rng(samples)
    m, k, n = 6, 19, 4
    x, w = rng.normal(size=(m, k)).astype(np.float32), rng.normal(size=(n, k)).astype(np.float32)
    dy = (rng.normal(size=(m, n)) * np.exp(rng.normal(0, 2, (m, n)))).astype(np.float32)
    state = 3.5  # of hindsight: some numbers saturate
    call = LayerCall(spec, Geometry("linear"), "exact", backend, SEED, LAYER, CALL)
    _, saved = torch.ops.nybble.layer_forward(
        torch.from_numpy(x), torch.from_numpy(w), None, None, *call.arguments(), True
    )
    dx, dw, _, amax, used = torch.ops.nybble.layer_backward(
        torch.from_numpy(dy), None, None, saved, torch.tensor([state]), [m, k], [n, k],
        *call.arguments(), [False, False], [True, True, False],
    )  # fmt: skip

    qx, qw = quantized(spec.output_input, x, []), quantized(spec.output_weight, w, [])
    slot = spec.grad_input_grad
    top = float(np.abs(dy).max())
    if "hindsight" in switches:
        fit = scalar.absmax([state], slot.format.max_value)
        assert amax.item() == top and used.item() == state
    elif "power" in switches:
        inv = scalar.warm_start(top, slot.format.max_value)
        fit = scalar.OracleFit(scalar.div(1.0, inv), inv)
    else:
        fit = scalar.absmax([top], slot.format.max_value)
        assert not amax.numel() and not used.numel()
    g, scale = gradient(dy, fit, GRAD_INPUT_GRAD, slot.format, slot.rounding)
    assert equal(
        dx,
        [[dot(row, column, scale, qw.multiplier[0]) for column in columns(qw.ints)] for row in g],
    )
    products = []
    for sample in range(samples):
        operand = GRAD_WEIGHT_GRAD + SAMPLE * sample
        if sample == 0 and "each" not in switches:
            operand = GRAD_INPUT_GRAD
        g, scale = gradient(dy, fit, operand, slot.format, slot.rounding)
        products.append(
            [
                [dot(row, column, scale, qx.multiplier[0]) for column in columns(qx.ints)]
                for row in columns(g)
            ]
        )
    expected = []
    for j in range(n):
        row = []
        for i in range(k):
            total = products[0][j][i]
            for product in products[1:]:
                total = scalar.add(total, product[j][i])
            row.append(scalar.mul(total, scalar.f32(1.0 / samples)))
        expected.append(row)
    assert equal(dw, expected)


def test_pairs_that_mean_nothing_are_refused() -> None:
    spec = get_recipe("luq").spec
    for wrong, match in (
        ({"samples": 0}, "samples is 0"),
        ({"samples": 99}, "samples is 99"),
        ({"samples": True}, "samples is True"),
        ({"gradient_pair": "both"}, "gradient_pair"),
        ({"gradient_pair": "mean", "samples": 2}, "samples=2"),
        ({"grad_weight_grad": None}, "must be equal"),
        ({"grad_weight_grad": None, "gradient_pair": "random"}, "both gradient slots"),
        ({"grad_weight_grad": None, "gradient_pair": "each", "samples": 2}, "Stochastic"),
    ):
        values = {**{name: getattr(spec, name) for name in SLOTS}, "gradient_pair": "one", **wrong}
        with pytest.raises(nybble.UserError, match=match):
            LayerSpec(**values)
    with pytest.raises(nybble.UserError, match="scale=hindsight"):
        get_recipe("luq:eta=0.5")


def test_it_trains_a_small_network() -> None:
    """Loss falls, and every 4-bit layer gets gradients."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32), torch.nn.ReLU(),
        torch.nn.Linear(32, 1),
    )  # fmt: skip
    nybble.convert(model, "luq:samples=2+scale=hindsight")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x = torch.randn(256, 8)
    y = x[:, :1] * x[:, 1:2]
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        (loss * 1024).backward()
        for p in model.parameters():
            p.grad /= 1024
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    for _, layer in nybble.quantized_layers(model):
        assert layer.weight.grad.count_nonzero() > layer.weight.numel() / 2
