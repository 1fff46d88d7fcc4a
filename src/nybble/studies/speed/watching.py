"""What looking costs: steps of a 4-bit model that is watched, against those of its twin.

    cost = total(watched) / total(not watched) - 1        over one whole turn of all layers

Both models take steps in turn, in blocks of `BLOCK` steps, until every layer has had its looks and
its burst: `every` steps at least. One thread: CPU time; more: wall time. The interval is that of
the blocks' ratios by bootstrap.

Not done here: accelerators, and alarms' own work, which is none in a healthy run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch

from nybble.errors import UserError
from nybble.recipes import get_recipe
from nybble.studies.speed import record
from nybble.studies.speed.forms import clock_of, four_bit_side
from nybble.studies.speed.workload import check_name, make_workload
from nybble.watching import Watch

Progress = Callable[[str, int, int], None]
BLOCK = 5
SAMPLES = 2000


@dataclass(frozen=True)
class WatchConfig:
    """What to measure; `every`: steps between two looks at a layer, and steps of each model.

    >>> WatchConfig(model="cnn", every=20).command()
    'nybble bench watch --model cnn --every 20'
    """

    model: str = "resnet18"
    batch: int = 32
    recipe: str = "sun2020"
    every: int = 100
    threads: int = 1
    size: int = 32
    channels: int = 3

    def __post_init__(self) -> None:
        check_name(self.model)
        get_recipe(self.recipe)
        for name in ("batch", "every", "threads", "size", "channels"):
            record.at_least(name, getattr(self, name))
        if self.every < 2 * BLOCK:
            raise UserError(f"--every must be at least {2 * BLOCK}, not {self.every}.")

    def command(self) -> str:
        """The command that repeats the measurement."""
        default = {field.name: field.default for field in fields(self)}
        return record.words("nybble bench watch", asdict(self), default)


def measure_watch(
    config: WatchConfig, progress: Progress = lambda what, done, total: None
) -> dict[str, Any]:
    """Measure, and return the record; `cost` is a share of the step, 0.01 for one per cent.

    Raises:
        UserError: unknown names, a model that cannot be run.
    """
    workload = make_workload(config.model, config.batch, config.size, config.channels)
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    clock = clock_of(config.threads)
    now = time.process_time if clock == "cpu" else time.perf_counter
    try:
        plain = four_bit_side(workload, config.recipe, "auto", "4bit")
        watched = four_bit_side(workload, config.recipe, "auto", "4bit")
        for side in (plain, watched):
            for _ in range(2):
                side.step()
        watch = Watch(watched.model, config.every, keep=False, say=lambda text: None)
        blocks = -(-config.every // BLOCK)
        spent: dict[str, list[float]] = {"plain": [], "watched": []}
        for block in range(blocks):
            progress("blocks of steps", block, blocks)
            order = [("plain", plain), ("watched", watched)]
            for name, side in order if block % 2 == 0 else reversed(order):
                start = now()
                for _ in range(BLOCK):
                    side.step()
                spent[name].append(now() - start)
        watch.close()
    finally:
        torch.set_num_threads(before)
    plain_seconds, watched_seconds = (np.array(spent[name]) for name in ("plain", "watched"))
    picks = np.random.default_rng(0).integers(0, blocks, (SAMPLES, blocks))
    costs = watched_seconds[picks].sum(1) / plain_seconds[picks].sum(1) - 1
    low, high = np.quantile(costs, [0.025, 0.975])
    return record.make(
        "watch",
        config.command(),
        {**asdict(config), "input": workload.input},
        decides=clock,
        cost=float(watched_seconds.sum() / plain_seconds.sum() - 1),
        interval={"low": float(low), "high": float(high), "level": 0.95, "method": "bootstrap"},
        step_ms={name: 1000 * sum(values) / (BLOCK * blocks) for name, values in spent.items()},
        looks=watch.looked,
        target={"what": "looking costs at most 3 % of the step", "most": 0.03},
    )
