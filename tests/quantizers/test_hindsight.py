"""The hindsight maximum against the scalar oracle, and what moves it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import nybble
from nybble.errors import UserError
from nybble.formats import Stochastic, get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import Hindsight, Quantizer, get_quantizer
from nybble.quantizers import oracle as scalar

ETAS = (0.0, 0.1, 0.5, 0.9)


@pytest.mark.parametrize("eta", ETAS)
def test_the_average_equals_the_oracle(eta: float) -> None:
    rng = np.random.default_rng(0)
    scale = Hindsight(eta)
    new, old = scalar.f32(1.0 - eta), scalar.f32(eta)
    for m, top in rng.lognormal(0, 9, (200, 2)).astype(np.float32).tolist():
        expected = scalar.add(scalar.mul(new, top), scalar.mul(old, m))
        assert scale.advance_number(m, top, 8.0) == expected
        for shape in ([1], [3]):  # one number goes another way than a tensor
            found = scale.advance(torch.full(shape, m), torch.full(shape, top), 8.0)
            assert found.tolist() == [expected] * shape[0]


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_nothing_that_is_no_maximum_moves_it(bad: float) -> None:
    scale = Hindsight()
    assert scale.advance_number(3.0, bad, 8.0) == 3.0
    for shape in ([1], [2]):
        kept = scale.advance(torch.full(shape, 3.0), torch.full(shape, bad), 8.0)
        assert kept.tolist() == [3.0] * shape[0]
    used, first = scale.step(torch.zeros(1), torch.tensor([bad]), 8.0)
    assert first.item() == 0.0 and scale.factors(used, 8.0)[0].item() == 1.0


@pytest.mark.parametrize("power", [False, True])
def test_the_scale_of_a_maximum_is_that_of_absmax(power: bool) -> None:
    rng = np.random.default_rng(1)
    fmt = get_format("fp4_radix2")
    for m in rng.lognormal(0, 9, 200).astype(np.float32).tolist():
        inv, scale = Hindsight(power_of_two=power).factors(torch.tensor([m]), fmt.max_value)
        if power:
            assert inv.item() == scalar.warm_start(m, fmt.max_value)
        else:
            fit = scalar.absmax([m], fmt.max_value)
            assert (inv.item(), scale.item()) == (fit.inv, fit.scale)
        assert scale.item() == scalar.div(1.0, inv.item()) or not power


@pytest.mark.parametrize("eta", [-0.1, 1.0, math.nan, True, "0.1"])
def test_an_eta_that_is_no_weight_is_refused(eta: object) -> None:
    with pytest.raises(UserError, match="eta"):
        Hindsight(eta)  # type: ignore[arg-type]


def test_it_serves_gradients_only() -> None:
    slot = Quantizer(get_format("fp4_radix2"), Hindsight(), Stochastic())
    with pytest.raises(UserError, match="Hindsight is for gradients"):
        LayerSpec(output_input=slot)
    assert get_quantizer(slot.short.replace("·", ":")) == slot


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_a_layer_moves_it_once_an_iteration(backend: str) -> None:
    if backend == "native" and nybble.ops.native.core()[0] is None:
        pytest.skip("no compiled module")
    torch.manual_seed(0)
    layer = nybble.convert(
        nn.Sequential(nn.Linear(4, 3)),
        "luq:scale=hindsight+eta=0.5+first_last=same",
        backend=backend,
    )[0]
    m, seen = 0.0, []
    for k in (1.0, 4.0, 0.0, 2.0):
        x = torch.randn(5, 4)
        out = layer(x) + layer(2 * x)  # twice in one iteration: forward moves, backward notes
        if seen:
            m = 0.5 * seen[-1] + 0.5 * m if seen[-1] else m
        (k * out.sum()).backward()
        m = m or k
        assert layer.nybble_grad_scale.item() == m
        assert layer.nybble_grad_amax.item() == k
        seen.append(k)


def test_numbers_beyond_the_remembered_maximum_saturate() -> None:
    torch.manual_seed(0)
    layer = nybble.convert(nn.Sequential(nn.Linear(2, 2)), "luq:scale=hindsight+first_last=same")[0]
    for factor, expected in ((1.0, 1.0), (8.0, 1.0)):
        x = torch.ones(1, 2, requires_grad=True)
        layer.zero_grad()
        (layer(x) * torch.tensor([factor, 0.0])).sum().backward()
        column = layer.weight.grad[0] / x.detach()[0]
        torch.testing.assert_close(column, torch.full((2,), expected), rtol=1e-5, atol=0)
