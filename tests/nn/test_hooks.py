"""Hooks of layers: Q-EMA and OsciReset by their formulas, their state in files, their steps."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import nybble
from nybble.errors import UserError
from nybble.formats import get_format
from nybble.nn.hooks import hook_names
from nybble.ops.spec import LayerSpec
from nybble.quantizers import SAWB, AbsMax, Quantizer
from nybble.quantizers.hooks import LayerHook, OsciReset, QEma, hook_from_dict
from nybble.recipes import Recipe

E2M1 = get_format("fp4_e2m1")
LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
MX = Quantizer(E2M1, AbsMax.mx(exponent="ceil"))


def recipe(hook: LayerHook, slot: Quantizer = MX) -> Recipe:
    return Recipe("mine", "a test", "here", LayerSpec(slot, slot, hook=hook))


def model(hook: LayerHook, layer: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return nybble.convert(nn.Sequential(layer or nn.Linear(40, 8)), recipe(hook))


def train(net: nn.Module, x: Tensor, steps: int, hooked: bool = True) -> list[Tensor]:
    """The weight after every step."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.dim() > 1], lr=0.05)
    if hooked:
        nybble.hook_steps(net, optimizer)
    found = []
    for step in range(steps):
        optimizer.zero_grad()
        (net(x) * (1.0 if step % 2 else -1.0)).square().sum().sqrt().backward()
        optimizer.step()
        found.append(net[0].weight.detach().clone())
    return found


# ---- Q-EMA ------------------------------------------------------------------------------------


def scalar_qema(weight: list[float], average: list[float]) -> list[float]:
    """One MX block, number by number."""
    scale = 2.0 ** math.ceil(math.log2(max(map(abs, weight)) / 6.0))
    signed = sorted({s * v for v in LEVELS for s in (1, -1)})
    found = []
    for w, a in zip(weight, average, strict=True):
        y, a = w / scale, a / scale
        low = max(v for v in signed if v <= y)
        high = min(v for v in signed if v >= y)
        found.append(scale * (low if abs(a - low) <= abs(a - high) else high))
    return found


def test_qema_by_the_scalar_rule() -> None:
    g = torch.Generator().manual_seed(3)
    weight = torch.randn(6, 70, generator=g)
    average = weight + 0.3 * torch.randn(6, 70, generator=g)
    state = {"average": average, "steps": torch.tensor([10])}
    found = QEma().weight(weight, state, MX)
    want = [
        v
        for w, a in zip(weight, average, strict=True)
        for bw, ba in zip(w.split(32), a.split(32), strict=True)
        for v in scalar_qema(bw.tolist(), ba.tolist())
    ]
    assert found.flatten().tolist() == want
    plain = MX.scale.fit(weight, E2M1)
    nearest = plain.dequantize(E2M1.round(plain.scaled(weight)))
    assert not torch.equal(found, nearest)


@pytest.mark.parametrize("exponent", ["ceil", "floor"])
def test_the_gemm_finds_qema_s_values_on_its_grid(exponent: str) -> None:
    """Whatever the chosen neighbours are: also where the block's scale becomes smaller."""
    slot = Quantizer(E2M1, AbsMax.mx(exponent=exponent))  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(4)
    for spread in (0.01, 0.3, 3.0):
        weight = torch.randn(200, 32, generator=g) * torch.rand(200, 1, generator=g).exp()
        average = weight + spread * torch.randn(200, 32, generator=g)
        value = QEma().weight(weight, {"average": average, "steps": torch.tensor([99])}, slot)
        fit = slot.scale.fit(value, E2M1)
        assert torch.equal(fit.dequantize(E2M1.round(fit.scaled(value))), value)


def test_qema_s_average_and_its_start() -> None:
    net, x = model(QEma(0.9, start=3)), torch.randn(5, 40)
    assert hook_names(net[0]) == ("nybble_hook_average", "nybble_hook_steps")
    weights = train(net, x, 3)
    average = weights[0]
    for weight in weights[1:]:
        average = average * 0.9 + weight * (1.0 - 0.9)
    assert torch.equal(net[0].nybble_hook_average, average)
    assert int(net[0].nybble_hook_steps) == 3
    with torch.no_grad():
        used = net(x)
        net[0].nybble_hook_steps.fill_(2)
        assert not torch.equal(net(x), used)  # not in use before the third step


def test_the_gradient_passes_straight_through() -> None:
    net, x = model(QEma(0.9, start=1)), torch.randn(5, 40)
    train(net, x, 2)
    net.zero_grad()
    net(x).sum().backward()
    expected = torch.ones(5, 8).T @ _values(x)
    assert torch.allclose(net[0].weight.grad, expected, atol=1e-5)


def _values(x: Tensor) -> Tensor:
    fit = MX.scale.fit(x, E2M1)
    return fit.dequantize(E2M1.round(fit.scaled(x)))


def test_a_weight_that_swings_stops_jumping() -> None:
    """What Q-EMA is for: the weight crosses the middle at every step, its value stays."""
    hook, jumps = QEma(0.9, start=2), {"with": 0, "without": 0}
    state = hook.buffers(torch.zeros(1, 2))
    last: dict[str, Tensor] = {}
    for step in range(60):
        weight = torch.tensor([[2.5 + (0.03 if step % 2 else -0.02), 6.0]])
        found = {"with": _rounded(hook.weight(weight, state, MX)), "without": _rounded(weight)}
        for name, value in found.items():
            jumps[name] += int(name in last and step > 30 and not torch.equal(value, last[name]))
        last = found
        hook.after_step(weight, state, MX)
    assert jumps["without"] == 29
    assert jumps["with"] == 0


def _rounded(weight: Tensor) -> Tensor:
    fit = MX.scale.fit(weight, E2M1)
    return fit.dequantize(E2M1.round(fit.scaled(weight)))


@pytest.mark.parametrize(
    "slot", [Quantizer(E2M1, AbsMax.nv()), Quantizer(E2M1, AbsMax.mx(headroom=4 / 3)), None]
)
def test_qema_refuses_scales_that_are_no_power_of_two(slot: Quantizer | None) -> None:
    with pytest.raises(UserError, match=r"power of two|float32"):
        LayerSpec(slot, slot, hook=QEma())


# ---- OsciReset --------------------------------------------------------------------------------


def test_osci_reset_by_hand() -> None:
    """Two weights, window of 4 from step 2 on: one swings about 2.5, the other moves away."""
    hook = OsciReset(tau=4.0, period=4, start=2)
    weight = torch.tensor([[2.48, 1.0, 6.0]])
    state = hook.buffers(weight)
    path = [(2.48, 1.0), (2.52, 1.2), (2.48, 1.4), (2.52, 1.6), (2.48, 1.8), (2.52, 2.0)]
    for swing, move in path:
        weight[0, 0], weight[0, 1] = swing, move
        hook.after_step(weight, state, MX)
    # jumped: 4 x 1.0, moved: 4 x 0.04 -> 25 >= 4; the other 1.0 -> 2.0 moved 0.8, jumped 1.0 >= no
    assert weight[0].tolist() == [3.0, 2.0, 6.0]
    assert float(state["moved"].sum()) == float(state["jumped"].sum()) == 0.0
    kept = OsciReset(tau=26.0, period=4, start=2)
    weight, state = torch.tensor([[2.48, 1.0, 6.0]]), hook.buffers(weight)
    for swing, move in path:
        weight[0, 0], weight[0, 1] = swing, move
        kept.after_step(weight, state, MX)
    assert float(weight[0, 0]) == pytest.approx(2.52)


def test_osci_reset_from_the_first_step_on_has_nothing_to_compare_with() -> None:
    hook = OsciReset(tau=1.0, period=2, start=0)
    weight = torch.tensor([[2.48, 1.0, 6.0]])
    state = hook.buffers(weight)
    hook.after_step(weight, state, MX)
    assert float(state["moved"].sum()) == float(state["jumped"].sum()) == 0.0
    weight[0, 0] = 2.52
    hook.after_step(weight, state, MX)
    assert weight[0].tolist() == [3.0, 1.0, 6.0]


def test_osci_reset_sets_the_parameter_itself() -> None:
    net, x = model(OsciReset(tau=1e-6, period=2, start=1)), torch.randn(5, 40)
    weights = train(net, x, 7)
    assert torch.equal(net[0].nybble_hook_before, weights[-1])
    on_grid = [float((_rounded(w) == w).float().mean()) for w in weights]
    assert on_grid[2] > on_grid[1]
    assert on_grid[2] > 0.01


# ---- the layer's side -------------------------------------------------------------------------


LAYERS = {
    "linear": (lambda: nn.Linear(40, 8), (5, 40)),
    "conv2d": (lambda: nn.Conv2d(40, 8, 3), (2, 40, 5, 5)),
    "conv1d": (lambda: nn.Conv1d(40, 8, 3), (2, 40, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(40, 8, 2), (2, 40, 3, 3)),
    "lstm": (lambda: nn.LSTM(40, 8), (3, 2, 40)),
    "attention": (lambda: nn.MultiheadAttention(8, 2), (3, 2, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("hook", [QEma(0.5, start=1), OsciReset(1e-6, 1, 0)], ids=["qema", "osci"])
def test_every_layer_follows(name: str, hook: LayerHook) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    net = nybble.convert(nn.Sequential(make()), recipe(hook))  # type: ignore[no-untyped-call]
    if name == "conv2d":
        net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    handle = nybble.hook_steps(net, optimizer)
    x = torch.randn(shape)
    for _ in range(3):
        y = net[0](x, x, x)[0] if name == "attention" else net(x)
        (y[0] if isinstance(y, tuple) else y).square().sum().backward()
        optimizer.step()
    steps = [int(layer.nybble_hook_steps) for _, layer in nybble.quantized_layers(net)]
    used = [s for s in steps if s]
    assert used and set(used) == {3}
    for _, layer in nybble.quantized_layers(net):  # the state lies as the parameter does
        if isinstance(hook, OsciReset) and int(layer.nybble_hook_steps):
            assert torch.equal(layer.nybble_hook_before, layer.weight)
    handle.remove()
    optimizer.step()
    assert steps == [int(layer.nybble_hook_steps) for _, layer in nybble.quantized_layers(net)]


def test_a_state_travels_in_files(tmp_path: Path) -> None:
    net, x = model(QEma(0.9, start=1)), torch.randn(5, 40)
    train(net, x, 3)
    nybble.save(net, tmp_path / "net.safetensors")
    other = nybble.load(nn.Sequential(nn.Linear(40, 8)), tmp_path / "net.safetensors")
    assert other[0].nybble_spec.hook == QEma(0.9, start=1)
    assert torch.equal(other(x), net(x))
    assert "0.nybble_hook_average" not in nybble.float_state_dict(net)
    plain = nn.Sequential(nn.Linear(40, 8))
    plain.load_state_dict(nybble.float_state_dict(net))
    net.load_state_dict(plain.state_dict())  # weights without a state: it starts afresh
    assert int(net[0].nybble_hook_steps) == 0
    assert not net[0].nybble_hook_average.any()
    nybble.revert(net)
    assert not [name for name in net.state_dict() if "nybble" in name]


def test_who_forgets_hook_steps_is_told_once() -> None:
    net, x = model(QEma()), torch.randn(5, 40)
    with pytest.warns(UserWarning, match="hook_steps") as caught:
        train(net, x, 6, hooked=False)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model(QEma()), x, 6)


def test_a_computed_weight_is_refused() -> None:
    net = model(QEma(), weight_norm(nn.Linear(40, 8)))
    with pytest.raises(UserError, match="parametrization"):
        net(torch.randn(5, 40))


def test_half_weights_keep_a_float32_state() -> None:
    net = model(OsciReset(1e-6, 1, 0)).to(torch.bfloat16)
    assert net[0].nybble_hook_moved.dtype is torch.float32
    train(net, torch.randn(5, 40, dtype=torch.bfloat16), 3)
    assert net[0].weight.dtype is torch.bfloat16


def test_operators_do_not_see_the_hook_and_specs_do() -> None:
    spec = LayerSpec(MX, MX, hook=QEma(0.5))
    assert LayerSpec.from_dict(json.loads(spec.key)) == spec
    assert spec.bare == LayerSpec(MX, MX)
    assert LayerSpec(MX, MX).bare.hook is None
    assert hook_from_dict(OsciReset().to_dict()) == OsciReset()
    for bad in ({"family": "qemma"}, {"family": "qema", "speed": 1}):
        with pytest.raises(UserError, match="hook"):
            hook_from_dict(bad)
    for config in ({"decay": 1.0}, {"start": 0}):
        with pytest.raises(UserError, match="QEma"):
            QEma(**config)  # type: ignore[arg-type]
    for config in ({"tau": 0.0}, {"period": 0}, {"start": -1}):
        with pytest.raises(UserError, match="OsciReset"):
            OsciReset(**config)  # type: ignore[arg-type]


def test_a_hook_alone_does_not_leave_the_native_backend() -> None:
    sawb = Quantizer(get_format("int4_sym"), SAWB())
    spec = LayerSpec(sawb, sawb, sawb, "same", sawb, "same", hook=OsciReset())
    assert not spec.bare.composite
