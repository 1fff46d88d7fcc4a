"""The step's record, and where its time goes, on nets of a few thousand weights."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import nybble.ops.reference.gemm as gemm
from nybble.errors import UserError
from nybble.reports.speed import against, markdown, plain, step_verdict
from nybble.studies.speed import forms
from nybble.studies.speed.forms import best_float32
from nybble.studies.speed.profile import PLACES, place_of, profile_step
from nybble.studies.speed.step import StepConfig, measure_step
from nybble.studies.speed.targets import memory_targets, step_target
from nybble.studies.speed.workload import make_workload

TINY: dict[str, Any] = {"model": "cnn", "batch": 2, "size": 16, "rounds": 2, "compile": False}
TINY["backend"] = "reference"


def test_the_record_of_a_step() -> None:
    threads = torch.get_num_threads()
    seen: list[tuple[str, int, int]] = []
    config = StepConfig(**TINY, threads=(1, 2), profile=True)
    found = measure_step(config, lambda *now: seen.append(now))
    assert torch.get_num_threads() == threads
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found["speedup"]) == {"1", "2"}
    assert [m["decides"] for m in found["measurements"]] == ["cpu", "wall"]
    for m in found["measurements"]:
        assert m["speedup"] == found["speedup"][str(m["threads"])] == m[m["decides"]]["median"] > 0
        assert m["ours"]["backend"] == {"torch": 6, "reference": 6}
        assert m["float32"]["form"] in [one["form"] for one in m["float32"]["tried"]]
        assert [one["form"] for one in m["float32"]["tried"]] == ["contiguous", "channels-last"]
    assert found["target"] is None and found["configuration"]["input"] == "float32 [2, 3, 16, 16]"
    assert found["command"].startswith("nybble bench step --model cnn --batch 2 ")
    assert "--no-compile" in found["command"] and "--profile" in found["command"]
    assert ("1 thread, steps in turn", 4, 4) in seen
    for side in ("float32", "ours"):
        assert set(found["profile"][side]["ms"]) == set(PLACES)
        total = sum(found["profile"][side]["ms"].values())
        assert total == pytest.approx(found["profile"][side]["total_ms"], abs=0.1)
    ours = found["profile"]["ours"]["ms"]
    assert all(ours[name] > 0 for name in ("forward products", "grad_input", "grad_weight"))
    assert ours["quantise"] > 0 and ours["optimizer"] > 0
    for text in (plain(found), markdown(found)):
        assert (
            "x wall time" in text and "6 on the reference backend" in text and "grad_weight" in text
        )


def test_another_recipe_takes_turns() -> None:
    config = StepConfig(**TINY, threads=(1,), recipe="luq", against="int8")
    found = measure_step(config)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "--recipe luq --against int8" in found["command"]
    other = found["measurements"][0]["against"]
    ours = found["measurements"][0]["ours"]
    assert other["cpu"]["n"] == 2 and other["backend"] == ours["backend"]
    assert other["cpu"]["min"] <= other["cpu"]["median"] <= other["cpu"]["max"]
    assert other["cpu_ms"] > 0 and other["wall_ms"] > 0
    assert found["against_target"] is None
    assert "int8 took turns too (" in plain(found)
    with pytest.raises(UserError, match="unknown recipe 'int9'"):
        StepConfig(against="int9")


def test_the_profile_puts_functions_back() -> None:
    before = gemm.output
    profile_step(lambda: None, steps=1)
    assert gemm.output is before


@pytest.mark.parametrize(
    ("chain", "place"),
    [
        (["aten::mm", "AddmmBackward0"], "backward products"),
        (["aten::addmm", "aten::linear"], "forward products"),
        (["nybble:gemm.gemm", "nybble:layer.layer_forward"], "forward products"),
        (
            ["nybble:gemm.gemm", "nybble:layer.layer_backward", "LayerFunctionBackward"],
            "grad_input",
        ),
        (["nybble:conv.conv_grad_weight", "LayerFunctionBackward"], "grad_weight"),
        (["nybble:quantize.pack_two_phase", "LayerFunctionBackward"], "quantise"),
        (["aten::mul", "nybble:gemm.output", "nybble::layer_forward"], "quantise"),
        (["nybble:norm.batch_norm_forward", "BatchNormFunction"], "elementwise"),
        (["nybble:storage.pack_mask", "ReLUFunction"], "elementwise"),
        (["aten::bmm", "aten::scaled_dot_product_attention"], "attention"),
        (["aten::threshold_backward", "ReluBackward0"], "elementwise"),
        (["aten::add_", "Optimizer.step#SGD.step"], "optimizer"),
        (["aten::empty"], "rest"),
    ],
)
def test_places_of_events(chain: list[str], place: str) -> None:
    assert place_of(chain) == place


def test_a_form_that_does_not_run_is_listed_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(model: torch.nn.Module) -> Any:
        def call(*args: Any) -> None:
            raise RuntimeError("no C++ compiler\nand a long trace")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    made = make_workload("cnn", batch=2, size=16)
    side = best_float32(made, "cpu", tries=1)
    assert side.tried[-1]["note"] == "does not run here: RuntimeError: no C++ compiler"
    assert side.form in ("contiguous", "channels-last")


def test_compile_wins_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model: model)
    times = iter([[3.0], [2.0], [2.0], [1.0]])
    monkeypatch.setattr(forms, "median_ms", lambda samples, clock: next(times)[0])
    side = best_float32(make_workload("cnn", batch=2, size=16), "cpu", tries=1)
    assert side.form == "channels-last, torch.compile"
    side.step()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "resnet9"}, "resnet9"),
        ({"recipe": "sun202"}, "sun202"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"batch": -1}, "batch must be at least 1"),
        ({"threads": (0,)}, "threads must be between"),
    ],
)
def test_bad_configurations(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        StepConfig(**options)


def test_bad_backends_and_activations_and_images_that_are_too_small() -> None:
    for options, says in (
        ({"backend": "cuda"}, "unknown backend"),
        ({"activations": "8bit"}, "choose 4bit"),
        ({"size": 1, "model": "resnet8", "batch": 1}, "fails on its input"),
    ):
        with pytest.raises(UserError, match=says):
            measure_step(StepConfig(**{**TINY, **options}))


def test_aims_speak_of_one_configuration() -> None:
    base = {"model": "resnet18", "batch": 32, "recipe": "sun2020", "size": 32}
    for change, least in (
        ({}, 2.0),
        ({"batch": 128}, 2.0),
        ({"batch": 64}, None),
        ({"size": 28}, None),
        ({"recipe": "hfp8"}, None),
        ({"model": "resnet20", "batch": 128}, 1.3),
        ({"model": "transformer"}, 1.4),
        ({"model": "lstm", "batch": 64}, 1.5),
        ({"model": "transformer", "recipe": "sun2020:gradients=radix2"}, 1.7),
    ):
        target = step_target({**base, **change})
        assert (None if target is None else target.least) == least, change
    saved, peak = memory_targets({"model": "transformer", "batch": 32})
    assert saved is not None and saved.least == 4.0 and peak is None


def test_the_verdict_gives_the_reason_of_a_miss() -> None:
    side = {"ms": dict.fromkeys(PLACES, 10.0), "total_ms": 90.0}
    target = {"what": "step", "least": 2.0, "hard": 2.5}
    record = {"target": target, "speedup": {"1": 1.5}, "profile": {"float32": side, "ours": side}}
    lines = step_verdict(record)
    assert lines[0] == "1 thread: 1.50x (aim 2.0x: not met; hard 2.5x: not met)."
    assert lines[1].startswith("Reason: an aim of 2.0x allows 50 % of float32's step.")
    assert len(step_verdict({**record, "speedup": {"1": 2.6}})) == 1
    assert against(2.6, target) == "aim 2.0x: met; hard 2.5x: met"
