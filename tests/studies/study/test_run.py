"""What happens to each cell: taken over, run, kept as failed, tried again, left for later.

The engine is a stand-in that writes outcomes as workers do; tests/cli/test_study.py runs real ones.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nybble.errors import UserError
from nybble.recipes import get_recipe
from nybble.reports.study import plain
from nybble.studies.outcome import Outcome
from nybble.studies.study import Cell, Study, StudyTask
from nybble.studies.study import record as recording
from nybble.studies.study import run as running
from nybble.studies.study.cell import OUTCOMES, STARTED, Work, write_outcome
from nybble.studies.study.run import Progress, RunConfig, run_study, study_record
from nybble.studies.study.session import FILE, Lease
from nybble.studies.study.store import INTERRUPTED, Store
from nybble.training.config import TrainConfig
from nybble.training.signals import Interrupted

SMALL = TrainConfig(model="cnn", epochs=1, threads=1)
STUDY = Study("s", "t", (StudyTask("a", SMALL, margin=0.5),), ("fp32", "sun2020"), (0, 1))
METRICS = {("fp32", 0): 90.0, ("fp32", 1): 91.0, ("sun2020", 0): 89.0, ("sun2020", 1): 90.2}


class Engine:
    """Stands in for joblib: writes an outcome for every cell, as `outcome` says."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, int]] = []
        self.outcome: Callable[[Work], Outcome | None] = self.finished
        self.error: BaseException | None = None

    def __call__(self, name: str, works: Iterator[Work], jobs: int, address: str | None) -> None:
        for work in works:
            (Path(work.out) / OUTCOMES / f"{work.key}.{STARTED}").touch()
            self.ran.append((work.config.recipe, work.config.seed))
            outcome = self.outcome(work)
            if outcome is not None:
                write_outcome(Path(work.out), work.key, outcome, "then")
        if self.error is not None:
            raise self.error

    def finished(self, work: Work, **more: Any) -> Outcome:
        recipe, seed = work.config.recipe, work.config.seed
        return Outcome(recipe, seed, "complete", "f", METRICS.get((recipe, seed), 80.0), **more)

    def failed(self, work: Work) -> Outcome:
        return Outcome(work.config.recipe, work.config.seed, "failed", "f", reason="NaN")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    pytest.importorskip("mlxtend")
    stand_in = Engine()
    monkeypatch.setattr(running, "run_works", stand_in)
    monkeypatch.setattr(running, "POLL_SECONDS", 0.005)
    entry = {
        "configuration": {},
        "metric": {
            "name": "accuracy",
            "unit": "%",
            "digits": 2,
            "higher_is_better": True,
            "comparison": "difference",
        },
        "margin": 0.5,
    }

    def describe(study: Study, task: StudyTask) -> dict[str, Any]:
        seeds, recipes = list(study.seeds_of(task)), list(study.recipes_of(task))
        return {**entry, "recipes": recipes, "seeds": seeds}

    monkeypatch.setattr(recording, "_describe_task", describe)
    return stand_in


def how(tmp_path: Path, **changes: Any) -> RunConfig:
    return RunConfig(**{"out": tmp_path / "out", **changes})


def test_a_study_from_start_to_record(engine: Engine, tmp_path: Path) -> None:
    told: list[Progress] = []
    record = run_study(STUDY, how(tmp_path), told.append)
    assert engine.ran == [("fp32", 0), ("sun2020", 0), ("fp32", 1), ("sun2020", 1)]
    row = record["tables"][0]["rows"][1]
    assert row["difference"]["mean"] == pytest.approx(-0.9)
    assert row["verdict"]["verdict"] == "undecided"
    assert (record["missing"], len(record["runs"])) == (0, 4)
    assert [p.ended for p in told if p.outcome is not None] == [1, 2, 3, 4]
    assert list((tmp_path / "out" / OUTCOMES).iterdir()) == []
    assert study_record(tmp_path / "out") == record
    assert str(tmp_path) not in str(record)


def test_finished_cells_never_run_again(engine: Engine, tmp_path: Path) -> None:
    first = run_study(STUDY, how(tmp_path))
    engine.ran.clear()
    told: list[Progress] = []
    again = run_study(STUDY, how(tmp_path), told.append)
    assert engine.ran == [] and plain(again) == plain(first)
    assert all(progress.reused for progress in told)
    run_study(replace(STUDY, seeds=(0, 1, 2)), how(tmp_path))
    assert engine.ran == [("fp32", 2), ("sun2020", 2)]


def test_an_outcome_that_a_killed_parent_did_not_read_is_taken_over(
    engine: Engine, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    running.claim(out)
    with Store(out) as store:
        store.add(STUDY.cells())
        store.mark(STUDY.cells()[0], "running")
    done = Outcome("fp32", 0, "complete", "f", 90.0)
    write_outcome(out, STUDY.cells()[0].key, done, "then")
    run_study(STUDY, how(tmp_path))
    assert ("fp32", 0) not in engine.ran and len(engine.ran) == 3


def test_failed_cells_are_kept_and_tried_again_when_asked(engine: Engine, tmp_path: Path) -> None:
    engine.outcome = lambda work: (
        engine.failed(work) if work.config.recipe == "sun2020" else engine.finished(work)
    )
    record = run_study(STUDY, how(tmp_path))
    text = plain(record)
    assert "sun2020: seed 0 failed: NaN." in text and "n/a: no pair" in text and "0 of 2" in text
    engine.ran.clear()
    engine.outcome = engine.finished
    assert plain(run_study(STUDY, how(tmp_path))) == text and engine.ran == []
    record = run_study(STUDY, how(tmp_path, retry_failed=True))
    assert engine.ran == [("sun2020", 0), ("sun2020", 1)]
    assert record["tables"][0]["rows"][1]["finished"] == 2


def test_a_new_measure_runs_on_every_cell_once(engine: Engine, tmp_path: Path) -> None:
    run_study(STUDY, how(tmp_path))
    engine.ran.clear()
    engine.outcome = lambda work: engine.finished(work, extras={"test-again.loss": 0.5})
    wider = replace(STUDY, measures=("test-again",))
    record = run_study(wider, how(tmp_path))
    assert len(engine.ran) == 4
    assert record["tables"][0]["rows"][1]["extras"]["test-again.loss"]["difference"]["mean"] == 0.0
    engine.ran.clear()
    run_study(wider, how(tmp_path))
    assert engine.ran == []


def test_a_budget_stops_beginning_and_the_table_says_what_is_missing(
    engine: Engine, tmp_path: Path
) -> None:
    def slow(work: Work) -> Outcome:
        time.sleep(0.2)
        return engine.finished(work)

    engine.outcome = slow
    record = run_study(STUDY, how(tmp_path, budget=0.3 / 60))
    assert engine.ran == [("fp32", 0), ("sun2020", 0)]
    text = plain(record)
    assert "2 cells have not been run" in text and "every recipe: not run yet: seeds 1." in text
    # One pair has no interval, and so no difference is shown.
    assert "n/a: one pair has no interval" in text and "-1.00" not in text


def test_the_cells_of_an_earlier_record_are_taken_over(engine: Engine, tmp_path: Path) -> None:
    first = run_study(replace(STUDY, seeds=(0,)), how(tmp_path))
    path = tmp_path / "record.json"
    path.write_text(json.dumps(first))
    engine.ran.clear()
    whole = run_study(STUDY, how(tmp_path, out=tmp_path / "another", taken=path))
    assert engine.ran == [("fp32", 1), ("sun2020", 1)]
    engine.ran.clear()
    at_once = run_study(STUDY, how(tmp_path, out=tmp_path / "third"))
    assert len(engine.ran) == 4
    assert whole["tables"] == at_once["tables"]
    assert whole["missing"] == 0


def test_a_record_that_is_continued_keeps_all_it_has(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(run_study(STUDY, how(tmp_path))))
    engine.ran.clear()
    for less in (replace(STUDY, seeds=(0,)), replace(STUDY, recipes=("fp32", "hfp8"))):
        with pytest.raises(UserError, match=r"has 2 finished cells .* \(tasks a\)"):
            run_study(less, how(tmp_path, out=tmp_path / "another", taken=path))
    assert engine.ran == [] and not (tmp_path / "another").exists()
    more = run_study(
        replace(STUDY, seeds=(0, 1, 2)), how(tmp_path, out=tmp_path / "more", taken=path)
    )
    assert len(more["runs"]) == 6 and len(engine.ran) == 2


def test_other_data_in_the_same_place_is_refused(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"data": "text:here", "data_set": {"sha256": "a" * 64}}
    before = recording._describe_task

    def describe(study: Study, task: StudyTask) -> dict[str, Any]:
        return {**before(study, task), "configuration": dict(found)}

    monkeypatch.setattr(recording, "_describe_task", describe)
    record = run_study(STUDY, how(tmp_path))
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    assert run_study(STUDY, how(tmp_path))["tables"] == record["tables"]
    found["data_set"] = {"sha256": "b" * 64}
    with pytest.raises(UserError, match=r"task a, whose data 'text:here' has changed"):
        run_study(STUDY, how(tmp_path))
    with pytest.raises(UserError, match=r"record\.json .* has changed"):
        run_study(STUDY, how(tmp_path, out=tmp_path / "another", taken=path))
    assert study_record(tmp_path / "out")["tasks"] == record["tasks"]
    found["data"] = "text:elsewhere"  # another source: other keys, so nothing is mixed
    run_study(STUDY, how(tmp_path))


def test_the_same_data_in_another_place_is_taken_over(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"sha256": "a" * 64}
    before = recording._describe_task

    def describe(study: Study, task: StudyTask) -> dict[str, Any]:
        configuration = {"data": task.config.data, "data_set": dict(found)}
        return {**before(study, task), "configuration": configuration}

    monkeypatch.setattr(recording, "_describe_task", describe)

    def at(place: str, **changes: Any) -> Study:
        config = replace(SMALL, data=place, **changes)
        return replace(STUDY, tasks=(replace(STUDY.tasks[0], config=config),))

    record = run_study(at("folder:here"), how(tmp_path))
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    engine.ran.clear()
    there = at("folder:there")
    again = run_study(there, how(tmp_path, out=tmp_path / "there", taken=path))
    assert engine.ran == [] and again["tables"] == record["tables"]
    assert {run["key"] for run in again["runs"]} == {cell.key for cell in there.cells()}
    for other in (at("folder:there", epochs=2), replace(there, seeds=(0,))):
        with pytest.raises(UserError, match="finished cells that this call does not ask for"):
            run_study(other, how(tmp_path, out=tmp_path / "no", taken=path))
    found["sha256"] = "b" * 64
    with pytest.raises(UserError, match="finished cells that this call does not ask for"):
        run_study(there, how(tmp_path, out=tmp_path / "no", taken=path))


def test_another_recipe_of_the_same_name_is_refused(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("a_module_of_mine")
    module.mine = get_recipe("luq")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    name = f"{module.__name__}:mine"
    study = replace(STUDY, recipes=("fp32", name))
    engine.outcome = lambda work: None if work.config.recipe == name else engine.finished(work)
    with pytest.raises(UserError, match="unfinished"):
        run_study(study, how(tmp_path))
    module.mine = get_recipe("int8")  # type: ignore[attr-defined]
    engine.outcome = engine.finished  # no cell of it has ended, and no folder says what it was
    record = run_study(study, how(tmp_path))
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    assert list(record["definitions"]) == [name]
    module.mine = get_recipe("luq")  # type: ignore[attr-defined]
    for changes in ({}, {"out": tmp_path / "another", "taken": path}):
        with pytest.raises(UserError, match=rf"cells of the recipe '{name}', .* changed since"):
            run_study(replace(study, seeds=(0, 1, 2)), how(tmp_path, **changes))
    del record["definitions"]  # of before there were any
    path.write_text(json.dumps(record))
    run_study(study, how(tmp_path, out=tmp_path / "third", taken=path))


def test_a_task_that_is_renamed_keeps_its_cells(engine: Engine, tmp_path: Path) -> None:
    run_study(STUDY, how(tmp_path))
    engine.ran.clear()
    renamed = replace(STUDY, tasks=(replace(STUDY.tasks[0], name="b+slow"),))
    record = run_study(renamed, how(tmp_path))
    assert engine.ran == [] and record["missing"] == 0
    assert {run["task"] for run in record["runs"]} == {"b+slow"}
    assert record["tables"][0]["rows"][1]["missing"] == []


def test_a_recipe_of_which_a_run_failed_is_not_equivalent(engine: Engine, tmp_path: Path) -> None:
    def outcome(work: Work) -> Outcome:
        recipe, seed = work.config.recipe, work.config.seed
        if (recipe, seed) == ("sun2020", 3):
            return engine.failed(work)
        return Outcome(recipe, seed, "complete", "f", 90.0 + 0.01 * seed * (recipe == "fp32"))

    engine.outcome = outcome
    record = run_study(replace(STUDY, seeds=(0, 1, 2, 3)), how(tmp_path))
    verdict = record["tables"][0]["rows"][1]["verdict"]
    assert verdict["p_tost_holm"] < 0.05 and verdict["verdict"] == "failed"
    text = plain(record)
    assert "equivalent (p" not in text and "failed: a run of this recipe, or of" in text


def test_a_signal_stops_all_and_the_same_call_continues(engine: Engine, tmp_path: Path) -> None:
    def stopped(work: Work) -> Outcome:
        if work.config.recipe == "fp32":
            return engine.finished(work)
        os.kill(os.getpid(), signal.SIGINT)  # as a terminal does: to the process, not the thread
        lease = Lease(Path(work.out) / FILE, work.token)
        until = time.monotonic() + 20
        while not lease.over() and time.monotonic() < until:
            time.sleep(0.01)
        return Outcome("sun2020", 0, INTERRUPTED, "f")

    engine.outcome = stopped
    with pytest.raises(Interrupted, match="1 of 4 cells finished") as stop:
        run_study(STUDY, how(tmp_path))
    assert stop.value.status == 130 and engine.ran == [("fp32", 0), ("sun2020", 0)]
    with Store(tmp_path / "out", readonly=True) as store:
        assert len(store.query("status = 'interrupted'")) == 1
    engine.ran.clear()
    engine.outcome = engine.finished
    record = run_study(STUDY, how(tmp_path))
    assert record["missing"] == 0 and len(engine.ran) == 3


def test_a_cell_that_comes_back_unasked_is_given_again(engine: Engine, tmp_path: Path) -> None:
    def once(work: Work) -> Outcome | None:
        first = engine.ran.count((work.config.recipe, work.config.seed)) == 1
        return None if first and work.config.seed == 1 else engine.finished(work)

    engine.outcome = once
    assert run_study(STUDY, how(tmp_path))["missing"] == 0
    engine.ran.clear()
    engine.outcome = lambda work: None
    with pytest.raises(UserError, match="gave back 2 cells unfinished"):
        run_study(replace(STUDY, seeds=(7,)), how(tmp_path))


@pytest.mark.parametrize(
    ("error", "says"),
    [(UserError("the disk is full"), "the disk is full"), (RuntimeError("lost"), "lost")],
)
def test_an_engine_that_breaks_is_one_line(
    engine: Engine, tmp_path: Path, error: BaseException, says: str
) -> None:
    engine.error = error
    with pytest.raises(UserError, match=says):
        run_study(STUDY, how(tmp_path))
    engine.ran.clear()
    engine.error = None
    assert run_study(STUDY, how(tmp_path))["missing"] == 0 and engine.ran == []


def test_a_folder_of_something_else_is_refused(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="holds no study"):
        run_study(STUDY, how(tmp_path))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="it is a file"):
        run_study(STUDY, RunConfig(tmp_path / "file"))
    assert engine.ran == []


def test_a_folder_that_was_only_begun_is_taken(engine: Engine, tmp_path: Path) -> None:
    """A call that is killed, or finds the disk full, before there is a store leaves these."""
    out = tmp_path / "out"
    for name in ("cells", "outcomes"):
        (out / name).mkdir(parents=True)
    for name in ("study.lock", "session", ".session.tmp"):
        (out / name).touch()
    assert run_study(STUDY, how(tmp_path))["missing"] == 0


def test_bad_names_are_refused_before_anything_runs(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown recipe 'sun202'"):
        run_study(replace(STUDY, recipes=("sun202",)), how(tmp_path))
    with pytest.raises(UserError, match="unknown measure 'x'"):
        run_study(replace(STUDY, measures=("x",)), how(tmp_path))
    with pytest.raises(UserError, match=r"unknown engine 'lokky'.*'loky'"):
        how(tmp_path, engine="lokky")
    with pytest.raises(UserError, match="pip install 'nybble\\[cluster-"):
        how(tmp_path, engine="ray")
    with pytest.raises(UserError, match="leave it out"):
        how(tmp_path, address="tcp://here:1")
    for changes in ({"jobs": 0}, {"budget": 0.0}):
        with pytest.raises(UserError):
            how(tmp_path, **changes)
    assert not (tmp_path / "out").exists()


def test_two_studies_share_a_folder_and_their_cells(engine: Engine, tmp_path: Path) -> None:
    run_study(STUDY, how(tmp_path))
    run_study(replace(STUDY, name="other", seeds=(5,)), how(tmp_path))
    with pytest.raises(UserError, match="holds 2 studies"):
        study_record(tmp_path / "out")
    with pytest.raises(UserError, match="no study 'x'"):
        study_record(tmp_path / "out", "x")
    assert len(study_record(tmp_path / "out", "other")["runs"]) == 2


def test_a_recipe_that_was_taken_out_is_in_no_table(engine: Engine, tmp_path: Path) -> None:
    run_study(STUDY, how(tmp_path))
    record = run_study(replace(STUDY, recipes=("fp32",)), how(tmp_path))
    assert [row["recipe"] for row in record["tables"][0]["rows"]] == ["fp32"]
    assert len(record["runs"]) == 2


def test_every_cell_knows_where_it_runs(engine: Engine, tmp_path: Path) -> None:
    works: list[Work] = []

    def keep(work: Work) -> Outcome:
        works.append(work)
        return engine.finished(work)

    engine.outcome = keep
    run_study(STUDY, how(tmp_path, jobs=2))
    cells: tuple[Cell, ...] = STUDY.cells()
    assert [work.key for work in works] == [cell.key for cell in cells]
    assert works[0].config.out == str(tmp_path / "out" / "cells" / cells[0].key)
    assert {work.parent for work in works} == {os.getpid()}
