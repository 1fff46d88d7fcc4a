"""A run folder in every state that a run can leave it in."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from tests.reports.run import folders

from nybble.errors import UserError
from nybble.reports.run import make_report
from nybble.reports.run.data import Run, read_runs, run_folders


def read(folder: Path) -> Run:
    return read_runs([folder])[0]


def change(folder: Path, **changes: Any) -> None:
    path = folder / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_complete_run(tmp_path: Path) -> None:
    run = read(folders.make(tmp_path / "a", 0.905))
    assert (run.status, run.reason, run.notes) == ("complete", "", [])
    assert (run.recipe, run.seed, run.final) == ("sun2020", 0, pytest.approx(90.5))
    assert run.layers == list(folders.LAYERS) and run.log_curve == []


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_says_how_it_ended(tmp_path: Path, status: str) -> None:
    folder = folders.make(tmp_path / "a", status=status, error="the loss is\nnan")
    run = read(folder)
    assert (run.status, run.reason) == (status, "the loss is nan")
    page = make_report([folder]).to_html()
    assert f">{status}</span> 60 of 60 steps: the loss is nan" in page


def test_a_run_that_ended_without_a_word(tmp_path: Path) -> None:
    folder = folders.make(tmp_path / "a", status="running", epochs=0)
    run = read(folder)
    assert run.status == "crashed" and "step 20/20" in run.reason
    assert run.log_curve == [(0.5, 2.5), (1.0, 2.0)]
    page = make_report([folder]).to_html()
    assert "crashed" in page and "killed, out of memory" in page and 'data-figure="loss"' in page


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    folder = folders.make(tmp_path / "a", status="running")
    with (folder / "log.txt").open("a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert read(folder).status == "running"
    assert read(folder).status == "crashed"


@pytest.mark.parametrize("files", [["config.json"], ["log.txt"], ["config.json", "watch.jsonl"]])
def test_what_is_left_of_a_folder_is_enough_for_a_page(tmp_path: Path, files: list[str]) -> None:
    folder = folders.make(tmp_path / "a")
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    run = read(folder)
    assert run.status == "crashed" and any("no result.json" in note for note in run.notes)
    assert (run.recipe == "sun2020") is ("config.json" in files)
    page = make_report([folder]).to_html()
    assert page.count("<section") >= 8
    assert ("From the looks at the layers" in page) is ("watch.jsonl" in files)


def test_a_record_of_an_earlier_version_opens(tmp_path: Path) -> None:
    folder = folders.make(tmp_path / "a")
    path = folder / "result.json"
    record = json.loads(path.read_text())
    for key in ("layers", "alarms", "raised", "unit", "digits", "comparison", "commit"):
        del record[key]
    path.write_text(json.dumps(record))
    page = make_report([folder]).to_html()
    assert "90.00 %" in page and "From the looks at the layers" in page


def test_a_record_of_a_later_version_names_the_version_that_opens_it(tmp_path: Path) -> None:
    folder = folders.make(tmp_path / "a", versions={"nybble": "7.2.0"})
    change(folder, schema_version=9)
    with pytest.raises(UserError, match=r"schema version 9.*reads up to 1: nybble 7\.2\.0"):
        read(folder)


def test_looks_of_a_later_version_cost_their_part_only(tmp_path: Path) -> None:
    lines = ['{"schema": "nybble.watch/2"}', *folders.watch_lines()[1:]]
    run = read(folders.make(tmp_path / "a", watch=lines))
    assert run.looks is None and run.final is not None
    assert "nybble.watch/2" in run.notes[0] and "made by nybble 0.1.0" in run.notes[0]


def test_damaged_files_cost_their_part_only(tmp_path: Path) -> None:
    folder = folders.make(tmp_path / "a")
    (folder / "result.json").write_text('{"schema": "nybble.run"')
    run = read(folder)
    assert run.result is None and "result.json cannot be read" in run.notes[0]
    (folder / "config.json").write_text("[]")
    assert "config.json is missing or damaged" in read(folder).notes[1]
    assert "<section" in make_report([folder]).to_html()


def test_alarms_of_a_run_that_crashed_come_from_its_looks(tmp_path: Path) -> None:
    lines = [*folders.watch_lines(), json.dumps(folders.alarm(30, "fc"))]
    run = read(folders.make(tmp_path / "a", watch=lines))
    assert [found["layer"] for found in run.alarms] == ["fc"]


def test_a_comparison_stands_for_its_runs(tmp_path: Path) -> None:
    for name in ("b", "a"):
        folders.make(tmp_path / "cmp" / "runs" / name, watch=[])
    (tmp_path / "cmp" / "runs" / "empty").mkdir()
    assert [path.name for path in run_folders(tmp_path / "cmp")] == ["a", "b"]


def test_what_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        run_folders(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no run"):
        run_folders(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        run_folders(tmp_path / "file")
