"""The progress of a study on stderr: a bar on a terminal, a line when a cell begins or ends."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nybble.studies.outcome import Outcome
    from nybble.studies.study.grid import Cell
    from nybble.studies.study.run import Progress


class Reporter:
    """Use as a context manager; `tell` is what `run_study` calls."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._begun = time.monotonic()
        self._reused = 0

    def __enter__(self) -> Reporter:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("cells", total=None, left="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """One line, above the bar where there is one."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def tell(self, progress: Progress) -> None:
        """What changed."""
        outcome, head = progress.outcome, f"[{progress.ended}/{progress.total}]"
        self._reused += progress.reused
        if outcome is None:
            self.say(f"{head} {progress.cell.name}: begins")
        elif progress.reused and outcome.finished:
            pass  # told together, below
        else:
            self.say(f"{head} {progress.cell.name}: {_verdict(progress.cell, outcome)}")
        if self._bar is not None:
            left = self._left(progress)
            self._bar.update(self._task, completed=progress.ended, total=progress.total, left=left)

    def _left(self, progress: Progress) -> str:
        from nybble.reports.cells import duration

        new = progress.ended - self._reused
        if new < 1:
            return ""
        each = (time.monotonic() - self._begun) / new
        return f"about {duration(each * (progress.total - progress.ended))} left"


def _verdict(cell: Cell, outcome: Outcome) -> str:
    if outcome.finished:
        from nybble.training.tasks import task_class

        kind = task_class(cell.config.task)
        return f"{kind.metric} {outcome.metric:.4g} {kind.unit}".rstrip()
    return f"{outcome.status}: {outcome.reason}" if outcome.reason else str(outcome.status)
