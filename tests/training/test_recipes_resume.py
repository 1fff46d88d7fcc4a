"""Recipes since 2020 in the training loop: killed and continued is as never stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.training.test_resume import Killed, kill, stop_at

from nybble.training.checkpoint import load_checkpoint
from nybble.training.config import TrainConfig
from nybble.training.loop import train

Make = Callable[..., TrainConfig]


@pytest.mark.parametrize("recipe", ["quartet2", "tetrajet", "xi2023", "fp4-all-the-way:tail=0.1"])
def test_resume_after_a_kill(
    recipe: str, tiny: Make, tmp_path: Path, final_state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps 10 and 11 of 12 are those that use the average of Q-EMA."""
    config = tiny(recipe=recipe, checkpoint_every=3)
    train(config)
    stopped = replace(config, out=str(tmp_path / "killed"))
    with monkeypatch.context() as patch:
        stop_at(patch, 11, kill)
        with pytest.raises(Killed):
            train(stopped)
    train(replace(stopped, resume=True))
    assert final_state(stopped) == final_state(config)


def test_the_loop_tells_hooks_of_every_step(tiny: Make) -> None:
    config = tiny(recipe="tetrajet")
    train(config)
    found = load_checkpoint(config.run_folder() / "checkpoints")
    assert found is not None
    steps = [int(t) for name, t in found.content["model"].items() if name.endswith("hook_steps")]
    assert steps and set(steps) == {12}
