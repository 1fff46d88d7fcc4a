"""Run what a plan says: reuse what is complete, resume what was stopped, show what failed.

For each run folder, decided from its result.json:

    complete, same configuration   reused, not run again
    failed, same configuration     kept and shown; run again only when asked (`retry_failed`), the
                                   old folder being renamed to <name>.failed-1, -2, ...
    anything else                  trained, from its last checkpoint if there is one
    another configuration          an error: nothing is overwritten

A run that fails does not stop the others.  Ctrl-C or SIGTERM does: the run in progress saves a
checkpoint, and the same command continues.

With `jobs` > 1, runs go to that many processes (`jobs.py`).
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nybble.errors import UserError
from nybble.studies.jobs import side_by_side
from nybble.studies.outcome import COMPLETE, Outcome, Point
from nybble.studies.plan import differences
from nybble.training.config import TrainConfig
from nybble.training.result import read_result
from nybble.training.signals import Interrupted

FAILED = "failed"
PERCENT = {"accuracy"}
"""Metrics that runs record as a share and reports show in percent."""

Report = Callable[[str], None]


def run_all(
    configs: list[TrainConfig],
    *,
    jobs: int = 1,
    retry_failed: bool = False,
    say: Report = lambda line: None,
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Bring every run to its end and return the outcomes in the order of `configs`.

    `say` gets one line before and after each run, `done` every outcome as soon as it exists.

    Raises:
        UserError: a folder holds a run with another configuration.
        Interrupted: a signal; everything so far is saved.
    """
    outcomes: dict[str, Outcome] = {}
    waiting: list[tuple[int, TrainConfig]] = []
    for place, config in enumerate(configs, 1):
        known = _known(config, retry_failed)
        if known is None:
            waiting.append((place, config))
            continue
        head = f"run {place}/{len(configs)}  {_name(config)}"
        say(f"{head}  {_verdict(known)} (from an earlier call)")
        outcomes[config.out or ""] = known
        done(known)
    runner = _one_by_one(waiting) if jobs <= 1 else side_by_side(waiting, jobs, run_one, _crashed)
    for place, config, outcome in runner:
        head = f"run {place}/{len(configs)}  {_name(config)}"
        if outcome is None:
            say(f"{head}  -> {config.out}")
            continue
        say(f"{head}  {_verdict(outcome)}")
        outcomes[config.out or ""] = outcome
        done(outcome)
    return [outcomes[config.out or ""] for config in configs]


def _name(config: TrainConfig) -> str:
    return f"{config.recipe} seed {config.seed}"


def _verdict(outcome: Outcome) -> str:
    if outcome.finished and outcome.metric is not None:
        return f"{outcome.status}: {outcome.metric:.2f}"
    return f"{outcome.status}: {outcome.reason}" if outcome.reason else outcome.status


def _known(config: TrainConfig, retry_failed: bool) -> Outcome | None:
    """The outcome of a run that need not run again, or None."""
    folder = config.run_folder()
    record = read_result(folder)
    if record is None:
        return None
    held = TrainConfig(**_fields(record["config"])).identity()
    wanted = {**config.identity(), "lr": config.resolved_lr()}
    different = differences(held, wanted)
    if different:
        raise UserError(
            f"{folder} holds a run with another configuration: {'; '.join(different)}. "
            "Give another --out, or remove this folder."
        )
    outcome = read_outcome(config, record)
    if outcome.status == FAILED and retry_failed:
        _set_aside(folder)
        return None
    return replace(outcome, reused=True) if outcome.status in (COMPLETE, FAILED) else None


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "rules": tuple((rule[0], rule[1]) for rule in config.get("rules", ()))}


def _set_aside(folder: Path) -> None:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.failed-{number}")).exists():
        number += 1
    folder.rename(aside)


def _one_by_one(
    waiting: list[tuple[int, TrainConfig]],
) -> Iterator[tuple[int, TrainConfig, Outcome | None]]:
    for place, config in waiting:
        yield place, config, None
        yield place, config, run_one(config)


def run_one(config: TrainConfig) -> Outcome:
    """Train one run and return its outcome; an error in it becomes a failed outcome.

    Raises:
        Interrupted: a signal asked to stop.
        OSError, UserError: the disk is full (no later run could be saved either).
    """
    from nybble.training.loop import train

    folder = config.run_folder()
    try:
        train(replace(config, resume=folder.exists()))
    except Interrupted:
        raise
    except Exception as error:
        if _is_disk_trouble(error):
            raise
        return _failed(config, error)
    return read_outcome(config, read_result(folder))


def _is_disk_trouble(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return True
        error = error.__cause__
    return False


def _failed(config: TrainConfig, error: Exception) -> Outcome:
    """The outcome of a run that raised; the traceback of an unexpected error goes to its log."""
    folder = config.run_folder()
    text = str(error)
    if not isinstance(error, UserError):
        text = f"{type(error).__name__}: {error}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write("".join(traceback.format_exception(error)))
    return _crashed(config, " ".join(text.split()))


def _crashed(config: TrainConfig, reason: str) -> Outcome:
    record = read_result(config.run_folder())
    return replace(read_outcome(config, record), status=FAILED, reason=reason)


def read_outcome(config: TrainConfig, record: dict[str, Any] | None) -> Outcome:
    """The outcome that a run's result.json tells; without one, the run has not begun.

    >>> read_outcome(TrainConfig(recipe="fp32", out="x"), None).status
    'not started'
    """
    folder = str(config.run_folder())
    if record is None:
        return Outcome(config.recipe, config.seed, "not started", folder)
    name = metric_name(record)
    scale = 100.0 if name in PERCENT else 1.0
    epochs = record.get("epochs", [])
    curve = tuple(
        Point(
            epoch["epoch"],
            epoch["elapsed_seconds"],
            epoch["train_loss"],
            None if epoch[f"test_{name}"] is None else scale * epoch[f"test_{name}"],
        )
        for epoch in epochs
    )
    dead = {layer for epoch in epochs for layer in epoch.get("gradients", {}).get("dead", ())}
    return Outcome(
        recipe=config.recipe,
        seed=config.seed,
        status=record["status"],
        folder=folder,
        metric=curve[-1].metric if curve else None,
        reason=_reason(record),
        seconds=curve[-1].seconds if curve else None,
        saved_bytes=record.get("saved_bytes"),
        dead_layers=tuple(sorted(dead)),
        curve=curve,
    )


def _reason(record: dict[str, Any]) -> str:
    error = record.get("error")
    if isinstance(error, dict):
        error = error.get("message") or str(error)
    return " ".join(str(error).split()) if error else ""


def metric_name(record: dict[str, Any]) -> str:
    """The name of the metric in a run's record: what follows `test_` beside the loss.

    >>> metric_name({"epochs": [{"test_loss": 1.0, "test_accuracy": 0.5}]})
    'accuracy'
    """
    for key in record["epochs"][0] if record.get("epochs") else ():
        if key.startswith("test_") and key not in ("test_loss", "test_seconds"):
            return str(key.removeprefix("test_"))
    return "accuracy"
