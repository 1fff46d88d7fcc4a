"""Starting from a trained model: what is taken, what begins anew, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nybble
from nybble.errors import UserError
from nybble.training import TrainConfig, train
from nybble.training.checkpoint import load_checkpoint
from nybble.training.models import build_model
from nybble.training.start import last_layer

Make = Callable[..., TrainConfig]
FOUR_BIT = "sun2020"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = load_checkpoint(folder / "checkpoints")
    assert found is not None
    return dict(found.content["model"])


def pictures(folder: Path, classes: tuple[str, ...]) -> str:
    """A folder of small grey images, a folder a class."""
    image = pytest.importorskip("PIL.Image")
    for part in ("train", "test"):
        for index, name in enumerate(classes):
            (folder / part / name).mkdir(parents=True)
            for k in range(3):
                tone = 40 * index + k
                image.new("L", (8, 8), tone).save(folder / part / name / f"{k}.png")
    return f"folder:{folder}"


@pytest.fixture
def trained(tiny: Make, tmp_path: Path) -> Callable[[str], Path]:
    """The folder of a run of one epoch under a recipe."""

    def make(recipe: str = "fp32") -> Path:
        folder = tmp_path / f"source-{recipe[:4]}"
        train(tiny(recipe=recipe, epochs=1, out=str(folder)))
        return folder

    return make


@pytest.mark.parametrize(
    ("before", "after"), [("fp32", FOUR_BIT), (FOUR_BIT, FOUR_BIT), (FOUR_BIT, "fp32")]
)
def test_a_run_begins_with_the_weights_of_another(
    before: str, after: str, trained: Callable[[str], Path], tiny: Make, tmp_path: Path
) -> None:
    source = trained(before)
    # A learning rate of 0: what the run ends with is what it began with.
    config = tiny(recipe=after, epochs=1, start=str(source), model=None, lr=0.0, weight_decay=0.0)
    record = train(config)
    old, new = weights(source), weights(tmp_path / "run")
    for name in (key for key in old if key.endswith("weight")):
        assert torch.equal(old[name], new[name]), name
    start = record["start"]
    assert start["step"] == 4 and start["recipe"] == before and start["new_head"] is None
    assert len(start["sha256"]) == 64
    first = json.loads((source / "result.json").read_text())["final"]
    if before == after:  # the clips came along: the same network, measured before the first step
        assert start["test_loss"] == first["test_loss"]
    else:
        assert start["test_loss"] == pytest.approx(first["test_loss"], rel=0.2)


def test_the_peak_rate_is_a_tenth(trained: Callable[[str], Path], tiny: Make) -> None:
    source = trained("fp32")
    assert tiny(lr=None, start=str(source)).resolved().lr == pytest.approx(
        tiny(lr=None).resolved().lr / 10
    )


@pytest.mark.parametrize("form", ["checkpoint", "folder", "tensors"])
def test_one_checkpoint_of_a_run(
    form: str, trained: Callable[[str], Path], tiny: Make, tmp_path: Path
) -> None:
    source = trained("fp32")
    folder = source / "checkpoints"
    names = {
        "checkpoint": folder / "step-000000004.json",
        "folder": folder,
        "tensors": folder / "step-000000004.safetensors",
    }
    record = train(tiny(start=str(names[form]), epochs=1))
    assert record["start"]["step"] == 4


def test_a_file_of_save(tiny: Make, tmp_path: Path) -> None:
    """Float32 and converted: the weights, and the clips where the layers' recipes are the same."""
    torch.manual_seed(0)
    model = nybble.convert(build_model("cnn", 10, 1), FOUR_BIT)
    model(torch.rand(4, 1, 8, 8)).sum().backward()
    path = tmp_path / "model.safetensors"
    nybble.save(model, path)
    record = train(
        tiny(recipe=FOUR_BIT, start=str(path), epochs=1, lr=0.0, weight_decay=0.0, alpha_lr=0.0)
    )
    assert record["start"]["step"] is None and record["start"]["recipe"] is None
    new = weights(tmp_path / "run")
    old = model.state_dict()
    assert torch.equal(old["features.0.weight"], new["features.0.weight"])
    assert "features.4.nybble_alpha" in old
    assert torch.equal(old["features.4.nybble_alpha"], new["features.4.nybble_alpha"])
    train(tiny(recipe="hfp8", start=str(path), epochs=1, out=str(tmp_path / "other")))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"--from .*model.safetensors.*checksum does not match"):
        train(tiny(start=str(path), out=str(tmp_path / "third")))


def test_classes_are_those_of_the_source(tiny: Make, tmp_path: Path) -> None:
    all_three = pictures(tmp_path / "pets", ("ant", "bee", "cat"))
    source = tmp_path / "source"
    train(tiny(data=all_three, out=str(source), epochs=1))
    fewer = pictures(tmp_path / "fewer", ("cat", "bee"))
    record = train(tiny(data=fewer, start=str(source), epochs=1))
    assert record["data"]["classes"] == ["ant", "bee", "cat"]
    other = pictures(tmp_path / "other", ("bee", "cat", "dog"))
    with pytest.raises(UserError, match=r"has the class 'dog', which .* Give --new-head"):
        train(tiny(data=other, start=str(source), out=str(tmp_path / "b")))
    record = train(
        tiny(data=other, start=str(source), new_head=True, epochs=1, out=str(tmp_path / "b"))
    )
    assert record["data"]["classes"] == ["bee", "cat", "dog"]


def test_new_head(trained: Callable[[str], Path], tiny: Make, tmp_path: Path) -> None:
    source = trained("fp32")
    record = train(tiny(start=str(source), new_head=True, epochs=1, lr=0.0, weight_decay=0.0))
    assert record["start"]["new_head"] == "classifier"
    old, new = weights(source), weights(tmp_path / "run")
    assert torch.equal(old["features.0.weight"], new["features.0.weight"])
    assert not torch.equal(old["classifier.weight"], new["classifier.weight"])
    assert not new["classifier.bias"].any()


def test_a_resumed_run_is_the_same(
    trained: Callable[[str], Path],
    tiny: Make,
    final_state: Callable[[TrainConfig], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = trained("fp32")
    whole = tiny(recipe=FOUR_BIT, start=str(source), epochs=2, out=str(tmp_path / "whole"))
    train(whole)
    parts = tiny(
        recipe=FOUR_BIT, start=str(source), epochs=2, out=str(tmp_path / "parts"),
        checkpoint_every=3,
    )  # fmt: skip
    from nybble.training import loop

    class StopError(Exception):
        pass

    def stop(run: loop.Run) -> None:
        raise StopError

    with monkeypatch.context() as patched:
        patched.setattr(loop, "finish_epoch", stop)
        with pytest.raises(StopError):
            train(parts)
    train(tiny(**{**vars(parts), "resume": True}))
    assert final_state(parts) == final_state(whole)
    # The source may go away: what the run is made of is recorded.
    shutil.rmtree(source)
    assert train(tiny(**{**vars(parts), "resume": True}))["status"] == "complete"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "nowhere"}, "--from nowhere: there is no such file or folder"),
        ({"model": "resnet8"}, "that run's model is cnn, not resnet8; leave --model out"),
        ({"task": "tests.training.toy_task:Echo"}, "that run's task is vision, not"),
    ],
)
def test_what_is_refused(
    changes: dict[str, Any], message: str, trained: Callable[[str], Path], tiny: Make
) -> None:
    source = trained("fp32")
    with pytest.raises(UserError, match=message):
        train(tiny(**{"start": str(source), **changes}))


def test_other_shapes_are_refused(tiny: Make, tmp_path: Path) -> None:
    for name, model in (("five", build_model("cnn", 5, 1)), ("colour", build_model("cnn", 10, 3))):
        nybble.save(model, tmp_path / f"{name}.safetensors")
    five, colour = (str(tmp_path / f"{name}.safetensors") for name in ("five", "colour"))
    with pytest.raises(
        UserError, match=r"'classifier.weight' is \[5, 64\] there and \[10, 64\].*Give --new-head"
    ):
        train(tiny(start=five))
    assert train(tiny(start=five, new_head=True, epochs=1))["start"]["new_head"] == "classifier"
    with pytest.raises(UserError, match=r"'features.0.weight' is \[16, 3, 3, 3\] there"):
        train(tiny(start=colour, out=str(tmp_path / "b")))
    with pytest.raises(UserError, match="--new-head starts 'classifier' anew, and no other"):
        train(tiny(start=colour, new_head=True, out=str(tmp_path / "b")))
    with pytest.raises(UserError, match=r"(has|lacks) .*; give the model that was trained"):
        train(tiny(start=five, model="resnet8", out=str(tmp_path / "c")))


def test_a_folder_without_a_checkpoint(tiny: Make, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="give the folder of a nybble run"):
        train(tiny(start=str(empty)))
    with pytest.raises(UserError, match=r"--new-head starts the last layer .*; add --from"):
        tiny(new_head=True)


def test_last_layer() -> None:
    assert last_layer(build_model("resnet8", 10, 1)) == "fc"
    assert last_layer(nybble.convert(build_model("resnet8", 10, 1), "sun2020")) == "fc"
    with pytest.raises(UserError, match="no layer with a matrix"):
        last_layer(nn.BatchNorm2d(3))
