"""Rows that are whole, a reader beside the writer, and queries that cannot write."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from nybble.errors import UserError
from nybble.studies.outcome import Outcome
from nybble.studies.study import Cell, Study, StudyTask
from nybble.studies.study.store import FILE, RUNNING, WAITING, Row, Store, is_complete
from nybble.training.config import TrainConfig

SMALL = TrainConfig(model="cnn", epochs=1, threads=1)
STUDY = Study("s", "t", (StudyTask("a", SMALL),), ("fp32", "sun2020"), (0,))
DONE = Outcome(
    *("fp32", 0, "complete", "f", 91.5),
    seconds=2.0,
    extras={"m.x": 1.0, "y": None},
    origin={"commit": "abc"},
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path) as opened:
        opened.add(STUDY.cells())
        yield opened


def test_a_damaged_row_is_as_none_and_the_others_stay(tmp_path: Path) -> None:
    study, one, two = _damaged(
        tmp_path, "UPDATE cells SET outcome = '{', extras = 'x' WHERE key = ?"
    )
    with Store(tmp_path, readonly=True) as store:
        rows = store.rows(study)
        assert rows[one].outcome is None and rows[two].outcome is not None
        assert [cell["extras"] for cell in store.query()] == [{}, {}]
        assert store.query("'\ud800' = ''") == []


def test_a_damaged_description_is_one_line(tmp_path: Path) -> None:
    _damaged(tmp_path, "UPDATE studies SET description = '{}' WHERE ? != ''")
    with Store(tmp_path, readonly=True) as store, pytest.raises(UserError, match="is damaged"):
        store.studies()


def test_a_closed_store_is_one_file(tmp_path: Path) -> None:
    """A folder that cannot be written has no place for the log that an open one has."""
    _damaged(tmp_path, "UPDATE cells SET error = '' WHERE key = ?")
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE]
    with sqlite3.connect(tmp_path / FILE) as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "delete"


def _damaged(tmp_path: Path, statement: str) -> tuple[str, str, str]:
    """A store with two finished cells, to the first of which the SQL has been done."""
    config = TrainConfig(model="cnn", epochs=1, threads=1)
    study = Study("s", "t", (StudyTask("a", config),), ("fp32", "luq"), (0,))
    first, second = study.cells()
    with Store(tmp_path) as store:
        store.describe("s", {"cells": [first.key, second.key]})
        store.add([first, second])
        for cell in (first, second):
            store.put(cell, Outcome(cell.recipe, 0, "complete", "", 1.0))
        store._db.execute(statement, (first.key,))
    return "s", first.key, second.key


def test_a_row_goes_from_waiting_to_its_end(store: Store) -> None:
    first, second = STUDY.cells()
    assert {row.status for row in store.rows("s").values()} == {WAITING}
    store.mark(first, RUNNING)
    store.put(second, DONE, "then", "now")
    assert store.rows("s") == {first.key: Row(RUNNING, None), second.key: Row("complete", DONE)}
    store.add(STUDY.cells())  # a restart changes nothing
    assert store.rows("s")[second.key].outcome == DONE
    row = store.query("status = 'complete'")[0]
    assert (row["metric"], row["started"], row["finished"], row["commit_id"]) == (
        *(91.5, "then", "now"),
        "abc",
    )
    assert row["extras"] == {"m.x": 1.0, "y": None} and row["key"] == second.key
    store.mark(first, WAITING)  # a query leaves the store writable


def test_anybody_can_read_while_it_is_written(store: Store, tmp_path: Path) -> None:
    store.put(STUDY.cells()[0], DONE)
    with Store(tmp_path, readonly=True) as reader:
        assert len(reader.query()) == 2
        store.mark(STUDY.cells()[1], RUNNING)
        assert len(reader.query("status = 'running'")) == 1
    plain = sqlite3.connect(tmp_path / FILE)
    found = plain.execute("SELECT recipe, json_extract(configuration, '$.model') FROM cells")
    assert sorted(found) == [("fp32", "cnn"), ("sun2020", "cnn")]
    plain.close()


@pytest.mark.parametrize(
    "where",
    [
        *("nothing = 1", "1) ; DROP TABLE cells; --", "'", "1) OR (1", "1 -- x", "1 /* x", "(1"),
        "1=0) UNION SELECT 1,2,3,4,5,6,9e999,8,9,10,11,12,13,(14",
    ],
)
def test_a_bad_condition_is_one_line_and_changes_nothing(store: Store, where: str) -> None:
    with pytest.raises(UserError, match="give an SQL condition"):
        store.query(where)
    assert len(store.query()) == 2


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no study"):
        Store(tmp_path, readonly=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / FILE).write_text("not a data base " * 100)
    with pytest.raises(UserError, match="cannot be used"):
        Store(tmp_path)


def test_a_store_of_a_later_version_is_refused(store: Store, tmp_path: Path) -> None:
    plain = sqlite3.connect(tmp_path / FILE)
    plain.execute("PRAGMA user_version = 9")
    plain.commit()
    plain.close()
    with pytest.raises(UserError, match="version 9"):
        Store(tmp_path)


def test_a_cell_is_complete_with_its_measures_only() -> None:
    def cell(*measures: str) -> Cell:
        return Cell("s", "a", "", "fp32", 0, SMALL, measures)

    row = Row("complete", DONE)
    assert is_complete(row, cell()) and is_complete(row, cell("m"))
    assert not is_complete(row, cell("m", "y"))  # y is a number of the task, not of a measure
    assert not is_complete(Row("failed", DONE), cell()) and not is_complete(None, cell())


def test_numbers_that_are_not_finite_are_null(store: Store) -> None:
    cell = STUDY.cells()[0]
    store.put(cell, Outcome("fp32", 0, "failed", "f", float("nan"), extras={"m.x": float("inf")}))
    row = store.query("status = 'failed'")[0]
    assert row["metric"] is None and row["extras"] == {"m.x": None}
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize("where", ["(recipe = ')') OR seed = 0", '"seed" IN (0, 1)', "[seed] = 0"])
def test_a_condition_with_parentheses(store: Store, where: str) -> None:
    assert store.query(where)


def test_a_store_without_tables_and_a_damaged_description(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / FILE).close()
    (tmp_path / FILE).touch()
    with pytest.raises(UserError, match="has no tables of a study"):
        Store(tmp_path, readonly=True)
    (tmp_path / FILE).unlink()
    with Store(tmp_path) as store:
        store.describe("s", {"cells": [], "variants": [], "tasks": {}})
        assert list(store.studies()) == ["s"]
        for damaged in ({"cells": []}, {"cells": 3, "variants": [], "tasks": {}}, {}):
            store.describe("s", damaged)
            with pytest.raises(UserError, match="is damaged"):
                store.studies()
