"""A run folder as one object, whatever state it is in: complete, failed, interrupted, or cut off.

    result.json    the run's record; the one file that says how it ended
    config.json    what was asked for; all that is known of a run that crashed before its record
    log.txt        when there is no record of an epoch, its lines still hold the loss
    watch.jsonl    the looks at the layers (looks.py)

A file that is missing or damaged costs its part of the report and gives a note. A record of a later
version is an error that names the version that can read it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nybble.errors import UserError
from nybble.reports.run.looks import Looks, read_looks
from nybble.training.folder import CONFIG_FILE, LOG_FILE, in_use
from nybble.training.looking import WATCH_FILE
from nybble.training.result import FILE, SCHEMA, SCHEMA_VERSION, read_result, unit_of
from nybble.version import __version__

__all__ = ["BUDGET", "Run", "is_run", "read_runs", "run_folders"]

BUDGET: Final = 3_600_000
"""Bytes of a page that the looks at the layers may take, of all its runs together."""
PAGE: Final = "report.html"
_STEP = re.compile(r"epoch (\d+)/\d+ step (\d+)/(\d+)\s+loss ([-+0-9.e]+)")
_LOG_POINTS = 200


@dataclass
class Run:
    """One run. `status`: complete, failed, interrupted, running, or crashed (it ended without a
    word); `reason`: one line; `log_curve`: (epochs, loss so far in the epoch) from the log."""

    folder: Path
    config: dict[str, Any]
    result: dict[str, Any] | None
    status: str
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    log_curve: list[tuple[float, float]] = field(default_factory=list)
    looks: Looks | None = None

    @property
    def recipe(self) -> str:
        """As it was asked for."""
        return str(self.config.get("recipe", "unknown recipe"))

    @property
    def seed(self) -> int | None:
        """None where no file says it."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The finished ones."""
        return [] if self.result is None else list(self.result["epochs"])

    @property
    def metric(self) -> str:
        """Its name; empty where no file says it."""
        return "" if self.result is None else str(self.result["metric"])

    @property
    def unit(self) -> str:
        """Of the metric."""
        return "" if self.result is None else unit_of(self.result)

    @property
    def better_high(self) -> bool:
        """Whether more of the metric is better."""
        return self.result is None or bool(self.result.get("higher_is_better", True))

    @property
    def final(self) -> float | None:
        """The metric after the last finished epoch, as shown (shares in per cent)."""
        if not self.epochs:
            return None
        value = self.epochs[-1].get(f"test_{self.metric}")
        return None if value is None else self.scale * float(value)

    @property
    def scale(self) -> float:
        """From the metric as recorded to the metric as shown."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """Of the result or, if the run crashed before it was written, of the looks."""
        kept = (self.result or {}).get("alarms") or []
        seen = self.looks.alarms if self.looks is not None else []
        return [a for a in max(kept, seen, key=len) if isinstance(a, dict)]

    @property
    def layers(self) -> list[str]:
        """Names of the layers that were looked at."""
        return [] if self.looks is None else self.looks.layers


def is_run(folder: Path) -> bool:
    """Whether `folder` has what a run leaves.

    >>> is_run(Path("no such folder"))
    False
    """
    return any((folder / name).is_file() for name in (FILE, CONFIG_FILE, LOG_FILE))


def run_folders(folder: Path) -> list[Path]:
    """`folder` itself, or the runs of the comparison that it holds.

    Raises:
        UserError: there is no such folder, or it is neither.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UserError(f"The run {folder} {what}; give the folder that `nybble train` wrote to.")
    if is_run(folder):
        return [folder]
    inside = folder / "runs"
    found = sorted(p for p in inside.iterdir() if is_run(p)) if inside.is_dir() else []
    if not found:
        raise UserError(
            f"{folder} holds no run (no {FILE}, {CONFIG_FILE} or {LOG_FILE}) and no comparison "
            "(no runs/); give the folder that `nybble train` or `nybble compare` wrote to."
        )
    return found


def read_runs(folders: list[Path], budget: int = BUDGET) -> list[Run]:
    """Every run; the looks of all of them together take about `budget` bytes.

    Raises:
        UserError: a record that a later version wrote.
    """
    runs = [_read(folder) for folder in folders]
    watched = [run for run in runs if (run.folder / WATCH_FILE).is_file()]
    for run in watched:
        try:
            run.looks = read_looks(run.folder / WATCH_FILE, budget // len(watched))
        except UserError as error:
            run.notes.append(f"The looks at the layers are left out: {error}{_written_by(run)}")
            continue
        _note_looks(run)
    return runs


def _written_by(run: Run) -> str:
    version = ((run.result or {}).get("versions") or {}).get("nybble")
    return f" The run was made by nybble {version}, which can read it." if version else ""


def _note_looks(run: Run) -> None:
    looks = run.looks
    if looks is None:
        return
    if looks.damaged:
        lines = "1 line" if looks.damaged == 1 else f"{looks.damaged} lines"
        run.notes.append(f"{lines} of {WATCH_FILE} could not be read, as after a crash.")
    if len(looks.shown) < len(looks.layers):
        run.notes.append(
            f"{len(looks.shown)} of {len(looks.layers)} layers are drawn here, those with an alarm "
            "among them: more would not fit. A report of this run alone holds more."
        )


def _read(folder: Path) -> Run:
    notes: list[str] = []
    result = _result(folder, notes)
    config = dict((result or {}).get("config") or _config(folder, notes))
    log = _log(folder, notes)
    status, reason = _status(folder, result, log)
    curve = [] if result and result["epochs"] else _log_curve(log)
    return Run(folder, config, result, status, reason, notes, curve)


def _result(folder: Path, notes: list[str]) -> dict[str, Any] | None:
    path = folder / FILE
    _refuse_later(path)
    try:
        result = read_result(folder)
    except UserError as error:
        notes.append(str(error))
        return None
    if result is None:
        notes.append(f"There is no {FILE}: the run ended before it wrote one.")
    return result


def _refuse_later(path: Path) -> None:
    """A record of a later version is an error, which names that version."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["schema_version"] if record["schema"] == SCHEMA else 0
    except (OSError, ValueError, KeyError, TypeError):
        return
    if not isinstance(version, int) or version <= SCHEMA_VERSION:
        return
    versions = record.get("versions")
    writer = versions.get("nybble") if isinstance(versions, dict) else None
    can = f"nybble {writer}, which wrote it, can" if writer else "a later nybble can"
    raise UserError(
        f"{path} has schema version {version}; this nybble ({__version__}) reads up to "
        f"{SCHEMA_VERSION}: {can}."
    )


def _config(folder: Path, notes: list[str]) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["config"]
        return dict(config)
    except (OSError, ValueError, KeyError, TypeError):
        notes.append(f"{CONFIG_FILE} is missing or damaged: what was asked for is not known.")
        return {}


def _log(folder: Path, notes: list[str]) -> list[str]:
    try:
        text = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        notes.append(f"There is no {LOG_FILE}.")
        return []
    return text.splitlines()


def _status(folder: Path, result: dict[str, Any] | None, log: list[str]) -> tuple[str, str]:
    status = "running" if result is None else str(result["status"])
    if status != "running":
        return status, " ".join(str((result or {}).get("error") or "").split())
    if (folder / LOG_FILE).is_file() and in_use(folder):
        return "running", "the numbers are those of the last finished epoch"
    last = next((line for line in reversed(log) if line.strip()), "")
    reason = "the process ended without a word (killed, out of memory, or the power went)"
    return "crashed", f"{reason}; the last line of its log: {last}" if last else reason


def _log_curve(log: list[str]) -> list[tuple[float, float]]:
    points = []
    for line in log:
        if found := _STEP.search(line):
            try:
                loss = float(found[4])
            except ValueError:
                continue
            points.append((int(found[1]) - 1 + int(found[2]) / max(1, int(found[3])), loss))
    skip = max(1, -(-len(points) // _LOG_POINTS))
    return points[::skip]
