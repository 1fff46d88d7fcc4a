"""A finished run, ready to be tested again: its task, and its model with the weights it ended with.

Loaded as `nybble train --from FOLDER` loads a run, so classes, tokens, learned clips and gradient
scales are those of the run, and everything is checked on the way. A measure must leave task and
model as it found them: several measures look at one loaded run.

The random numbers of a measure come from `draws(purpose, ...)`, a function of the run's seed and of
the place where they are used, and of nothing else: runs of two recipes with one seed meet the same
noise, the same corrupted tokens, the same flipped bits, so their difference is one of pairs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nybble.errors import UserError
from nybble.training.config import TrainConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from nybble.training.evaluate import Change, Evaluation
    from nybble.training.tasks.base import Inputs, Task


@dataclass(frozen=True)
class Trained:
    """A finished run. `seed` decides what random numbers the measures draw (default: the run's)."""

    config: TrainConfig
    task: Task
    model: nn.Module
    seed: int

    def draws(self, purpose: str, *position: int) -> torch.Generator:
        """A generator for one place of one measure."""
        from nybble.training.seeds import generator

        return generator(self.seed, f"measure/{purpose}", *position)

    def test(self, change: Change | None = None, model: nn.Module | None = None) -> Evaluation:
        """Test the model (or a changed copy of it) on the test set, its inputs as `change` says."""
        from nybble.training.evaluate import evaluate

        with one_setting(self.config.threads):
            return evaluate(self.model if model is None else model, self.task, change)

    def metric(self, change: Change | None = None) -> float:
        """The metric of that test as reports show it: shares in per cent."""
        return self.shown(self.test(change).metric)

    def shown(self, metric: float) -> float:
        """A metric as reports show it."""
        return metric * (100.0 if self.task.unit == "%" else 1.0)


def load_trained(
    folder: Path, config: TrainConfig | None = None, seed: int | None = None
) -> Trained:
    """The run in `folder`; config: as it was run (default: what the folder says).

    The newest one is kept, so measures that follow each other load it once.

    Raises:
        UserError: there is no finished run, or its data have changed.
    """
    from nybble.training.folder import CHECKPOINTS

    asked = recorded_config(folder) if config is None else config
    files = sorted((folder / CHECKPOINTS).glob("step-*"))
    stamps = tuple((file.name, file.stat().st_mtime_ns) for file in files)
    found = _load(str(folder.resolve()), asked.resolved(), stamps)
    return found if seed is None else replace(found, seed=seed)


def recorded_config(folder: Path) -> TrainConfig:
    """The configuration in the folder of a run.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    from nybble.training.folder import CONFIG_FILE

    path = folder / CONFIG_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the configuration of a run ({error}).") from None
    return TrainConfig.from_dict(record)


def first(inputs: Inputs) -> tuple[Tensor, tuple[Any, ...] | None]:
    """The tensor of a batch that carries the signal, and what goes with it (None: it is alone)."""
    return (inputs[0], tuple(inputs[1:])) if isinstance(inputs, tuple) else (inputs, None)


def whole(x: Tensor, rest: tuple[Any, ...] | None) -> Inputs:
    """The inverse of `first`."""
    return x if rest is None else (x, *rest)


@lru_cache(maxsize=1)
def _load(place: str, config: TrainConfig, stamps: tuple[tuple[str, int], ...]) -> Trained:
    from nybble.training.prepare import begin, build_model
    from nybble.training.result import read_result
    from nybble.training.seeds import globals_restored
    from nybble.training.tasks import make_task

    folder = Path(place)
    result = read_result(folder)
    if result is None or result.get("status") != "complete":
        status = "has no result" if result is None else f"is {result.get('status')}"
        raise UserError(f"{folder}: the run {status}; measures are taken of finished runs.")
    again = replace(config, start=str(folder), new_head=False)
    with globals_restored(), one_setting(config.threads):
        task = make_task(again)
        model, _ = build_model(again, task)
        begin(model, again)
        model.eval()
    _same_data(folder, result, task.describe())
    return Trained(config, task, model, config.seed)


def _same_data(folder: Path, result: dict[str, Any], about: dict[str, Any]) -> None:
    before = (result.get("data") or {}).get("sha256")
    if before is not None and before != about.get("sha256"):
        raise UserError(
            f"The data of the run in {folder} have changed since ({about['name']}); train it again."
        )


@contextmanager
def one_setting(threads: int | None) -> Iterator[None]:
    """With the number of threads of the run."""
    import torch

    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
