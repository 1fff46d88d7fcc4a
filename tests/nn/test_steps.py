"""Learned steps: LSQ's own gradient comes out of autograd, steps start, travel and are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nybble
from nybble.errors import UserError
from nybble.formats import get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import LSQ, AbsMax, Hadamard, Quantizer, RandomKey, SplitRows, Unit, random24
from nybble.quantizers.transforms import Bits
from nybble.recipes import Recipe, get_recipe

INT4 = get_format("int4")
STEP = Quantizer(INT4, LSQ())


def model(turn: Hadamard | None = None, layer: nn.Module | None = None) -> nn.Module:
    slot = Quantizer(INT4, LSQ(), transform=turn)
    spec = LayerSpec(slot, slot)
    torch.manual_seed(0)
    net = nn.Sequential(layer or nn.Linear(40, 8))
    return nybble.convert(net, Recipe("mine", "a test", "here", spec))


def values(x: Tensor, step: Tensor) -> Tensor:
    fit = LSQ().fit_alpha(step.detach(), INT4)
    return fit.dequantize(INT4.round(fit.scaled(x.detach())))


def test_autograd_finds_lsq_s_gradients() -> None:
    net, x = model(), torch.randn(16, 40, requires_grad=True)
    layer = net[0]
    y = net(x)
    with torch.no_grad():  # so that some of both operands is clipped
        layer.nybble_step_input.mul_(0.5)
        layer.nybble_step_weight.mul_(0.4)
    y = net(x)
    dy = torch.randn(16, 8)
    y.backward(dy)
    sx, sw = layer.nybble_step_input, layer.nybble_step_weight
    hx, hw = values(x, sx), values(layer.weight, sw)
    assert torch.allclose(y, hx @ hw.T + layer.bias, atol=1e-5)
    want_x, want_sx = LSQ().gradient(x, sx, dy @ hw, INT4)
    want_w, want_sw = LSQ().gradient(layer.weight, sw, dy.T @ hx, INT4)
    assert torch.allclose(x.grad, want_x, atol=1e-5)
    assert torch.allclose(layer.weight.grad, want_w, atol=1e-4)
    assert torch.allclose(sx.grad, want_sx, rtol=1e-3, atol=1e-5)
    assert torch.allclose(sw.grad, want_sw, rtol=1e-3, atol=1e-4)
    assert 0 < float((want_x == 0).float().mean()) < 0.9
    assert torch.allclose(layer.bias.grad, dy.sum(0), atol=1e-5)


def test_a_hadamard_turns_both_operands_and_the_gradient_back() -> None:
    turn = Hadamard(8, "none")
    net, x = model(turn), torch.randn(16, 40, requires_grad=True)
    layer, dy = net[0], torch.randn(16, 8)
    y = net(x)
    y.backward(dy)
    tx, tw = turn.apply(x.detach(), 1), turn.apply(layer.weight.detach(), 1)
    sx, sw = layer.nybble_step_input, layer.nybble_step_weight
    assert torch.equal(sx, LSQ().initial_alpha(tx, INT4))
    hx, hw = values(tx, sx), values(tw, sw)
    assert torch.allclose(y, hx @ hw.T + layer.bias, atol=1e-5)
    want_x, want_sx = LSQ().gradient(tx, sx, dy @ hw, INT4)
    assert torch.allclose(x.grad, turn.inverse(want_x, 1), atol=1e-5)
    assert torch.allclose(sx.grad, want_sx, rtol=1e-3, atol=1e-5)
    want_w, want_sw = LSQ().gradient(tw, sw, dy.T @ hx, INT4)
    assert torch.allclose(layer.weight.grad, turn.inverse(want_w, 1), atol=1e-4)
    assert torch.allclose(sw.grad, want_sw, rtol=1e-3, atol=1e-4)


def test_convolutions_and_attention_learn_steps() -> None:
    net = model(None, nn.Conv2d(3, 4, 3))
    x = torch.randn(2, 3, 6, 6)
    y = net(x)
    layer = net[0]
    want = nn.functional.conv2d(
        values(x, layer.nybble_step_input), values(layer.weight, layer.nybble_step_weight)
    )
    assert torch.allclose(y, want + layer.bias.view(1, -1, 1, 1), atol=1e-4)


def test_a_step_that_training_pushed_below_zero_comes_back() -> None:
    net, x = model(), torch.randn(16, 40)
    net(x)
    layer = net[0]
    with torch.no_grad():
        layer.nybble_step_weight.fill_(-0.1)
    y = net(x)
    assert y.isfinite().all()
    (y * layer(x).detach().sign()).sum().backward()
    assert layer.nybble_step_weight.grad.isfinite().all()


def test_steps_are_parameters_of_the_optimizer_and_travel_in_files(tmp_path: Path) -> None:
    net, x = model(), torch.randn(16, 40)
    groups = {g["name"]: g["params"] for g in nybble.param_groups(net, lr=0.1)}
    assert any(p is net[0].nybble_step_input for p in groups["no_decay"])
    net(x)
    assert net[0].nybble_step_weight.item() > 0
    nybble.save(net, tmp_path / "net.safetensors")
    other = nybble.load(nn.Sequential(nn.Linear(40, 8)), tmp_path / "net.safetensors")
    assert torch.equal(other(x), net(x))
    assert [n for n in nybble.float_state_dict(net) if "step" in n] == []
    net.load_state_dict(nybble.float_state_dict(net))
    assert net[0].nybble_step_weight.item() == 0  # starts afresh
    nybble.revert(net)
    assert sorted(net.state_dict()) == ["0.bias", "0.weight"]


def test_where_steps_and_split_rows_do_not_belong() -> None:
    for name in ("grad_input_grad", "grad_weight_input"):
        with pytest.raises(UserError, match="LSQ learns"):
            LayerSpec(STEP, STEP, **{name: STEP})  # type: ignore[arg-type]
    rows = Quantizer(get_format("int4_sym"), SplitRows())
    with pytest.raises(UserError, match="SplitRows is for gradients"):
        LayerSpec(rows, STEP)
    spec = LayerSpec(STEP, STEP)
    assert spec.bare.output_input == Quantizer(INT4, Unit())
    with pytest.raises(UserError, match="needs the signs"):
        LayerSpec(STEP, Quantizer(INT4, LSQ(), transform=Hadamard(8, "random")))
    lstm = nn.Sequential(nn.LSTM(4, 4))
    with pytest.raises(UserError, match="time loop"):
        nybble.convert(lstm, Recipe("mine", "a test", "here", spec))


def test_one_side_alone() -> None:
    spec = LayerSpec(STEP, Quantizer(get_format("int4_sym"), AbsMax()))
    net = nybble.convert(nn.Sequential(nn.Linear(40, 8)), Recipe("mine", "t", "here", spec))
    x = torch.randn(16, 40)
    y = net(x)
    assert "nybble_step_weight" not in dict(net[0].named_parameters())
    hx = values(x, net[0].nybble_step_input)
    assert torch.allclose(y, hx @ net[0].weight.T + net[0].bias, atol=0.7)


def bits_of(call: int) -> Bits:
    return lambda stream, shape: random24(shape, RandomKey(call=call, operand=8 * stream))


@pytest.mark.parametrize("recipe", ["xi2023", "xi2023:hadamard=1"])
def test_a_step_s_noise_is_that_of_lsq_s_own_formula(recipe: str) -> None:
    """The noise of a sampled gradient meets q - v, not v: else it would be five times as large."""
    spec = get_recipe(recipe).spec
    torch.manual_seed(0)
    net = nybble.convert(nn.Sequential(nn.Linear(64, 64)), Recipe("mine", "a test", "here", spec))
    layer, x, dy = net[0], torch.randn(64, 64), torch.randn(64, 64)
    slot, rows = spec.output_weight, spec.grad_weight_grad
    found, expected = [], []
    turned = [x, layer.weight.detach()]
    if slot.transform is not None:
        turned = [slot.transform.apply(t, 1) for t in turned]
    for call in range(60):
        net.zero_grad()
        net(x).backward(dy)
        found.append(float(layer.nybble_step_weight.grad))
        estimate = rows.scale.estimate(dy, 1, bits_of(call))
        hx = values(turned[0], layer.nybble_step_input)
        _, ds = LSQ().gradient(turned[1], layer.nybble_step_weight, estimate.T @ hx, INT4)
        expected.append(float(ds))
    hx = values(turned[0], layer.nybble_step_input)
    _, exact = LSQ().gradient(turned[1], layer.nybble_step_weight, dy.T @ hx, INT4)
    of, formula = torch.tensor(found), torch.tensor(expected)
    assert abs(float(of.mean() - exact)) < 4 * float(of.std()) / 60**0.5
    assert 0.6 < float(of.std() / formula.std()) < 1.6
