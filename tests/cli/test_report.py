"""`nybble report` as a user calls it, and the report at the end of every run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from tests.reports.run import folders

from nybble.cli.app import COMMANDS, main
from nybble.reports.run.command import command
from nybble.training import loop
from nybble.training.config import TrainConfig
from nybble.training.result import read_result

TINY = shlex.split(
    "--data mnist5k --model cnn --epochs 1 --batch-size 32 --limit-train 96 --limit-test 40 "
    "--threads 1 --watch 2"
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def error_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("nybble: error: ")
    return err


def test_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    folders.make(Path("runs/a"))
    assert main(["report", "runs/a"]) == 0
    assert capsys.readouterr().out == "report: runs/a/report.html\n"
    assert "90.00 %" in Path("runs/a/report.html").read_text()
    assert "report" in COMMANDS


def test_several_runs_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        folders.make(Path(f"p{seed}"), 0.95, seed=seed, recipe="fp32", watch=[])
        folders.make(Path(f"f{seed}"), 0.94 - 0.01 * seed, seed=seed)
    assert main(["report", "f0", "f1", "p1", "--baseline", "p0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] == "report.html" and found["baseline"] == "fp32"
    assert found["bytes"] == Path("report.html").stat().st_size
    assert len(found["runs"]) == 4
    row = next(row for row in found["rows"] if row["recipe"] == "sun2020")
    assert row["difference"]["mean"] == pytest.approx(-1.5)
    assert row["difference"]["t_interval"]["low"] < -1.5


@pytest.mark.parametrize(
    "arguments, says",
    [
        ("nothing", "nothing does not exist"),
        ("a --baseline nothing", "nothing does not exist"),
        ("a --out a/result.json", "no report of a run"),
        ("a --out no/where.html", "a folder that exists"),
        ("late", "schema version 99"),
        ("", "RUN"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: str, says: str
) -> None:
    folders.make(Path("a"))
    late = folders.make(Path("late")) / "result.json"
    late.write_text(json.dumps({**json.loads(late.read_text()), "schema_version": 99}))
    assert says in error_line(capsys, ["report", *shlex.split(arguments)])


def test_the_report_of_a_run_comes_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "vision", *TINY, "--out", "run"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and err.splitlines()[-1] == "report: run/report.html"
    page = Path("run/report.html").read_text()
    record = read_result(Path("run"))
    assert record is not None and f"{100 * record['final']['test_accuracy']:.2f} %" in page
    # What ran in how many bits is in the record itself.
    bits = {entry["layer"]: entry["bits"] for entry in record["layers"]}
    assert bits["features.4"] == "4 4 4 4 4 4" and "16" in bits["features.0"]
    assert "of 4 layers run all their multiplications in 4 bits" in page
    assert "From the looks at the layers" not in page
    # The same command with --resume shows the result, and makes the page again.
    Path("run/report.html").unlink()
    assert main(["train", "vision", *TINY, "--out", "run", "--resume", "--quiet"]) == 0
    assert Path("run/report.html").is_file() and capsys.readouterr().err == ""


def test_a_run_that_fails_has_its_report_and_its_own_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["train", "vision", *TINY, "--out", "run", "--lr", "1e30", "--recipe", "fp32"]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-2] == "report: run/report.html"
    assert err.splitlines()[-1].startswith("nybble: error: Training stopped at step")
    assert ">failed</span>" in Path("run/report.html").read_text()


def test_a_run_that_is_interrupted_has_its_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    step = loop.Run.step

    def then_stop(run: Any) -> None:
        step(run)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop.Run, "step", then_stop)
    assert main(["train", "vision", *TINY, "--out", "run"]) == 130
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-2] == "report: run/report.html"
    assert "Continue with" in err.splitlines()[-1]
    page = Path("run/report.html").read_text()
    assert ">interrupted</span> 1 of 3 steps" in page


def test_a_report_that_fails_hides_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nybble.reports import run

    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("two\nlines")

    monkeypatch.setattr(run, "make_report", broken)
    assert main(["train", "vision", *TINY, "--out", "run", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "accuracy" in out and "report:" not in out
    assert err == "nybble: the report could not be made: ValueError: two lines\n"
    arguments = ["train", "vision", *TINY, "--out", "bad", "--lr", "1e30", "--recipe", "fp32"]
    assert main(arguments) == 2
    assert "Training stopped at step" in capsys.readouterr().err


def test_a_folder_that_is_refused_is_not_touched(capsys: pytest.CaptureFixture[str]) -> None:
    folders.make(Path("run"))
    before = sorted(path.name for path in Path("run").iterdir())
    error_line(capsys, ["train", "vision", *TINY, "--out", "run"])
    assert sorted(path.name for path in Path("run").iterdir()) == before


def test_a_comparison_has_one_report_of_all_its_runs(capsys: pytest.CaptureFixture[str]) -> None:
    more = "--recipes fp32,sun2020 --seeds 0,1 --step-pairs 0 --best-of none --out cmp"
    assert main(["compare", "vision", *TINY, *shlex.split(more)]) == 0
    _, err = capsys.readouterr()
    assert err.splitlines()[-1] == "report: cmp/runs.html"
    page = Path("cmp/runs.html").read_text()
    assert "sun2020, seed 1" in page and "4 runs, seeds 0, 1" in page
    # The page belongs to the comparison's folder: the same command goes on.
    assert main(["compare", "vision", *TINY, *shlex.split(more)]) == 0


def test_the_command_on_the_page_repeats_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = TrainConfig(
        data="fashion-mnist:some folder",
        model="resnet8",
        recipe="sun2020:odd_offset=+1",
        rules=(("fc", "none"), ("re:.*conv1", "hfp8")),
        seed=3,
        epochs=7,
        lr=0.3,
        nesterov=False,
        betas=(0.8, 0.9),
        zero_init=True,
        channels_last=False,
        on_alarm="stop",
        watch=7,
        out="x",
    )
    seen: list[TrainConfig] = []

    def note(config: TrainConfig) -> dict[str, Any]:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", note)
    words = shlex.split(command(asked.resolved().to_dict()))
    assert words[0] == "nybble" and main(words[1:]) == 130
    assert seen[0].identity() == asked.identity() and seen[0].watch == 7
