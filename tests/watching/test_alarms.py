"""Planted failures raise their own alarm with the right layer; healthy runs raise none."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nybble
from nybble.quantizers import get_quantizer
from nybble.watching import Alarm, AlarmError, Record, Watch
from nybble.watching.alarms import KINDS, Alarms
from nybble.watching.oscillation import BURST, Burst


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(12, 32), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Linear(32, 32), nn.ReLU()]
    return nybble.convert(nn.Sequential(*layers, nn.Linear(32, 4)), "sun2020")


def layer(model: nn.Module, name: str) -> Any:
    return dict(nybble.quantized_layers(model))[name]


def train(model: nn.Module, steps: int, **options: Any) -> Watch:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(nybble.param_groups(model, lr=0.05), momentum=0.9)
    said: list[str] = []
    seen = nybble.watch(model, every=1, say=said.append, **options)
    try:
        for _ in range(steps):
            x = torch.randn(64, 12, generator=generator)
            y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if options.get("on_alarm") != "stop":
                seen.flush()
    finally:
        seen.close()
    assert [alarm.text in line for alarm, line in zip(seen.alarms, said, strict=True)] == [
        True
    ] * len(said)
    return seen


def kinds(seen: Watch) -> set[tuple[str, str]]:
    return {(alarm.layer, alarm.kind) for alarm in seen.alarms}


@pytest.mark.parametrize("recipe", ["sun2020", "luq", "nybble4", "nvfp4"])
def test_a_healthy_run_raises_none(recipe: str) -> None:
    model = nybble.convert(nybble.revert(network()), recipe)
    seen = train(model, 120)
    assert seen.alarms == [], [alarm.text for alarm in seen.alarms]


def test_a_dead_layer_is_named() -> None:
    model = network()
    broken = layer(model, "4")
    broken._move_grad_scale = lambda: None  # a scale that stays far too small for its gradients
    broken.nybble_grad_scale.fill_(2.0**-40)
    seen = train(model, 6)
    found = {(a.layer, a.kind, a.operand) for a in seen.alarms}
    assert ("4", "dead", "grad_weight") in found and ("4", "dead", "grad_input") in found
    line = next(a for a in seen.alarms if a.layer == "4").text
    assert re.match(r"step 3: layer '4', grad_\w+: dead: .*Remedy: ", line) and "\n" not in line


def test_a_frozen_scale_is_named() -> None:
    model = network()
    broken = layer(model, "6")
    broken._move_grad_scale = lambda: None
    broken.nybble_grad_scale.fill_(2.0**30)
    assert ("6", "saturated") in kinds(train(model, 6))
    assert not any(name not in ("6", "4", "2", "0") for name, _ in kinds(train(network(), 6)))


def test_a_nan_is_named() -> None:
    model = network()
    with torch.no_grad():
        layer(model, "2").weight[3, 3] = float("nan")
    seen = train(model, 2)
    first = seen.alarms[0]
    assert (first.layer, first.kind, first.operand) == ("2", "non-finite", "weight")
    assert ("0", "non-finite") in kinds(seen)  # the gradient that comes back is bad as well


def test_collapsed_codes_and_a_clip_that_is_gone() -> None:
    model = network()
    with torch.no_grad():
        broken = layer(model, "4")
        broken.nybble_alpha.fill_(1e4)
    seen = train(model, 4)
    assert ("4", "collapsed") in kinds(seen)
    model = network()
    with torch.no_grad():
        layer(model, "4").nybble_alpha.fill_(-0.5)
    found = [a for a in train(model, 4).alarms if a.kind == "diverging"]
    assert found and found[0].layer == "4" and "-0.5" in found[0].what


def test_a_growing_clip() -> None:
    rules = Alarms()
    look = Record(1, "fc", "input", "uint4", 4, alpha=[1.0])
    raised: list[Alarm] = []
    for step, clip in enumerate((1.0, 2.0, 4.0, 9.0, 10.0)):
        raised += rules.judge(replace(look, step=step, alpha=[clip]))
    assert [(a.step, a.kind) for a in raised] == [(3, "diverging")]
    assert Alarms().judge(replace(look, alpha=[9.0])) == []


def test_weights_that_go_back_and_forth() -> None:
    model = network()
    broken = layer(model, "2")
    seen = nybble.watch(model, every=1, say=lambda text: None)
    for step in range(2 * BURST + 2):
        model(torch.randn(16, 12)).sum().backward()
        with torch.no_grad():  # half a level up and down
            broken.weight.add_((0.05 if step % 2 else -0.05) * broken.weight.abs().max())
    seen.close()
    assert ("2", "oscillating") in kinds(seen)
    assert not any(kind == "oscillating" and name != "2" for name, kind in kinds(seen))


def test_a_steady_move_is_no_oscillation() -> None:
    burst = Burst(get_quantizer("int4_sym:absmax"))
    for step in range(BURST):
        burst.see(torch.tensor([7.0, 0.5 * step, -0.5 * step]))
    assert float(burst.share()) == 0.0
    assert Burst.suits(get_quantizer("int4_sym:absmax"))
    assert not Burst.suits(get_quantizer("fp16:unit")) and not Burst.suits(None)


def test_an_alarm_is_raised_once_until_it_has_gone() -> None:
    rules = Alarms()
    bad = Record(1, "fc", "grad_weight", "fp4_radix4", 4, saturation=0.5, scale=1.0)
    good = replace(bad, saturation=0.0)
    count = [len(rules.judge(r)) for r in [bad] * 6 + [good] * 3 + [bad] * 3]
    assert count == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_stop() -> None:
    model = network()
    with torch.no_grad():
        layer(model, "2").weight[3, 3] = float("nan")
    seen = nybble.watch(model, every=1, on_alarm="stop", say=lambda text: None)
    model(torch.randn(4, 12)).sum().backward()
    seen.flush()
    with pytest.raises(AlarmError, match="layer '2', weight: non-finite"):
        model(torch.randn(4, 12))
    seen.close()


def test_stop_in_the_last_step() -> None:
    model = network()
    with torch.no_grad():
        layer(model, "2").weight[3, 3] = float("nan")
    with (
        pytest.raises(AlarmError, match="layer '2', weight: non-finite"),
        nybble.watch(model, every=1, on_alarm="stop", say=lambda text: None),
    ):
        model(torch.randn(4, 12)).sum().backward()
    assert layer(model, "2").nybble_observer is None
    with (
        pytest.raises(ValueError, match="of their own"),  # an alarm never hides another error
        nybble.watch(model, every=1, on_alarm="stop", say=lambda text: None),
    ):
        model(torch.randn(4, 12)).sum().backward()
        raise ValueError("of their own")


def test_raise_precision_moves_the_layer_and_says_so() -> None:
    model = network()
    broken = layer(model, "4")
    broken._move_grad_scale = lambda: None
    broken.nybble_grad_scale.fill_(2.0**-40)
    said: list[str] = []
    seen = nybble.watch(model, every=1, on_alarm="raise-precision", say=said.append)
    for _ in range(5):
        model(torch.randn(16, 12)).square().sum().backward()
        seen.flush()
    seen.close()
    assert seen.raised["4"] in ("int8", "fp16")
    assert any("goes on as in the recipe int8" in line for line in said)
    assert broken.nybble_spec.output_weight.format.bits >= 8
    grads = model[4].weight.grad
    assert grads is not None and int(grads.count_nonzero()) > 0


def test_every_kind_has_a_remedy_and_names_stay_on_one_line() -> None:
    for kind in KINDS:
        text = Alarm(1, kind, "a\nb", "weight", "what").text
        assert "Remedy: " in text and "\n" not in text
