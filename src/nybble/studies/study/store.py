"""OUT/study.sqlite: one row a cell, in one SQLite file that anything can query.

    sqlite3 OUT/study.sqlite "SELECT task, recipe, avg(metric) FROM cells
        WHERE status = 'complete' GROUP BY task, recipe"

    cells     key, study, task, variant, recipe, seed, status, metric, extras (JSON), error,
              seconds (training steps), started, finished (UTC), commit_id, configuration (JSON),
              outcome (JSON: all that is known of the run, its curve too); key is the folder
              OUT/cells/KEY
    studies   study, description (JSON: title, command, tasks, ...)

    status    waiting, running, interrupted (it goes on from its checkpoint), complete, failed

Only the process that runs the study writes, one transaction a change (write-ahead log), so a reader
never waits and a process that is killed at any instant leaves whole rows. What a row says of a
finished cell is final; for any other cell the cell's folder knows more (`run`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nybble.errors import UserError
from nybble.studies.outcome import COMPLETE, Outcome
from nybble.studies.study.grid import Cell

FILE = "study.sqlite"
WAITING, RUNNING, INTERRUPTED, FAILED = "waiting", "running", "interrupted", "failed"
VERSION = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS cells (
    study TEXT NOT NULL, key TEXT NOT NULL, task TEXT NOT NULL, variant TEXT NOT NULL,
    recipe TEXT NOT NULL, seed INTEGER NOT NULL, status TEXT NOT NULL, metric REAL, extras TEXT,
    error TEXT, seconds REAL, started TEXT, finished TEXT, commit_id TEXT,
    configuration TEXT NOT NULL, outcome TEXT,
    PRIMARY KEY (study, key)
);
CREATE TABLE IF NOT EXISTS studies (study TEXT PRIMARY KEY, description TEXT NOT NULL);
"""
_SHOWN = (
    "study",
    "task",
    "variant",
    "recipe",
    "seed",
    "status",
    "metric",
    "seconds",
    "error",
    "extras",
    "started",
    "finished",
    "commit_id",
    "key",
)


@dataclass(frozen=True)
class Row:
    """What the store knows of a cell."""

    status: str
    outcome: Outcome | None


class Store:
    """The open store of the folder `out`; a context manager.

    readonly: for a reader beside a study that is running; nothing is created.

    Raises:
        UserError: the file is not there, is no such store, or cannot be written.
    """

    def __init__(self, out: Path, readonly: bool = False) -> None:
        self.path = out / FILE
        self._readonly = readonly
        if readonly and not self.path.is_file():
            raise UserError(
                f"{out} holds no study ({FILE} is not there); give the --out of `nybble study`."
            )
        with self._errors():
            place = f"{self.path.resolve().as_uri()}?mode={'ro' if readonly else 'rwc'}"
            self._db = sqlite3.connect(place, uri=True, timeout=30, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            named = self._db.execute("SELECT name FROM sqlite_master").fetchall()
            if readonly and not {"cells", "studies"} <= {row["name"] for row in named}:
                raise UserError(
                    f"{self.path} has no tables of a study; give the --out of `nybble study`."
                )
            if found > VERSION:
                raise UserError(
                    f"{self.path} has version {found}; this nybble reads up to {VERSION}."
                )
            if not readonly:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.executescript(_TABLES)
                self._db.execute(f"PRAGMA user_version = {VERSION}")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._readonly:
            with suppress(sqlite3.Error):  # a reader holds it: it stays as it is
                # Without a log beside it, the file can be read in a folder that cannot be written.
                self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(f"{self.path} cannot be used: {error}.") from error

    # -- writing ------------------------------------------------------------------------------

    def describe(self, study: str, description: Mapping[str, Any]) -> None:
        """Write what a table of the study needs beside its cells."""
        with self._errors():
            self._db.execute(
                "INSERT INTO studies VALUES (?, ?) ON CONFLICT (study) DO UPDATE SET "
                "description = excluded.description",
                (study, json.dumps(description, allow_nan=False)),
            )

    def add(self, cells: Sequence[Cell]) -> None:
        """Make a row for every cell that has none; one that has is filed where the cell is now.

        A task or variant that was given another name keeps its finished cells.
        """
        rows = [
            (c.study, c.key, c.task, c.variant, c.recipe, c.seed, WAITING, _configuration(c))
            for c in cells
        ]
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT INTO cells (study, key, task, variant, recipe, seed, status, "
                "configuration) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (study, key) DO UPDATE "
                "SET task = excluded.task, variant = excluded.variant, recipe = excluded.recipe, "
                "seed = excluded.seed",
                rows,
            )
            self._db.execute("COMMIT")

    def mark(self, cell: Cell, status: str) -> None:
        """Say where a cell is that has not ended."""
        with self._errors():
            self._db.execute(
                "UPDATE cells SET status = ? WHERE study = ? AND key = ?",
                (status, cell.study, cell.key),
            )

    def put(
        self, cell: Cell, outcome: Outcome, started: str | None = None, finished: str | None = None
    ) -> None:
        """Write how a cell ended."""
        values = outcome.to_dict()
        with self._errors():
            self._db.execute(
                "UPDATE cells SET status = ?, metric = ?, extras = ?, error = ?, seconds = ?, "
                "started = ?, finished = ?, commit_id = ?, outcome = ? WHERE study = ? AND key = ?",
                (
                    outcome.status,
                    values["metric"],
                    json.dumps(values["extras"]),
                    outcome.reason or None,
                    outcome.seconds,
                    started,
                    finished,
                    outcome.origin.get("commit"),
                    json.dumps(values),
                    cell.study,
                    cell.key,
                ),
            )

    # -- reading ------------------------------------------------------------------------------

    def rows(self, study: str) -> dict[str, Row]:
        """Every row of the study, by key."""
        with self._errors():
            found = self._db.execute(
                "SELECT key, status, outcome FROM cells WHERE study = ?", (study,)
            ).fetchall()
        return {row["key"]: Row(row["status"], _outcome(row["outcome"])) for row in found}

    def ended(self, study: str, what: Literal["task", "recipe"]) -> set[str]:
        """The tasks, or the recipes, of the study of which a cell is complete."""
        with self._errors():
            found = self._db.execute(
                f"SELECT DISTINCT {what} FROM cells WHERE study = ? AND status = ?",
                (study, COMPLETE),
            ).fetchall()
        return {row[what] for row in found}

    def described(self, study: str) -> dict[str, Any]:
        """The description of a study; empty where there is none, or it is damaged."""
        with self._errors():
            found = self._db.execute(
                "SELECT description FROM studies WHERE study = ?", (study,)
            ).fetchone()
        return _json(found["description"]) if found else {}

    def studies(self) -> dict[str, dict[str, Any]]:
        """The descriptions of the studies in this store, by name."""
        with self._errors():
            found = self._db.execute("SELECT study, description FROM studies").fetchall()
        told = {row["study"]: _json(row["description"]) for row in found}
        for name, description in told.items():
            if not _describes(description):
                raise UserError(
                    f"{self.path}: what it says of the study {name} is damaged; the command that "
                    "runs the study writes it anew."
                )
        return told

    def query(self, where: str = "") -> list[dict[str, Any]]:
        """The cells for which the SQL condition `where` holds, without their curves.

        Raises:
            UserError: the condition is no SQL, or names a column that is not there.
        """
        where = where.encode(errors="replace").decode()
        if not _closed(where):
            raise UserError(
                f"--where {where}: its quotes or parentheses are not closed, or it has a comment; "
                "give an SQL condition."
            )
        condition = f"WHERE ({where})" if where.strip() else ""
        order = "ORDER BY study, task, variant, seed, rowid"
        try:
            self._db.execute("PRAGMA query_only = ON")
            found = self._db.execute(
                f"SELECT {', '.join(_SHOWN)} FROM cells {condition} {order}"
            ).fetchall()
        except sqlite3.Error as error:
            raise UserError(
                f"--where {where}: {error}; give an SQL condition on {', '.join(_SHOWN)}, for "
                "example \"task = 'lstm' AND status = 'failed'\"."
            ) from error
        finally:
            self._db.execute("PRAGMA query_only = OFF")
        cells = [dict(row) for row in found]
        for cell in cells:
            cell["extras"] = _json(cell["extras"])
        return cells


def _describes(description: Mapping[str, Any]) -> bool:
    """Whether it has what a table is made of (`record.describe`)."""
    cells, tasks = description.get("cells"), description.get("tasks")
    whole = isinstance(cells, list) and isinstance(description.get("variants"), list)
    return whole and isinstance(tasks, dict) and all(isinstance(t, dict) for t in tasks.values())


def _closed(condition: str) -> bool:
    """Whether a condition ends inside the parentheses that it is put into, and has no comment that
    hides them.

    >>> _closed("a = ')' OR (b)"), _closed("1) OR (1"), _closed("1 --")
    (True, False, False)
    """
    depth, quote = 0, ""
    for i, c in enumerate(condition):
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"`[":
            quote = "]" if c == "[" else c
        elif condition.startswith(("--", "/*"), i):
            return False
        else:
            depth += {"(": 1, ")": -1}.get(c, 0)
        if depth < 0:
            return False
    return depth == 0 and not quote


def _configuration(cell: Cell) -> str:
    return json.dumps(cell.config.identity(), sort_keys=True, allow_nan=False)


def _json(text: object) -> dict[str, Any]:
    """The object that a column holds; a damaged one is as an empty one."""
    try:
        found = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _outcome(text: str | None) -> Outcome | None:
    """None where there is none, or it is damaged: then the cell's folder is asked."""
    try:
        return Outcome.from_dict(_json(text)) if text else None
    except (TypeError, ValueError):
        return None


def is_complete(row: Row | None, cell: Cell) -> bool:
    """Whether a row says that the cell is finished, with every measure that it wants."""
    if row is None or row.status != COMPLETE or row.outcome is None:
        return False
    measured = {name.partition(".")[0] for name in row.outcome.extras if "." in name}
    return set(cell.measures) <= measured
