"""Run folders of before `sun2020` took SAWB's clip for signed inputs keep the meaning they had."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nybble.errors import UserError
from nybble.training import start
from nybble.training.config import TrainConfig
from nybble.training.loop import Run, train

Make = Callable[..., TrainConfig]
LEARNED = "sun2020:signed=symmetric"


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def gpt(tmp_path: Path) -> TrainConfig:
    """2 epochs of 4 steps of a decoder, whose 4-bit layers see negative inputs."""
    folder = tmp_path / "text"
    folder.mkdir()
    for part in ("train", "test"):
        (folder / f"{part}.txt").write_text("\n".join(["one two three four"] * 40))
    shape = {"width": "16", "layers": "1", "heads": "2", "length": "12", "steps": "4"}
    return TrainConfig(
        task="language",
        model="gpt",
        data=f"text:{folder}",
        recipe=LEARNED,
        task_options=tuple(shape.items()),
        epochs=2,
        batch_size=4,
        out=str(tmp_path / "run"),
        quiet=True,
        checkpoint_every=2,
    )


def interrupted(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and die in the second epoch."""
    original = Run.batch

    def batch(self: Run) -> Any:
        if self.done == 5:
            raise Killed
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "batch", batch)
        with pytest.raises(Killed):
            train(config)


def as_written_before(config: TrainConfig, **changes: Any) -> None:
    """Make config.json what version 2 wrote for `--recipe sun2020`."""
    path = config.run_folder() / "config.json"
    record = json.loads(path.read_text())
    record["config"] |= {"recipe": "sun2020", **changes}
    path.write_text(json.dumps({**record, "schema_version": 2}))


def test_a_run_with_signed_inputs_goes_on_as_it_began(
    gpt: TrainConfig, tmp_path: Path, final_state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(gpt)
    stopped = replace(gpt, out=str(tmp_path / "stopped"))
    interrupted(stopped, monkeypatch)
    as_written_before(stopped)
    with pytest.raises(UserError, match="recipe is 'sun2020:signed=symmetric' there, 'sun2020'"):
        train(replace(stopped, recipe="sun2020", resume=True))
    train(replace(stopped, resume=True))
    assert final_state(stopped) == final_state(gpt)
    assert start.config_of(str(stopped.out))["recipe"] == LEARNED


def test_rules_keep_their_meaning_too(
    gpt: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruled = replace(gpt, recipe="fp16", rules=(("re:up", LEARNED), ("re:down", "none")))
    interrupted(ruled, monkeypatch)
    rules = [["re:up", "sun2020"], ["re:down", "none"]]
    as_written_before(ruled, recipe="fp16", rules=rules)
    with pytest.raises(UserError, match="rules is"):
        train(replace(ruled, rules=(("re:up", "sun2020"), ("re:down", "none")), resume=True))
    assert train(replace(ruled, resume=True))["status"] == "complete"


def test_where_no_input_is_negative_both_meanings_are_one(
    tiny: Make, tmp_path: Path, final_state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ReLU network: the same bits, and the folder goes on under the recipe's plain name."""
    before = tiny(recipe=LEARNED, out=str(tmp_path / "before"), checkpoint_every=2)
    now = tiny(recipe="sun2020", out=str(tmp_path / "now"), checkpoint_every=2)
    stopped = tiny(recipe=LEARNED, out=str(tmp_path / "stopped"), checkpoint_every=2)
    train(before)
    train(now)
    assert final_state(before)[:3] == final_state(now)[:3]  # the fourth names the recipe
    interrupted(stopped, monkeypatch)
    as_written_before(stopped)
    train(replace(stopped, recipe="sun2020", resume=True))
    assert final_state(stopped) == final_state(now)


@pytest.mark.parametrize("damage", ["checkpoints are gone", "checkpoints are damaged"])
def test_a_run_of_which_nothing_is_known_counts_as_signed(tiny: Make, damage: str) -> None:
    config = tiny(recipe=LEARNED, epochs=1)
    train(config)
    as_written_before(config)
    for path in (config.run_folder() / "checkpoints").iterdir():
        if damage == "checkpoints are gone":
            path.unlink()
        else:
            path.write_bytes(b"")
    with pytest.raises(UserError, match="signed=symmetric' there"):
        train(replace(config, recipe="sun2020", resume=True))
    assert train(replace(config, resume=True))["status"] == "complete"


def test_a_folder_in_which_nothing_was_trained_is_free(tiny: Make) -> None:
    config = tiny(recipe=LEARNED, epochs=1)
    train(config)
    as_written_before(config)
    folder = config.run_folder()
    for path in [*(folder / "checkpoints").iterdir(), folder / "result.json"]:
        path.unlink()
    assert train(replace(config, recipe="sun2020", resume=True))["status"] == "complete"


@pytest.mark.parametrize("wrong", [{"recipe": 3}, {"rules": [3]}, {"rules": [["a", None]]}])
def test_what_is_no_recipe_is_said(tiny: Make, wrong: dict[str, Any]) -> None:
    config = tiny(epochs=1, recipe=LEARNED)
    train(config)
    as_written_before(config, **wrong)
    for path in (config.run_folder() / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be used"):
        train(replace(config, resume=True))


def test_an_lstms_hidden_state_learns_a_clip_as_before(gpt: TrainConfig) -> None:
    kept = ["width", "layers", "length", "steps"]
    options = tuple(pair for pair in gpt.task_options if pair[0] in kept)
    run = Run(replace(gpt, model="lstm", recipe="sun2020", task_options=options))
    run.train()
    clips = {n: p for n, p in run.model.named_parameters() if n.endswith("nybble_alpha")}
    used = {name for name, clip in clips.items() if bool((clip != 0).all())}
    assert used == {name for name in clips if ".hh_" in name} and len(clips) == 2
    assert all(torch.isfinite(clip).all() for clip in clips.values())
