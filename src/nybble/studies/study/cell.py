"""One cell in a worker of whatever engine: train it, measure it, and write how it ended.

The training goes on in a process of its own (`jobs.side_by_side`), so a cell that is killed, runs
out of memory or crashes is a failed cell, and neither the worker nor the study ends with it. What
came of it is written to OUT/outcomes/KEY.json, where the parent looks for it: not every engine
gives results one by one, and a file is still there if the parent was killed in between.

A cell that is asked to stop saves a checkpoint and writes that it was interrupted; it goes on from
there when the study is started again. Before a cell begins, a process of an earlier session that
still trains in its folder is given the time to save and stop.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from nybble.errors import UserError
from nybble.studies.outcome import COMPLETE, Outcome
from nybble.studies.study.session import FILE, PATIENCE, Lease
from nybble.studies.study.store import FAILED, INTERRUPTED
from nybble.training.config import TrainConfig
from nybble.training.files import write_json

OUTCOMES = "outcomes"
CELLS = "cells"
STARTED = "started"
"""Ending of the empty file beside the outcomes that says that a cell has begun."""


@dataclass(frozen=True)
class Work:
    """What a worker needs to know of a cell; `config.out` is OUT/cells/KEY.

    out: OUT, absolute. token: of the session. deadline: after this time (of the clock) a cell does
    not begin. parent: the process of the study, where the worker is a child of it on this machine;
    then it leaves the parent's process group, so that the parent alone hears Ctrl-C, and ends when
    the parent has been killed.
    """

    out: str
    key: str
    config: TrainConfig
    measures: tuple[str, ...]
    token: str
    deadline: float | None = None
    parent: int | None = None


def run_cell(work: Work) -> None:
    """Bring one cell to its end, or to a stop.

    Raises:
        UserError: no other cell could go on either (a full disk).
    """
    from nybble.studies.jobs import side_by_side
    from nybble.studies.runs import crashed, read_outcome
    from nybble.training.result import read_result
    from nybble.training.signals import Interrupted

    if multiprocessing.current_process().daemon:
        raise UserError(
            "This worker may not start a process (it is a daemon). Start Dask's workers with "
            "--no-nanny, or with the setting distributed.worker.daemon: False."
        )
    if work.parent is not None and hasattr(os, "setpgrp"):
        os.setpgrp()
    if multiprocessing.get_start_method() == "loky":
        # A child would be told to set this method too, which it has not heard of.
        multiprocessing.set_start_method("spawn", force=True)
    lease = Lease(Path(work.out) / FILE, work.token)
    late = work.deadline is not None and time.time() > work.deadline
    if late or lease.over() or not _free(Path(str(work.config.out)), lease):
        return
    started = now()
    (Path(work.out) / OUTCOMES / f"{work.key}.{STARTED}").touch()
    outcome: Outcome | None = None
    try:
        for _, _, found in side_by_side(
            [(1, work.config)],
            1,
            partial(train_and_measure, measures=work.measures),
            crashed,
            asked=lambda: signal.SIGTERM if lease.over() else None,
        ):
            outcome = found
    except Interrupted:
        known = read_outcome(work.config, read_result(work.config.run_folder()))
        outcome = replace(known, status=INTERRUPTED, reason="")
    if outcome is not None:
        write_outcome(Path(work.out), work.key, outcome, started)
    if work.parent is not None and os.getppid() != work.parent:
        os._exit(0)  # killed: nobody would end this worker for minutes


def now() -> str:
    """The time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _free(folder: Path, lease: Lease) -> bool:
    """Wait until no process of an earlier session trains in `folder`."""
    from nybble.training.folder import in_use

    until = time.monotonic() + 3 * PATIENCE
    while in_use(folder):
        if lease.over() or time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def train_and_measure(config: TrainConfig, measures: tuple[str, ...]) -> Outcome:
    """In a process of its own: train to the end, then take the measures; the outcome of both.

    What a user could mend for this cell alone (a recipe that does not suit the model) makes it a
    failed one, as an error in a measure does; the numbers of the other measures are kept.

    Raises:
        Interrupted: a signal; the run is saved.
        UserError, OSError: the disk.
    """
    from nybble.studies.measures import get_measure
    from nybble.studies.runs import crashed, run_one
    from nybble.training.signals import Interrupted

    try:
        outcome = run_one(config)
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return crashed(config, str(error))
    if outcome.status != COMPLETE:
        return outcome
    extras: dict[str, float | None] = dict(outcome.extras)
    for name in measures:
        try:
            numbers = get_measure(name)(config.run_folder(), config)
            if not numbers:
                raise UserError("it gave no number")
        except Interrupted:
            raise
        except Exception as error:
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            reason = " ".join(f"measure {name}: {kind}{error}".split())
            return replace(outcome, status=FAILED, reason=reason, extras=extras)
        extras |= {f"{name}.{key}": value for key, value in numbers.items()}
    return replace(outcome, extras=extras)


def write_outcome(out: Path, key: str, outcome: Outcome, started: str) -> None:
    """Write OUT/outcomes/KEY.json, whole or not at all."""
    record = {"outcome": outcome.to_dict(), "started": started, "finished": now()}
    write_json(out / OUTCOMES / f"{key}.json", record)


def take_outcome(out: Path, key: str) -> tuple[Outcome, str, str] | None:
    """Read what `write_outcome` wrote: the outcome, when it started, and when it ended.

    A file that cannot be read is as none: the cell's folder knows the rest.
    """
    try:
        record: dict[str, Any] = json.loads((out / OUTCOMES / f"{key}.json").read_text())
        outcome = Outcome.from_dict(record["outcome"])
        return outcome, str(record["started"]), str(record["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
