"""Time loops with block scales, transforms and the other extras equal a loop of single layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.ops.composite_oracle import Oracle, gradients
from tests.ops.test_composite import SPECS
from torch import Tensor, nn

import nybble
from nybble.nn.recurrent import attach_gemm
from nybble.ops.geometry import Geometry
from nybble.ops.spec import DGE, LayerSpec
from nybble.quantizers import RandomKey, random24

LINEAR = Geometry("linear")
STEPS, BATCH, SIZE = 4, 3, 20
NAMES = ["nv", "nv-tile", "mx-headroom", "free-same", "turned", "turned-same", "turned-double"]


def network(spec: LayerSpec) -> nn.RNN:
    """Only its hidden-hidden Gemm is quantised; relu, so that the loop is simple to write."""
    torch.manual_seed(0)
    net = nn.RNN(SIZE, SIZE, nonlinearity="relu", bias=False)
    for index, (part, its) in enumerate((("ih_l0", LayerSpec()), ("hh_l0", spec))):
        attach_gemm(net, part).attach_(
            its, name=part, rule="test", backend="reference", accumulate="fast", seed=3,
            index=index, inputs=None,
        )  # fmt: skip
    return net


def loop(spec: LayerSpec, net: nn.RNN, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The outputs of every step and the hidden states that were multiplied, step by step."""
    oracle = Oracle(replace(spec, outliers=None), LINEAR, seed=3, layer=1, call=1)
    weight = net.weight_hh_l0.detach()
    qw = oracle.values(weight, "output_weight")
    own = oracle.turn(qw, spec.output_weight, "output_weight", back=True)
    h, seen, outputs = x.new_zeros(BATCH, SIZE), [], []
    for t in range(STEPS):
        seen.append(h)
        inner, outer = h, torch.zeros_like(h)
        if spec.outliers is not None:
            ordered = h.flatten().sort().values
            rank = -(-9 * (len(ordered) - 1) // 10)
            inner = h.clamp(ordered[len(ordered) - 1 - rank], ordered[rank])
            outer = h - inner
        gh = oracle.values(inner, "output_input") @ qw.t() + outer @ own.t()
        h = (x[t] @ net.weight_ih_l0.detach().t() + gh).relu()
        outputs.append(h)
    return torch.stack(outputs), seen


@pytest.mark.parametrize("outliers", [None, 0.9])
@pytest.mark.parametrize("name", NAMES)
def test_forward_is_a_loop_of_layers(name: str, outliers: float | None) -> None:
    spec = replace(SPECS[name], outliers=outliers)
    net, x = network(spec), torch.randn(STEPS, BATCH, SIZE)
    expected, _ = loop(spec, net, x)
    torch.testing.assert_close(net(x)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("extra", [{}, {"outliers": 0.9}, {"weight_gradient": DGE()}])
@pytest.mark.parametrize("name", NAMES)
def test_grad_weight_is_that_of_the_whole_sequence(name: str, extra: dict[str, Any]) -> None:
    """One step: the loop is a layer."""
    spec = replace(SPECS[name], **extra)
    plain = replace(spec, outliers=None, weight_gradient=None)
    net = network(spec)
    x = torch.randn(1, STEPS * BATCH, SIZE, generator=torch.Generator().manual_seed(1))
    h0 = torch.randn(1, STEPS * BATCH, SIZE, generator=torch.Generator().manual_seed(2))
    net(x, h0)[0].square().sum().backward()
    found = net.weight_hh_l0.grad
    layer = nybble.convert(
        nn.Linear(SIZE, SIZE, bias=False), "fp32", rules={"": spec}, backend="reference", seed=3
    )
    layer.nybble_index = 1
    with torch.no_grad():
        layer.weight.copy_(net.weight_hh_l0)
    h = h0[0].clone().requires_grad_()
    y = (layer(h) + x[0] @ net.weight_ih_l0.detach().t()).relu()
    y.square().sum().backward()
    torch.testing.assert_close(found, layer.weight.grad, rtol=1e-4, atol=1e-4)
    if not extra:
        expected = Oracle(plain, LINEAR, seed=3, layer=1, call=1)
        *_, dw = expected.step(h0[0], net.weight_hh_l0.detach(), 2 * y.detach())
        torch.testing.assert_close(found.double(), dw, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow_back_through_the_steps(name: str) -> None:
    """Against the same loop with decoded weights and unrounded gradients, up to the rounding; and
    the same bits every time."""
    results = []
    for _ in range(2):
        net = network(SPECS[name])
        x = torch.randn(STEPS, BATCH, SIZE, generator=torch.Generator().manual_seed(1))
        x.requires_grad_()
        net(x)[0].square().sum().backward()
        results.append([x.grad, net.weight_hh_l0.grad, net.weight_ih_l0.grad])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    net.zero_grad()
    oracle = Oracle(SPECS[name], LINEAR, seed=3, layer=1, call=1)
    slot = SPECS[name].output_weight
    qw = oracle.values(net.weight_hh_l0.detach(), "output_weight")
    own = oracle.turn(qw, slot, "output_weight", back=True)
    z = x.detach().clone().requires_grad_()
    h = z.new_zeros(BATCH, SIZE)
    total = z.new_zeros(())
    for t in range(STEPS):
        h = (z[t] @ net.weight_ih_l0.detach().t() + h @ own.t()).relu()
        total = total + h.square().sum()
    total.backward()
    error = (results[0][0] - z.grad).norm() / z.grad.norm()
    assert error < 0.3


def test_the_loop_keeps_rows_apart() -> None:
    """dx of the last step alone: one rounding of its gradient, with the bits of its rows."""
    spec = SPECS["free-same"]
    net = network(spec)
    x = torch.randn(2, BATCH, SIZE, generator=torch.Generator().manual_seed(1))
    h0 = torch.randn(1, BATCH, SIZE, generator=torch.Generator().manual_seed(2)).requires_grad_()
    y, _ = net(x, h0)
    weighting = torch.randn(BATCH, SIZE)
    (y[1] * weighting).sum().backward()
    oracle = Oracle(spec, LINEAR, seed=3, layer=1, call=1)
    weight = net.weight_hh_l0.detach()
    qw = oracle.values(weight, "output_weight")
    slot = replace(spec.grad_input_grad, transform=None)
    dz1 = torch.where(y[1] > 0, weighting, 0.0).detach()

    def rounded(dz: Tensor, row: int) -> Tensor:
        scale = (dz.abs().amax(1, keepdim=True) / 7).clamp(min=2.0**-126)
        scale = torch.where(scale > 2.0**-126, scale, torch.ones_like(scale))
        bits = random24((2 * BATCH, SIZE), RandomKey(seed=3, layer=1, call=1, operand=2))
        codes = slot.format.encode(dz * (1 / scale), slot.rounding, bits[row : row + BATCH])
        return slot.format.decode(codes) * scale

    dh1, _ = gradients(torch.zeros_like(dz1), qw, rounded(dz1, BATCH), LINEAR)
    dz0 = torch.where(y[0] > 0, dh1.float(), 0.0).detach()
    dh0, _ = gradients(torch.zeros_like(dz0), qw, rounded(dz0, 0), LINEAR)
    torch.testing.assert_close(h0.grad[0].double(), dh0, rtol=1e-5, atol=1e-5)
