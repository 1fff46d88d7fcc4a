"""What the user sees while a run goes on: a live line on a terminal, plain lines elsewhere.

log.txt in the run's folder gets plain lines from the first second, whatever the terminal. The
screen part goes to stderr, so that stdout holds the result only. Lines inside an epoch are limited
by time: one at once, then at most one every few seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from nybble.training.files import disk_errors

LINE_EVERY_SECONDS = 10.0


class Reporter:
    """Writes to the open file `log` (and closes it) and, unless `quiet`, to stderr.

    Use as a context manager.
    """

    def __init__(self, log: IO[str], quiet: bool = False) -> None:
        self._log = log
        self._quiet = quiet
        self._last_line = float("-inf")
        self._live: Any = None
        self._bar: Any = None

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the live line and close the log."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        with suppress(OSError):  # a full disk was reported when the line was written
            self._log.close()

    def start(self, total_steps: int, done: int) -> None:
        """Begin the live line, if stderr is a terminal."""
        if self._quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._bar = self._live.add_task("", total=total_steps, completed=done)
        self._live.start()

    def say(self, line: str) -> None:
        """One line to the log and to the screen."""
        self._write_log(line)
        if self._quiet:
            return
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def note(self, line: str) -> None:
        """One line to the log only."""
        self._write_log(line)

    def step(self, done: int, line: str) -> None:
        """The state after a step: the live line always, a plain line now and then."""
        now = time.monotonic()
        due = now - self._last_line >= LINE_EVERY_SECONDS
        if self._live is not None:
            self._live.update(self._bar, completed=done, description=line)
        if due:
            self._last_line = now
            self._write_log(line)
            if self._live is None and not self._quiet:
                print(line, file=sys.stderr, flush=True)

    def _write_log(self, line: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with disk_errors(f"The log {self._log.name}"):
            self._log.write(f"{stamp}  {line}\n")
            self._log.flush()


@contextmanager
def waiting(what: str, quiet: bool) -> Iterator[None]:
    """Show `what` while something takes time, on a terminal only, and wipe it afterwards."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss.

    >>> clock(3725), clock(59.4)
    ('1:02:05', '0:59')
    """
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def with_unit(value: float, unit: str, digits: int = 2) -> str:
    """A metric as people read it: a share in per cent, anything else as it is.

    >>> with_unit(0.915, "%"), with_unit(112.34, "")
    ('91.50 %', '112.34')
    """
    return f"{100 * value:.{digits}f} %" if unit == "%" else f"{value:.{digits}f}"
