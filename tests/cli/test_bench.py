"""bench step and bench memory as a user calls them: status, stdout, stderr, files."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from nybble.cli.app import main

STEP = "bench step --model cnn --batch 2 --size 16 --rounds 2 --threads 1 --no-compile"
RECORDED = STEP.replace("--rounds 2", "--rounds 6")
MEMORY = "bench memory --model cnn --batch 2 --size 16 --steps 1"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def error_line(capsys: pytest.CaptureFixture[str], command: str) -> str:
    assert main(shlex.split(command)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("nybble: error: ")
    return err


def test_json_on_stdout_is_one_object_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(f"{RECORDED} --json - --record here")) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["schema"] == "nybble.bench/1" and found["bench"] == "step"
    assert isinstance(found["speedup"]["1"], float)
    assert found["profile"] is not None  # a record shows where the time goes
    assert "recorded in results/here.json" in err
    assert json.loads(Path("results/here.json").read_text()) == found


def test_json_into_a_file_beside_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(f"{MEMORY} --json out.json --note 'because of this'")) == 0
    out, err = capsys.readouterr()
    assert "peak above import" in out and "written to out.json" in err
    found = json.loads(Path("out.json").read_text())
    assert set(found["ratio"]) == {"saved", "peak"} and found["note"] == "because of this"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (f"{STEP} --model resnet9", "resnet9"),
        (f"{STEP} --model nowhere:function", "cannot be imported"),
        (f"{STEP} --recipe sun202", "sun202"),
        (f"{STEP} --backend cuda", "unknown backend"),
        (f"{STEP} --activations 8bit", "choose 4bit"),
        (f"{STEP} --threads two", "threads 'two'"),
        (f"{STEP} --rounds 0", "rounds must be at least 1"),
        (f"{STEP} --json no/such/folder.json", "folder that exists"),
        (f"{STEP} --record a/b", "plain name"),
        (f"{STEP} --record here", "use --rounds 6 or more"),
        (f"{MEMORY} --allocator mine", "default or keep"),
        (f"{MEMORY} --batch 0", "batch must be at least 1"),
        (f"{MEMORY} --threads x", "--threads"),
        ("bench kernels --only gem", "choose from gemm"),
        ("bench kernels --threads 0", "threads"),
    ],
)
def test_bad_options_are_one_clear_line(
    command: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in error_line(capsys, command)
