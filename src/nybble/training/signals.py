"""SIGINT (Ctrl-C) and SIGTERM as requests to stop after the current step.

The first signal is noted; the loop finishes its step, saves and stops. A second one acts at once,
as the handlers are put back when the first arrives.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from nybble.errors import NybbleError


class Interrupted(NybbleError):  # noqa: N818 (not an error of anybody's)
    """A run that was asked to stop, and has been saved. `status` is the shell's 128 + signal."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum
        self.status = 128 + signum


class StopRequest:
    """Context manager; `signum` is the signal that arrived, or None.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signum = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
