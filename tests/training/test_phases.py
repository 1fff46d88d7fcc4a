"""The last phase of a recipe: when it begins, what it does, and that a killed run repeats it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.test_resume import Killed, kill, stop_at
from torch import nn

import nybble
from nybble.errors import UserError
from nybble.ops.spec import SLOTS
from nybble.recipes import RECIPES, Recipe, get_recipe
from nybble.recipes.tail import Tail, Watch
from nybble.training.checkpoint import load_checkpoint
from nybble.training.config import TrainConfig
from nybble.training.loop import Run, train
from nybble.training.noise import gradient_to_noise, without_rounding
from nybble.training.phases import Phases
from nybble.training.result import read_result
from nybble.training.state import RunState

Make = Callable[..., TrainConfig]


def model(recipe: Any = "luq:tail=0.1", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 3))
    return nybble.convert(layers, recipe, **options)


def test_a_tail_begins_where_its_share_says() -> None:
    assert [Tail(0.1).begins(n) for n in (10, 100, 12)] == [9, 90, 11]
    phases = Phases(get_recipe("luq:tail=0.2"), 50)
    assert [phases.contains(s, RunState()) for s in (0, 39, 40, 49)] == [False, False, True, True]
    assert Phases(get_recipe("luq"), 50).begins(RunState()) is None
    assert Phases(None, 50).record(RunState()) is None


@pytest.mark.parametrize("recipe", ["luq:tail=0.1", "nybble4:tail=0.1"])
def test_start_tail_widens_all_but_the_weights(recipe: str) -> None:
    net = model(recipe)
    middle = net[2]
    before = middle.nybble_spec
    assert nybble.in_tail(net) is False
    nybble.start_tail(net)
    assert nybble.in_tail(net) is True
    spec = middle.nybble_spec
    assert spec.output_weight == before.output_weight and spec.slot("grad_input_weight") == (
        before.output_weight
    )
    for name in ("output_input", "grad_input_grad", "grad_weight_grad", "grad_weight_input"):
        assert spec.slot(name).format.name == "fp16"
    x = torch.randn(5, 6)
    (net(x).square().sum() * 1024).backward()
    assert all(layer.weight.grad.any() for _, layer in nybble.quantized_layers(net))


def test_a_recipe_without_a_tail_has_none_to_start() -> None:
    with pytest.raises(UserError, match="has a tail"):
        nybble.start_tail(model("luq"))


def test_a_tail_survives_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    nybble.save(model(), path)
    twin = nybble.load(
        nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 3)), path
    )
    nybble.start_tail(twin)
    assert twin[2].nybble_spec.output_input.format.name == "fp16"


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 0.0},
        {"share": None},
        {"share": 0.5, "watch": Watch()},
        {"share": 0.1, "slots": ("weight",)},
        {"share": 0.1, "format": "fp8"},
        {"share": 0.1, "rate": "square"},
        {"share": 0.1, "peak": 2.0},
        {"watch": Watch(), "rate": "triangle"},
    ],
)
def test_a_tail_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="Tail"):
        Tail(**wrong)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"factor": 0.0}, {"start": 1.0}])
def test_a_watch_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="Watch"):
        Watch(**wrong)


def test_the_record_says_when(tiny: Make, tmp_path: Path) -> None:
    config = tiny(recipe="luq:tail=0.2")
    record = train(config)
    assert record["phases"] == {"tail_begins": 10, "watched": []}
    assert [epoch["phase"] for epoch in record["epochs"]][-1] == "tail"
    assert record["epochs"][0]["phase"] == "main"
    assert record["recipe"]["record"]["tail"]["share"] == 0.2
    log = (config.run_folder() / "log.txt").read_text()
    assert "step 11: the last phase of luq:tail=0.2 begins" in log


def resumed_is_uninterrupted(
    config: TrainConfig, tmp_path: Path, final_state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config)
    expected = final_state(config)
    for step in range(expected[0]):
        stopped = replace(config, out=str(tmp_path / f"killed-{step}"))
        with monkeypatch.context() as patch:
            stop_at(patch, step, kill)
            with pytest.raises(Killed):
                train(stopped)
        train(replace(stopped, resume=True))
        assert final_state(stopped) == expected


@pytest.mark.parametrize("recipe", ["luq:tail=0.2", "luq:scale=hindsight+samples=2"])
def test_resume_after_a_kill_at_every_step(
    recipe: str, tiny: Make, tmp_path: Path, final_state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(recipe=recipe, checkpoint_every=2)
    resumed_is_uninterrupted(config, tmp_path, final_state, monkeypatch)


def test_a_test_after_the_last_step_is_in_the_tail(
    tiny: Make, tmp_path: Path, final_state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the last step and its test: the resumed run tests the model of the tail."""
    config = tiny(recipe="luq:tail=0.2", checkpoint_every=1)
    expected = train(config)["final"]
    stopped = replace(config, out=str(tmp_path / "stopped"))
    evaluate = Run.evaluate
    with monkeypatch.context() as patch:

        def fail(run: Run) -> Any:
            if run.done == run.total_steps:
                raise Killed
            return evaluate(run)

        patch.setattr(Run, "evaluate", fail)
        with pytest.raises(Killed):
            train(stopped)
    found = train(replace(stopped, resume=True))["final"]
    for key in ("test_loss", "test_accuracy", "phase", "lr"):
        assert found[key] == expected[key]


def watched(factor: float, every: int = 2) -> Recipe:
    base = get_recipe("sun2020:first_last=int4")
    tail = Tail(format="fp32", watch=Watch(every=every, factor=factor, start=0.25))
    return replace(base, name="watched", tail=tail)


def test_a_watch_switches_when_the_gradient_sinks_into_the_noise(
    tiny: Make, tmp_path: Path, final_state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "watched", lambda: watched(1e9))
    config = tiny(recipe="watched", checkpoint_every=2)
    resumed_is_uninterrupted(config, tmp_path, final_state, monkeypatch)
    record = read_result(config.run_folder())
    assert record is not None
    (look,) = record["phases"]["watched"]
    assert look[0] == 3 and record["phases"]["tail_begins"] == 4 and look[1] > 0


def test_a_watch_that_never_strikes_changes_no_number(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "watched", lambda: watched(1e-9, every=1))
    config = tiny(recipe="watched")
    record = train(config)
    assert len(record["phases"]["watched"]) == 9 and record["phases"]["tail_begins"] is None
    plain = replace(config, recipe="sun2020:first_last=int4", out=str(tmp_path / "plain"))
    train(plain)
    a, b = (
        found.content["model"]
        for c in (config, plain)
        if (found := load_checkpoint(c.run_folder() / "checkpoints")) is not None
    )
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_gradient_to_noise_is_the_ratio_of_the_norms() -> None:
    net = model("luq:first_last=same", backend="reference")
    x = torch.randn(32, 6)
    before = [(buffer, buffer.clone()) for buffer in net.buffers()]
    net(x).square().sum().backward()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    ratio = gradient_to_noise(net, before, lambda: net(x).square().sum(), 1.0)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    quantised = [layer.weight.grad.clone() for _, layer in nybble.quantized_layers(net)]
    wide = model("luq:first_last=same", backend="reference")
    for _, layer in nybble.quantized_layers(wide):
        layer.become_(replace(layer.nybble_spec, grad_input_grad=None, grad_weight_grad=None,
                              gradient_pair="each"))  # fmt: skip
    wide(x).square().sum().backward()
    exact = [layer.weight.grad for _, layer in nybble.quantized_layers(wide)]
    signal = sum(float(g.double().square().sum()) for g in exact)
    noise = sum(
        float((q.double() - g.double()).square().sum())
        for q, g in zip(quantised, exact, strict=True)
    )
    assert ratio == pytest.approx(math.sqrt(signal / noise), rel=1e-6)
    assert 0.5 < ratio < 50


NARROW = [name for name in RECIPES if get_recipe(name).spec.quantizes]


@pytest.mark.parametrize("wide", ["fp16", "fp32", "bf16"])
@pytest.mark.parametrize("slots", [Tail(0.1).slots, ("output_input",), SLOTS, SLOTS[2:5]], ids=len)
@pytest.mark.parametrize("name", NARROW)
def test_every_recipe_can_have_a_tail(name: str, slots: tuple[str, ...], wide: Any) -> None:
    """Whatever it does to its Gemms: a step in the tail has gradients, and no slot is narrower."""
    recipe = replace(get_recipe(name), tail=Tail(0.1, slots=slots, format=wide))
    net = model(recipe)
    first = {n: layer.nybble_spec for n, layer in nybble.quantized_layers(net)}
    if all(layer.nybble_tail is None for _, layer in nybble.quantized_layers(net)):
        spec = recipe.spec
        assert wide != "fp32" and all(
            spec.slot(slot).format.bits == 16 for slot in slots if getattr(spec, slot) != "same"
        )
        return
    nybble.start_tail(net)
    (net(torch.randn(8, 6)).square().sum() * 1024).backward()
    for layer_name, layer in nybble.quantized_layers(net):
        assert layer.weight.grad.isfinite().all() and layer.weight.grad.any()
        for slot_name in SLOTS:
            old, new = first[layer_name].slot(slot_name), layer.nybble_spec.slot(slot_name)
            if getattr(first[layer_name], slot_name) == "same":
                forward = {"grad_input_weight": "output_weight"}.get(slot_name, "output_input")
                assert new == layer.nybble_spec.slot(forward)
            elif slot_name in slots:
                assert new is None if wide == "fp32" else new is None or new.format.bits >= 16
            else:
                same = None if old is None else replace(old, transform=None)
                assert (None if new is None else replace(new, transform=None)) == same


def test_wide_layers_do_not_hide_the_noise_of_the_others() -> None:
    x = torch.randn(32, 6)
    # The first and the last layer of `luq` are wide, the one between is not.
    net = model("luq", backend="reference")
    inner = [layer for _, layer in nybble.quantized_layers(net)][1:-1]
    before = [(buffer, buffer.clone()) for buffer in net.buffers()]
    net(x).square().sum().backward()
    found = [layer.weight.grad.double() for layer in inner]
    wide = model("luq", backend="reference")
    for _, layer in nybble.quantized_layers(wide):
        layer.become_(without_rounding(layer.nybble_spec))
    wide(x).square().sum().backward()
    exact = [layer.weight.grad.double() for _, layer in list(nybble.quantized_layers(wide))[1:-1]]
    signal = sum(float(g.square().sum()) for g in exact)
    noise = sum(float((q - g).square().sum()) for q, g in zip(found, exact, strict=True))
    found_ratio = gradient_to_noise(net, before, lambda: net(x).square().sum(), 1.0)
    assert inner and found_ratio == pytest.approx(math.sqrt(signal / noise), rel=1e-6)


@pytest.mark.parametrize("name", NARROW)
def test_every_recipe_can_be_watched(name: str) -> None:
    net = model(name)
    x = torch.randn(32, 6)
    before = [(buffer, buffer.clone()) for buffer in net.buffers()]
    specs = [layer.nybble_spec for _, layer in nybble.quantized_layers(net)]
    torch.manual_seed(0)
    (net(x).square().sum() * 1024).backward()
    for p in net.parameters():
        if p.grad is not None:
            p.grad /= 1024
    state = {key: value.clone() for key, value in net.state_dict().items()}
    ratio = gradient_to_noise(net, before, lambda: net(x).square().sum(), 1024.0)
    assert 1.0 < ratio < 1e6
    assert specs == [layer.nybble_spec for _, layer in nybble.quantized_layers(net)]
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
