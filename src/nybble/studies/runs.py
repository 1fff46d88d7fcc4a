"""Run what a plan says: reuse what is complete, resume what was stopped, show what failed.

For each run folder, decided from its result.json:

    complete, same configuration   reused, not run again
    failed, same configuration     kept and shown; run again only when asked (`retry_failed`), the
                                   old folder being renamed to <name>.failed-1, -2, ...
    anything else                  trained, from its last checkpoint if there is one
    another configuration          an error before anything runs: nothing is overwritten

A run that fails (a NaN loss, an error in the model's code) does not stop the others.  What would
stop them too does: a full disk, a folder that another process trains in.  So do Ctrl-C and SIGTERM:
the run in progress saves a checkpoint, and the same command continues.

With `jobs` > 1, runs go to that many processes (`jobs.py`).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nybble.errors import UserError
from nybble.studies.jobs import side_by_side
from nybble.studies.outcome import COMPLETE, Outcome, Point
from nybble.training.config import TrainConfig
from nybble.training.folder import check_folder
from nybble.training.result import read_result, unit_of
from nybble.training.signals import Interrupted

FAILED = "failed"
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
        known = known_outcome(config, retry_failed)
        if known is None:
            waiting.append((place, config))
            continue
        head = f"run {place}/{len(configs)}  {_name(config)}"
        say(f"{head}  {_verdict(known)} (from an earlier call)")
        outcomes[config.out or ""] = known
        done(known)
    runner = (
        _one_by_one(waiting) if jobs <= 1 else side_by_side(waiting, jobs, run_one, crashed, say)
    )
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


def known_outcome(config: TrainConfig, retry_failed: bool) -> Outcome | None:
    """The outcome of a run that need not run again, or None."""
    asked, folder = replace(config, resume=True), config.run_folder()
    check_folder(asked, recipes=False)
    outcome = read_outcome(config, read_result(folder))
    if outcome.status == FAILED and retry_failed:  # maybe of a recipe that has been mended
        _set_aside(folder)
        return None
    if outcome.status != FAILED:
        check_folder(asked)
    return replace(outcome, reused=True) if outcome.status in (COMPLETE, FAILED) else None


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
    """Train one run and return its outcome; an error of this run alone becomes a failed outcome.

    Raises:
        Interrupted: a signal asked to stop.
        OSError, UserError: no other run could go on either (a full disk, a folder in use).
    """
    from nybble.training.blame import ModelError
    from nybble.training.loop import NonFiniteError, train

    folder = config.run_folder()
    try:
        train(replace(config, resume=folder.exists()))
    except (NonFiniteError, ModelError) as error:
        return crashed(config, str(error))
    except (Interrupted, UserError, OSError):
        raise
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write("".join(traceback.format_exception(error)))
        return crashed(config, f"{type(error).__name__}: {error}")
    return read_outcome(config, read_result(folder))


def crashed(config: TrainConfig, reason: str) -> Outcome:
    record = read_result(config.run_folder())
    outcome = read_outcome(config, record)
    return replace(outcome, status=FAILED, reason=" ".join(reason.split()))


def read_outcome(config: TrainConfig, record: dict[str, Any] | None) -> Outcome:
    """The outcome that a run's result.json tells; without one, the run has not begun.

    >>> read_outcome(TrainConfig(recipe="fp32", out="x"), None).status
    'not started'
    """
    folder = str(config.run_folder())
    if record is None:
        return Outcome(config.recipe, config.seed, "not started", folder)
    name = record["metric"]
    scale = 100.0 if unit_of(record) == "%" else 1.0  # reports show shares in per cent
    curve = tuple(
        Point(
            epoch["epoch"],
            epoch["elapsed_seconds"],
            epoch["train_loss"],
            None if epoch[f"test_{name}"] is None else scale * epoch[f"test_{name}"],
        )
        for epoch in record["epochs"]
    )
    return Outcome(
        recipe=config.recipe,
        seed=config.seed,
        status=record["status"],
        folder=folder,
        metric=curve[-1].metric if curve else None,
        reason=" ".join(str(record.get("error") or "").split()),
        seconds=curve[-1].seconds if curve else None,
        saved_bytes=record["saved_bytes"],
        dead_layers=tuple(record["dead_layers"]),
        extras=record["epochs"][-1].get("test_extras") or {} if curve else {},
        curve=curve,
        origin={
            "commit": record.get("commit"),
            "cpu": record["machine"]["cpu"],
            "instructions": record["machine"].get("instructions"),
            "threads": record["machine"]["threads"],
            "torch": record["versions"]["torch"],
        },
    )
