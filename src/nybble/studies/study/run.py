"""Run a study to its end, from wherever an earlier call stopped.

    OUT/study.sqlite    the store (store.py)
    OUT/cells/KEY/      one run folder a cell, as `nybble train` writes it
    OUT/outcomes/       how cells ended, until the store has it
    OUT/study.lock, OUT/session

    1. check all that can be checked: recipes, measures, the tasks' data, the engine, the folder;
       take over the cells of an earlier record (taken.py)
    2. settle what is known: a row that is final, an outcome that a killed parent did not read, a
       run folder that is complete
    3. give the other cells to the engine, in the order of `Study.cells`, and write how each ends
    4. the record of all of it (record.py)

Failed cells are kept, shown, and run again only when asked (`retry_failed`). A finished cell may
lose its folder: its row is enough.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nybble.errors import NybbleError, UserError
from nybble.recipes import get_recipe
from nybble.studies.measures import get_measure
from nybble.studies.outcome import COMPLETE, Outcome
from nybble.studies.runs import known_outcome
from nybble.studies.study.cell import CELLS, OUTCOMES, STARTED, Work, take_outcome
from nybble.studies.study.engines import at_a_time, check_engine, deaf_children, run_works
from nybble.studies.study.grid import Cell, Study
from nybble.studies.study.record import describe, make_record
from nybble.studies.study.session import FILE as SESSION
from nybble.studies.study.session import LOCK, Session
from nybble.studies.study.store import (
    FAILED,
    FILE,
    INTERRUPTED,
    RUNNING,
    Row,
    Store,
    is_complete,
)
from nybble.studies.study.taken import check_data, check_kept, check_recipes, moved, outcomes_of
from nybble.training.config import TrainConfig
from nybble.training.files import disk_errors
from nybble.training.result import read_result
from nybble.training.signals import Interrupted, StopRequest

POLL_SECONDS = 0.2
ROUNDS = 3
"""How often cells that an engine gives back unfinished, without being asked, are given to it."""


@dataclass(frozen=True)
class Progress:
    """What changed: a cell began (`outcome` None) or ended; how many have ended, of how many."""

    cell: Cell
    outcome: Outcome | None
    ended: int
    total: int
    reused: bool = False


Tell = Callable[[Progress], None]


@dataclass(frozen=True)
class RunConfig:
    """How a study is run; nothing here changes a cell's result.

    jobs: cells at the same time; None: see `engines.at_a_time`. address: of a Dask or Ray cluster.
    budget: minutes after which no more cells begin.
    taken: a record made before, whose cells need not be run again.
    command: for the record.
    """

    out: Path
    jobs: int | None = None
    engine: str = "loky"
    address: str | None = None
    retry_failed: bool = False
    budget: float | None = None
    taken: Path | None = None
    command: str = ""

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise UserError(f"jobs must be at least 1, not {self.jobs}.")
        if self.budget is not None and not self.budget > 0:
            raise UserError(f"the budget is a number of minutes above 0, not {self.budget}.")
        check_engine(self.engine, self.address)


def run_study(study: Study, how: RunConfig, tell: Tell = lambda progress: None) -> dict[str, Any]:
    """Run what is missing and return the record, which `study_record` gives again at any time.

    Raises:
        UserError: bad input, a folder of something else, a full disk.
        Interrupted: a signal; every cell is saved, and the same call continues.
    """
    cells = study.cells()
    for recipe in dict.fromkeys(cell.recipe for cell in cells):
        get_recipe(recipe)
    for measure in study.measures:
        get_measure(measure)
    earlier: dict[str, Outcome] = {}
    if how.taken is not None:
        outcomes_of(how.taken)  # a file that cannot be read is said before data is loaded
    description = describe(study, how.command)
    if how.taken is not None:
        renamed = moved(how.taken, cells, description)
        check_kept(how.taken, {*(cell.key for cell in cells), *renamed}, description)
        earlier = outcomes_of(how.taken, renamed)
    out = claim(how.out)
    with Session(out) as session, Store(out) as store:
        known = store.described(study.name)
        check_data(str(how.out), known, description, store.ended(study.name, "task"))
        check_recipes(str(how.out), known, description, store.ended(study.name, "recipe"))
        store.describe(study.name, description)
        store.add(cells)
        _take_over(cells, earlier, store)
        runner = _Runner(cells, replace(how, out=out), session, store, tell)
        runner.settle()
        runner.run()
        return make_record(study.name, store)


def _take_over(cells: tuple[Cell, ...], earlier: dict[str, Outcome], store: Store) -> None:
    """Write what an earlier record says of cells of which the store does not know the end."""
    rows = store.rows(cells[0].study)
    for cell in cells:
        if cell.key in earlier and rows[cell.key].outcome is None:
            store.put(cell, earlier[cell.key])


def study_record(out: Path, name: str | None = None) -> dict[str, Any]:
    """The record of the study in `out` as far as it has come; it may be running meanwhile.

    name: which one, where the folder holds several.

    Raises:
        UserError: no study there, or several and no name.
    """
    with Store(out, readonly=True) as store:
        names = list(store.studies())
        if name is None and len(names) != 1:
            raise UserError(
                f"{out} holds {len(names)} studies ({', '.join(names)}); name one with --study."
            )
        check_study(store, out, name)
        return make_record(name or names[0], store)


def check_study(store: Store, out: Path, name: str | None) -> None:
    """UserError where the store has no study of that name."""
    names = list(store.studies())
    if name is not None and name not in names:
        raise UserError(f"{out} holds no study '{name}'; it has {', '.join(names)}.")


def claim(out: Path) -> Path:
    """Make `out` a folder of studies, or find that it is one; its absolute path.

    Raises:
        UserError: it is a file, or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: it is a file; give a folder.")
    # What a call leaves that was killed, or found the disk full, before there was a store.
    begun = {CELLS, OUTCOMES, SESSION, f".{SESSION}.tmp", LOCK}
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if FILE not in found and not found <= begun | {f"{FILE}-journal"}:
        raise UserError(
            f"--out {out}: the folder is not empty and holds no study; give another folder, or "
            "remove this one."
        )
    with disk_errors(f"The folder {out}"):
        for part in (CELLS, OUTCOMES):
            (out / part).mkdir(parents=True, exist_ok=True)
    return out.resolve()


class _Runner:
    """The cells that are still to be run, and the thread that gives them to the engine."""

    def __init__(
        self, cells: tuple[Cell, ...], how: RunConfig, session: Session, store: Store, tell: Tell
    ) -> None:
        self.cells, self.how, self.session, self.store, self.tell = (
            cells,
            how,
            session,
            store,
            tell,
        )
        self.jobs = at_a_time(how.engine, how.jobs, how.address)
        self.waiting: dict[str, Cell] = {}
        self.ended = 0
        self.stopping = False
        self.error: BaseException | None = None
        self.deadline = None if how.budget is None else time.time() + 60 * how.budget

    # -- what is known ------------------------------------------------------------------------

    def settle(self) -> None:
        """Sort the cells into those that have ended and those that wait."""
        rows = self.store.rows(self.cells[0].study)
        for cell in self.cells:
            outcome = self.known(cell, rows.get(cell.key))
            if outcome is None:
                self.waiting[cell.key] = cell
                if cell.key in rows and rows[cell.key].status == RUNNING:
                    self.store.mark(cell, INTERRUPTED)  # its parent was killed
            else:
                self.end(cell, outcome, reused=True)

    def known(self, cell: Cell, row: Row | None) -> Outcome | None:
        """How the cell has ended, or None if it must (still, or again) be run."""
        if row is not None and row.outcome is not None and is_complete(row, cell):
            return row.outcome
        if row is not None and row.status == FAILED and not self.how.retry_failed:
            return row.outcome
        taken = take_outcome(self.how.out, cell.key)
        if taken is not None:
            status = taken[0].status
            if status == COMPLETE and is_complete(Row(status, taken[0]), cell):
                self.store.put(cell, *taken)
                return taken[0]
            if status == FAILED and not self.how.retry_failed:
                self.store.put(cell, *taken)
                return taken[0]
        found = known_outcome(self.placed(cell), self.how.retry_failed)
        if found is None or (found.status == COMPLETE and cell.measures):
            return None  # a trained cell that lacks measures is "run" again: they alone are taken
        result = read_result(self.placed(cell).run_folder())
        self.store.put(cell, found, None, (result or {}).get("written"))
        return found

    def placed(self, cell: Cell) -> TrainConfig:
        """The cell's configuration with its folder."""
        return replace(cell.config, out=str(self.how.out / CELLS / cell.key))

    def end(self, cell: Cell, outcome: Outcome, reused: bool = False) -> None:
        """Count a cell that is done with, and drop its files in OUT/outcomes."""
        self.ended += 1
        self.forget(cell)
        self.tell(Progress(cell, outcome, self.ended, len(self.cells), reused))

    def forget(self, cell: Cell) -> None:
        for ending in ("json", STARTED):
            with suppress(OSError):
                (self.how.out / OUTCOMES / f"{cell.key}.{ending}").unlink()

    # -- running ------------------------------------------------------------------------------

    def run(self) -> None:
        """Give the waiting cells to the engine until none is left or the budget is used."""
        for cell in self.waiting.values():
            self.forget(cell)
        for _ in range(ROUNDS):
            if not self.waiting or self.late():
                return
            self.round()
        if self.waiting and not self.late():
            raise UserError(
                f"the engine {self.how.engine} gave back {len(self.waiting)} cells unfinished, "
                "without being asked; the same command continues."
            )

    def late(self) -> bool:
        """Whether the budget is used up."""
        return self.deadline is not None and time.time() > self.deadline

    def round(self) -> None:
        """One pass of the engine over the waiting cells."""
        thread = threading.Thread(target=self.work, args=(self.works(),), daemon=True)
        begun: set[str] = set()
        with StopRequest() as stop:
            thread.start()
            while thread.is_alive():
                thread.join(POLL_SECONDS)
                if stop.signum is not None and not self.stopping:
                    self.stopping = True
                    self.session.stop()
                self.collect(begun)
        self.collect(begun)  # what was written after the last look
        if stop.signum is not None:
            raise Interrupted(
                f"Stopped with {self.ended} of {len(self.cells)} cells finished; the others are "
                "saved. The same command continues",
                stop.signum,
            )
        if self.error is not None:
            if isinstance(self.error, NybbleError | OSError | MemoryError):
                raise self.error
            raise UserError(
                f"the engine {self.how.engine} stopped ({type(self.error).__name__}: "
                f"{self.error}). Finished cells are kept; the same command continues."
            ) from self.error

    def works(self) -> Iterator[Work]:
        """The waiting cells as the engine draws them."""
        child = self.how.engine == "loky" and self.jobs > 1
        for cell in list(self.waiting.values()):
            if self.stopping or self.late():
                return
            yield Work(
                out=str(self.how.out),
                key=cell.key,
                config=self.placed(cell),
                measures=cell.measures,
                token=self.session.token,
                deadline=self.deadline,
                parent=os.getpid() if child else None,
            )

    def work(self, works: Iterator[Work]) -> None:
        """In the thread: the engine."""
        deaf_children()
        try:
            run_works(self.how.engine, works, self.jobs, self.how.address)
        except BaseException as error:  # told by `round`, in the main thread
            self.error = error

    def collect(self, begun: set[str]) -> None:
        """Write what cells have written of themselves."""
        names = {path.name for path in (self.how.out / OUTCOMES).iterdir()}
        for key, cell in list(self.waiting.items()):
            if f"{key}.{STARTED}" in names and key not in begun:
                begun.add(key)
                self.store.mark(cell, RUNNING)
                self.tell(Progress(cell, None, self.ended, len(self.cells)))
            if f"{key}.json" not in names:
                continue
            taken = take_outcome(self.how.out, key)
            if taken is None:
                continue
            if taken[0].status == INTERRUPTED:
                self.store.mark(cell, INTERRUPTED)
                self.forget(cell)
                begun.discard(key)
                continue
            self.store.put(cell, *taken)
            del self.waiting[key]
            self.end(cell, taken[0])
