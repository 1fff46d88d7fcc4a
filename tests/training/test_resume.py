"""A run that is stopped and continued equals the run that never stopped, bit for bit."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nybble.errors import UserError
from nybble.training.config import TrainConfig
from nybble.training.loop import train
from nybble.training.signals import Interrupted
from nybble.training.tasks.vision import VisionTask

Make = Callable[..., TrainConfig]


class Killed(BaseException):
    """Stands for a process that vanishes: nothing in the loop may catch it."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Do `act` when the batch of global step `step` is asked for."""
    original = VisionTask.batch
    seen = {"count": 0}

    def batch(self: VisionTask, epoch: int, index: int) -> Any:
        if epoch * self.steps_per_epoch + index == step and not seen["count"]:
            seen["count"] = 1
            act()
        return original(self, epoch, index)

    monkeypatch.setattr(VisionTask, "batch", batch)


def kill() -> None:
    raise Killed


RECIPES = ["fp32", "sun2020"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_resume_after_a_kill_at_every_step(
    recipe: str, tiny: Make, tmp_path: Path, final_state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(recipe=recipe, checkpoint_every=3)
    train(config)
    expected = final_state(config)
    assert expected[0] == 12
    for step in range(12):
        stopped = replace(config, out=str(tmp_path / f"killed-{step}"))
        with monkeypatch.context() as patch:
            stop_at(patch, step, kill)
            with pytest.raises(Killed):
                train(stopped)
        train(replace(stopped, resume=True))
        assert final_state(stopped) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw", "lr": 1e-3},
        {"schedule": "cosine", "momentum": 0.0},
        {"schedule": "step", "nesterov": False, "label_smoothing": 0.1, "zero_init": True},
        {"model": "resnet8", "channels_last": True, "augmentation": "shift"},
        {"recipe": "sun2020", "optimizer": "adamw", "lr": 1e-3},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_resume_after_a_signal(
    changes: dict[str, Any],
    signum: signal.Signals,
    tiny: Make,
    tmp_path: Path,
    final_state: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny(epochs=2, **changes)
    train(config)
    stopped = replace(config, out=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch:
        stop_at(patch, 4, lambda: os.kill(os.getpid(), signum))
        with pytest.raises(Interrupted, match="after step 5 of 8") as caught:
            train(stopped)
    assert caught.value.status == 128 + signum
    assert signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler)
    train(replace(stopped, resume=True))
    assert final_state(stopped) == final_state(config)


def test_resume_with_dropout_and_numpy_noise_in_a_users_model(
    tiny: Make, tmp_path: Path, final_state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noisy_model.py").write_text(
        "import numpy, random, torch\n"
        "class Noise(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        if not self.training: return x\n"
        "        return x + 0.1 * float(numpy.random.rand()) + 0.1 * random.random()\n"
        "def build(num_classes):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), Noise(),\n"
        "        torch.nn.Dropout(0.5), torch.nn.ReLU(), torch.nn.Linear(32, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    config = tiny(model="noisy_model:build", checkpoint_every=5)
    train(config)
    stopped = replace(config, out=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch:
        stop_at(patch, 7, kill)
        with pytest.raises(Killed):
            train(stopped)
    torch.rand(100)  # the caller's generator is elsewhere by now
    train(replace(stopped, resume=True))
    assert final_state(stopped) == final_state(config)


def test_resume_while_testing(
    tiny: Make, tmp_path: Path, final_state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    train(config)
    stopped = replace(config, out=str(tmp_path / "stopped"))
    original = VisionTask.test_batches
    calls = iter([False, True, False, False])

    def test_batches(self: VisionTask) -> Any:
        if next(calls):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(VisionTask, "test_batches", test_batches)
        with pytest.raises(Interrupted, match="after step 8 of 12"):
            train(stopped)
    train(replace(stopped, resume=True))
    assert final_state(stopped) == final_state(config)


def test_resume_of_a_finished_run_returns_its_result_and_writes_nothing(tiny: Make) -> None:
    config = tiny()
    record = train(config)
    before = {p: p.stat().st_mtime_ns for p in config.run_folder().rglob("*")}
    assert train(replace(config, resume=True)) == record
    assert {p: p.stat().st_mtime_ns for p in config.run_folder().rglob("*")} == before


def test_resume_uses_the_previous_checkpoint_when_the_newest_is_damaged(
    tiny: Make, tmp_path: Path, final_state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(checkpoint_every=2)
    train(config)
    stopped = replace(config, out=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch:
        stop_at(patch, 7, kill)
        with pytest.raises(Killed):
            train(stopped)
    newest = stopped.run_folder() / "checkpoints" / "step-000000006.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    record = train(replace(stopped, resume=True))
    assert any(
        "step-000000006.json cannot be used" in text and "bytes instead of" in text
        for text in record["warnings"]
    )
    assert "resumed after step 4" in (stopped.run_folder() / "log.txt").read_text()
    assert final_state(stopped) == final_state(config)


def test_a_changed_number_of_threads_is_reported(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(checkpoint_every=2)
    with monkeypatch.context() as patch:
        stop_at(patch, 7, kill)
        with pytest.raises(Killed):
            train(config)
    torch.set_num_threads(2)
    record = train(replace(config, resume=True))
    assert any(text.startswith("threads was 1") for text in record["warnings"])


def test_changed_data_or_code_is_refused(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "changing_model.py"
    text = (
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10{}))"
    )
    module.write_text(text.format(""))
    folder = tmp_path / "data"
    shutil.copytree(tiny().data.partition(":")[2], folder)
    monkeypatch.chdir(tmp_path)
    config = tiny(data=f"fashion-mnist:{folder}", model="changing_model:net", checkpoint_every=2)
    with monkeypatch.context() as patch:
        stop_at(patch, 7, kill)
        with pytest.raises(Killed):
            train(config)
    resumed = replace(config, resume=True)
    module.write_text(text.format(", bias=False"))
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "changing_model")
    with pytest.raises(UserError, match=r"does not fit the model 'changing_model:net' \(has its"):
        train(resumed)
    labels = folder / "train-labels-idx1-ubyte"
    raw = labels.read_bytes()
    labels.write_bytes(raw[:-1] + bytes([(raw[-1] + 1) % 10]))
    with pytest.raises(UserError, match="has changed since the run"):
        train(resumed)
