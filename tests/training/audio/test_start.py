"""Starting from a trained model: what is taken over, what is refused; resuming is exact."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nybble.errors import UserError
from nybble.training.checkpoint import load_checkpoint
from nybble.training.config import TrainConfig
from nybble.training.loop import Run, train

Make = Callable[..., TrainConfig]


@pytest.fixture
def trained(tiny_speech: Make, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Train a small model and return its configuration."""

    def make(**changes: Any) -> TrainConfig:
        fields = {"model": "cnn", "epochs": 3, "lr": 1e-2, "out": str(tmp_path / "trained")}
        fields |= {"task_options": (("seconds", "0.3"), ("bands", "32"))}
        config = tiny_speech(**{**fields, **changes})
        train(config)
        return config

    return make


def weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    found = load_checkpoint(config.run_folder() / "checkpoints")
    assert found is not None
    content: dict[str, torch.Tensor] = found.content["model"]
    return content


@pytest.mark.parametrize(("before", "after"), [("fp32", "sun2020"), ("sun2020", "sun2020")])
def test_the_model_is_taken_over(
    before: str, after: str, trained: Make, tiny_speech: Make, tmp_path: Path
) -> None:
    source = trained(recipe=before)
    run = Run(tiny_speech(start=source.out, recipe=after, data=source.data))
    assert run.config.model == "cnn" and dict(run.config.task_options)["bands"] == "32"
    assert run.config.lr == pytest.approx(3e-4)  # a tenth of the default
    saved, own = weights(source), run.model.state_dict()
    for key, tensor in own.items():
        if not key.rpartition(".")[2].startswith("nybble_"):
            assert torch.equal(tensor, saved[key]), key
    clips = [key for key in own if key.endswith("nybble_alpha")]
    assert clips and all(bool(own[key].any()) == (before == after) for key in clips)
    record = run.train()
    start = record["start"]
    assert start["from"] == source.out and start["recipe"] == before and start["step"] == 9
    assert 0 <= start["test_accuracy"] <= 1 and start["test_loss"] > 0


def test_the_test_before_is_that_of_the_run(trained: Make, tiny_speech: Make) -> None:
    source = trained()
    record = train(tiny_speech(start=source.out, epochs=1, out=f"{source.out}-next"))
    from nybble.training.result import read_result

    ended = read_result(source.run_folder())
    assert ended is not None and record["start"]["test_loss"] == ended["final"]["test_loss"]


def test_testing_before_leaves_no_trace(
    trained: Make,
    tiny_speech: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    final_state: Any,
) -> None:
    source = trained()
    config = tiny_speech(start=source.out, recipe="sun2020", epochs=1, out=str(tmp_path / "a"))
    train(config)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "test_the_start", lambda self: None)
        other = replace(config, out=str(tmp_path / "b"))
        train(other)
    assert final_state(config)[2] == final_state(other)[2]


def test_resume_equals(
    trained: Make,
    tiny_speech: Make,
    tmp_path: Path,
    final_state: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = trained(recipe="sun2020")
    config = tiny_speech(start=source.out, recipe="sun2020", checkpoint_every=2)
    train(config)
    expected = final_state(config)

    class Killed(BaseException):
        pass

    original = Run.step

    def step(self: Run) -> None:
        if self.done == 5:
            raise Killed
        original(self)

    stopped = replace(config, out=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", step)
        with pytest.raises(Killed):
            train(stopped)
    train(replace(stopped, resume=True))
    assert final_state(stopped) == expected


def test_fewer_classes_keep_their_places(
    trained: Make, tiny_speech: Make, digits: Path, tmp_path: Path
) -> None:
    source = trained()
    for path in (digits / "recordings").glob("[13]_*.wav"):
        (tmp_path / "few").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "few")
    config = tiny_speech(start=source.out, data=f"fsdd:{tmp_path / 'few'}")
    run = Run(config)
    assert run.task.data.classes == ("0", "1", "2", "3")  # type: ignore[attr-defined]
    assert set(run.task.data.labels.tolist()) == {1, 3}  # type: ignore[attr-defined]


def test_refused(trained: Make, tiny_speech: Make, digits: Path, tmp_path: Path) -> None:
    source = trained()
    out = source.out

    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(UserError, match=message) as error:
            train(tiny_speech(**{"start": out, "out": str(tmp_path / "x"), **changes}))
        assert "\n" not in str(error.value)

    refused("no such file or folder", start=str(tmp_path / "nowhere"))
    refused("give the folder of a nybble run", start=str(digits))
    refused("task is speech, not ctc", task="ctc")
    refused("model is cnn, not lstm", model="lstm")
    (tmp_path / "more").mkdir()
    for path in (digits / "recordings").glob("[01]_*.wav"):
        shutil.copy(path, tmp_path / "more")
        shutil.copy(path, tmp_path / "more" / path.name.replace("1_", "7_"))
    refused("has the class '7', which the model was not", data=f"fsdd:{tmp_path / 'more'}")
    empty = tmp_path / "empty"
    shutil.copytree(out, empty)
    shutil.rmtree(empty / "checkpoints")
    refused("has no checkpoint yet", start=str(empty))
    damaged = tmp_path / "damaged"
    shutil.copytree(out, damaged)
    newest = sorted(damaged.glob("checkpoints/*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    refused(r"No checkpoint in .* can be used", start=str(damaged))


def test_classes_of_images_that_are_unknown_are_named(
    tiny: Make, tmp_path: Path, tiny_data: str
) -> None:
    """The same for vision, whose classes have to be among those of the run."""
    source = tiny(epochs=1, out=str(tmp_path / "source"))
    train(source)
    again = tiny(start=source.out, model=None, epochs=1, out=str(tmp_path / "again"))
    assert train(again)["start"]["recipe"] == "fp32"
    images = tmp_path / "images"
    from PIL import Image

    for label in "ab":
        (images / label).mkdir(parents=True)
        for k in range(5):
            Image.new("L", (8, 8), 40 * k).save(images / label / f"{k}.png")
    other = tiny(start=source.out, model=None, data=f"folder:{images}", out=str(tmp_path / "other"))
    with pytest.raises(
        UserError, match=r"class 'a', which the model was not trained on.*--new-head"
    ):
        train(other)


def test_a_single_checkpoint(trained: Make, tiny_speech: Make) -> None:
    source = trained(checkpoint_every=4)
    first = sorted((source.run_folder() / "checkpoints").glob("*.json"))[0]
    record = train(tiny_speech(start=str(first), epochs=1))
    assert record["start"]["step"] == 8
