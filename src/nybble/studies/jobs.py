"""Runs side by side: one process a run, a few at a time, stopped together.

A child has a process group of its own, so Ctrl-C reaches only the parent, which then asks every
child once, by SIGTERM, to save and stop; a second signal would end a child before it has saved.  A
child whose parent is gone (SIGKILL) stops itself in the same way, so no run goes on unseen and no
two processes write to one folder.

A child is silent; now and then the parent repeats the last line of every child's log.txt.  Every
child takes the threads of its configuration.  The step times of such runs disturb each other, which
is why the ratio of step times in the table is measured separately (`steptime`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from nybble.errors import UserError
from nybble.studies.outcome import Outcome
from nybble.training.allocator import keep_freed_memory
from nybble.training.config import TrainConfig
from nybble.training.folder import LOG_FILE
from nybble.training.signals import Interrupted, StopRequest

RunOne = Callable[[TrainConfig], Outcome]
Crashed = Callable[[TrainConfig, str], Outcome]
Event = tuple[int, TrainConfig, Outcome | None]

POLL_SECONDS = 0.2
PROGRESS_SECONDS = 30.0
"""How often the parent tells where every child is."""


def side_by_side(
    waiting: list[tuple[int, TrainConfig]],
    jobs: int,
    run_one: RunOne,
    crashed: Crashed,
    say: Callable[[str], None] = lambda line: None,
    asked: Callable[[], int | None] = lambda: None,
) -> Iterator[Event]:
    """Run the configurations in `jobs` processes at a time.

    Yields (place, config, None) when a run starts and (place, config, outcome) when it has ended.
    `run_one` is called in the child; `crashed` (in the parent) makes the outcome of a child that
    ended without an answer; `say` gets a line for every child every `PROGRESS_SECONDS`.
    `asked` is another way to be stopped than a signal to this process: it gives None, or the number
    of the signal to stop as by.

    Raises:
        Interrupted: a signal; the children have been asked to save and have ended.
        UserError: a child could not go on and no other one could (a full disk).
    """
    context = multiprocessing.get_context("spawn")
    queue = list(waiting)
    active: dict[int, tuple[BaseProcess, Connection, int, TrainConfig]] = {}
    told = time.monotonic()
    with StopRequest() as stop:
        try:
            while queue or active:
                signum = stop.signum or asked()
                while queue and len(active) < jobs and signum is None:
                    place, config = queue.pop(0)
                    receiver, sender = context.Pipe(duplex=False)
                    child = context.Process(target=_work, args=(config, sender, run_one))
                    child.start()
                    sender.close()
                    active[child.sentinel] = (child, receiver, place, config)
                    yield place, config, None
                if signum is not None:
                    raise Interrupted(
                        "Stopped; every run has saved a checkpoint. The same command continues.",
                        signum,
                    )
                if time.monotonic() - told >= PROGRESS_SECONDS:
                    told = time.monotonic()
                    for _, _, place, config in active.values():
                        say(f"run {place}  {config.recipe} seed {config.seed}  {last_line(config)}")
                for ended in wait(list(active), timeout=POLL_SECONDS):
                    if isinstance(ended, int):
                        process, receiver, place, config = active.pop(ended)
                        process.join()
                        yield place, config, _answer(process, receiver, config, crashed)
        finally:
            for process, *_ in active.values():
                process.terminate()
            for process, *_ in active.values():
                process.join()


def last_line(config: TrainConfig) -> str:
    """The last line of a run's log, without its time stamp; empty before there is one.

    >>> last_line(TrainConfig(out="no such folder"))
    ''
    """
    try:
        text = (config.run_folder() / LOG_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = text.splitlines()
    return lines[-1].partition("  ")[2] if lines else ""


def _work(config: TrainConfig, sender: Connection, run_one: RunOne) -> None:
    """In the child: train quietly and send the outcome, or the error that stops all."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    keep_freed_memory()
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        sender.send(run_one(replace(config, quiet=True)))
    except Interrupted as stopped:
        sender.send(("interrupted", str(stopped), stopped.signum))
    except Exception as error:
        sender.send(("error", str(error), 0))


def _stop_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _answer(
    process: BaseProcess, receiver: Connection, config: TrainConfig, crashed: Crashed
) -> Outcome:
    try:
        answer = receiver.recv() if receiver.poll() else None
    except EOFError:
        answer = None
    if isinstance(answer, Outcome):
        return answer
    if isinstance(answer, tuple):
        kind, message, signum = answer
        raise Interrupted(message, signum) if kind == "interrupted" else UserError(message)
    return crashed(config, f"its process ended with status {process.exitcode}")
