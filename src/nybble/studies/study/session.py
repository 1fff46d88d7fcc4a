"""How the process that runs a study and its workers, wherever they are, stop together.

The parent writes OUT/session every `BEAT` seconds: "TOKEN COUNT go", or "... stop". A worker of the
session TOKEN goes on while the file says so, and saves and stops when it

    says stop          Ctrl-C, SIGTERM
    has another token  the study was started again after its parent was killed
    is not renewed     for `PATIENCE` seconds of the worker's own clock, or is gone: the parent died
                       (seconds in which the worker itself slept do not count: a machine that was
                       suspended wakes them in any order)

A file reaches workers on other machines (they share OUT, where the cells are), needs no signals,
which a thread of a cluster's worker could not hear, and outlives a parent that was killed.
"""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from nybble.errors import UserError
from nybble.training.files import disk_errors

FILE = "session"
LOCK = "study.lock"
BEAT = 2.0
PATIENCE = 30.0
POLL = 0.5
"""A worker looks into the file this often at most."""
SLEPT = 5 * BEAT
"""A worker that has not looked for so long was not running."""


class Session:
    """The parent's side; a context manager that holds the folder for itself alone.

    Raises:
        UserError: another process runs a study in `out`.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / FILE
        self.token = secrets.token_hex(8)
        self._count = 0
        self._word = "go"
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._lock = _locked(out / LOCK)
        self._write()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._ended.set()
        self._thread.join()
        self._lock.close()

    def stop(self) -> None:
        """Ask every worker to save and stop."""
        self._word = "stop"
        self._write()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with suppress(UserError):  # a full disk ends the cells, which say so
                self._write()

    def _write(self) -> None:
        with self._writing:
            self._count += 1
            temporary = self.path.with_name(f".{FILE}.tmp")
            with disk_errors(f"The file {self.path}"):
                temporary.write_text(f"{self.token} {self._count} {self._word}")
                temporary.replace(self.path)


class Lease:
    """A worker's side: may it still go on?"""

    def __init__(self, path: Path, token: str, patience: float = PATIENCE) -> None:
        self._path, self._token, self._patience = path, token, patience
        self._seen = ""
        self._renewed = self._looked = time.monotonic()
        self._over = False

    def over(self, now: float | None = None) -> bool:
        """Whether to save and stop; once it is, it stays so."""
        now = time.monotonic() if now is None else now
        if self._over or (self._seen and now - self._looked < POLL):
            return self._over
        if now - self._looked > SLEPT:
            self._renewed = now
        self._looked = now
        try:
            text = self._path.read_text()
        except OSError:
            text = self._seen
        if text != self._seen:
            self._seen, self._renewed = text, now
        token, _, rest = text.partition(" ")
        told = bool(text) and (token != self._token or rest.endswith("stop"))
        self._over = told or now - self._renewed > self._patience
        return self._over


def _locked(path: Path) -> IO[str]:
    with disk_errors(f"The file {path}"):
        file = open(path, "a")  # noqa: SIM115 (held as long as the session)
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(
            f"Another process runs a study in {path.parent}; wait for it or choose another --out."
        ) from None
    return file
