"""A process killed by SIGKILL ten times in a row, at random moments, ends with the same bits."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nybble.training.checkpoint import available
from nybble.training.config import TrainConfig
from nybble.training.loop import train

KILLS = 10


@pytest.mark.parametrize("recipe", ["fp32", "sun2020:factor=stochastic"])
def test_resume_kill(
    recipe: str, tiny: Callable[..., TrainConfig], tmp_path: Path, final_state: Any
) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["nybble.training.loop"])
    config = tiny(recipe=recipe, epochs=100, checkpoint_every=2, threads=1)
    killed = replace(config, out=str(tmp_path / "killed"), resume=True)
    checkpoints = killed.run_folder() / "checkpoints"
    dice = random.Random(time.time_ns())
    reached = []
    for attempt in range(KILLS):
        before = available(checkpoints)[:1]
        child = processes.Process(target=train, args=(killed,))
        child.start()
        if attempt % 2:  # at any moment: during start, loading, resuming, training, saving
            time.sleep(dice.uniform(0, 0.4))
        else:  # surely while it trains
            limit = time.monotonic() + 60
            while available(checkpoints)[:1] == before and time.monotonic() < limit:
                time.sleep(0.002)
            time.sleep(dice.uniform(0, 0.1))
        child.kill()
        child.join()
        assert child.exitcode == -9, f"kill {attempt + 1} came too late: the run had ended"
        reached.append(available(checkpoints)[0][0])
    assert reached == sorted(reached)
    assert len(set(reached)) >= KILLS // 2
    train(killed)
    train(config)
    assert final_state(killed) == final_state(config)
