"""A run looks at its layers by default, changes by nothing of it, and acts on alarms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nybble.errors import UserError
from nybble.nn.registry import quantized_layers
from nybble.training.checkpoint import load_checkpoint
from nybble.training.config import TrainConfig
from nybble.training.folder import CHECKPOINTS
from nybble.training.looking import MOST, WATCH_FILE, interval
from nybble.training.loop import Run, train
from nybble.watching import AlarmError, read_records
from nybble.watching.precision import bits_of


def config(out: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(
        **{
            "data": "mnist5k",
            "model": "cnn",
            "epochs": 1,
            "batch_size": 32,
            "limit_train": 32 * 12,
            "limit_test": 64,
            "checkpoint_every": 0,
            "quiet": True,
            "watch": 4,
            "out": str(out),
            **changes,
        }
    )


pytest.importorskip("mlxtend")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = load_checkpoint(folder / CHECKPOINTS)
    assert found is not None
    return dict(found.content["model"])


def test_the_same_bits_with_and_without(tmp_path: Path) -> None:
    looked = train(config(tmp_path / "a"))
    train(config(tmp_path / "b", watch=0))
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    head, records, alarms = read_records(tmp_path / "a" / WATCH_FILE)
    assert head["every"] == 4 and alarms == [] == looked["alarms"]
    assert {r.step for r in records} == set(range(1, 13)) & {r.step for r in records}
    assert not (tmp_path / "b" / WATCH_FILE).exists()


def test_it_is_on_by_default_and_float32_has_nothing_to_look_at(tmp_path: Path) -> None:
    assert TrainConfig().watch == 100
    train(config(tmp_path / "a", recipe="fp32"))
    assert not (tmp_path / "a" / WATCH_FILE).exists()
    assert interval(100, 10**6) * MOST >= 10**6


class Broken(Run):
    """A run in which one layer's scale stays far too small from some step on."""

    at = 4
    broken = ""

    def step(self) -> None:
        if self.done >= self.at:
            layers: list[Any] = [entry for entry in quantized_layers(self.model)]
            self.broken, layer = next(e for e in layers if e[1].nybble_spec.grad_scale)
            layer.nybble_grad_scale.fill_(2.0**-60)
        super().step()


def test_alarms_are_in_the_log_the_file_and_the_result(tmp_path: Path) -> None:
    run = Broken(config(tmp_path / "a", watch=1))
    record = run.train()
    named = [a for a in record["alarms"] if a["alarm"] == "dead"]
    # what lies below it gets nothing but zeros, and is named after it
    assert named and named[0]["layer"] == run.broken
    assert any(named[0]["text"] in line for line in record["warnings"])
    assert named[0]["text"] in (tmp_path / "a" / "log.txt").read_text()
    assert named == [a for a in read_records(tmp_path / "a" / WATCH_FILE)[2] if a in named]


def test_stop_saves_the_run_and_names_the_layer(tmp_path: Path) -> None:
    run = Broken(config(tmp_path / "a", watch=1, on_alarm="stop"))
    with pytest.raises(AlarmError, match="dead") as error:
        run.train()
    assert f"layer '{run.broken}'" in str(error.value)
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert result["status"] == "failed" and "dead" in result["error"]
    found = load_checkpoint(tmp_path / "a" / CHECKPOINTS)
    assert found is not None and 4 < found.step < 12


def test_raise_precision_goes_on_and_survives_a_resume(tmp_path: Path) -> None:
    whole = Broken(config(tmp_path / "a", watch=1, on_alarm="raise-precision"))
    record = whole.train()
    name = whole.broken
    assert record["raised"][name] in ("int8", "fp16")
    assert bits_of(dict(quantized_layers(whole.model))[name].nybble_spec) >= 8

    halved = replace(whole.config, out=str(tmp_path / "b"), checkpoint_every=9)

    class Stops(Broken):
        def step(self) -> None:
            if self.done == 10:
                raise UserError("stopped here")
            super().step()

    with pytest.raises(UserError, match="stopped here"):
        Stops(halved).train()
    resumed = Broken(replace(halved, resume=True))
    again = resumed.train()
    assert again["raised"] == record["raised"]
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[k], b[k]) for k in a)
    steps = [r.step for r in read_records(tmp_path / "b" / WATCH_FILE)[1]]
    assert len(steps) == len(read_records(tmp_path / "a" / WATCH_FILE)[1])


def test_unknown_on_alarm() -> None:
    with pytest.raises(UserError, match=r"Unknown on_alarm 'stopp'.*Did you mean 'stop'"):
        TrainConfig(on_alarm="stopp")
    with pytest.raises(UserError, match="watch must be 1 or more"):
        TrainConfig(on_alarm="stop", watch=0)
    with pytest.raises(UserError, match="watch must be at least 0"):
        TrainConfig(watch=-1)
