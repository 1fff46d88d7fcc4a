"""compare, bench, recipes and summary as a user calls them: status, stdout, stderr, files."""

from __future__ import annotations

import inspect
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from nybble.cli import compare, train
from nybble.cli.app import main
from nybble.errors import UserError
from nybble.reports.table import plain
from nybble.studies import compare as studies
from nybble.studies.compare import CompareConfig
from nybble.studies.record import read_record
from nybble.training import loop

TINY = shlex.split(
    "--data mnist5k --model cnn --epochs 1 --batch-size 32 --limit-train 64 --limit-test 40 "
    "--threads 1 --step-pairs 1 --best-of none --quiet"
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def error_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("nybble: error: ")
    return err


def test_compare_from_start_to_record(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlxtend")
    arguments = ["compare", "vision", *TINY, "--recipes", "fp32,sun2020", "--seeds", "0"]
    arguments += ["--out", "out", "--record", "tiny", "--jobs", "2"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    record = read_record(Path("out/comparison.json"))
    assert out == plain(record) + "\n"
    assert "run 2/2" in err and "report: out/report.html" in err
    assert "-> out/runs/sun2020-seed0" in err
    assert json.loads(Path("results/tiny.json").read_text()) == record
    page = Path("out/report.html").read_text()
    assert "fp32" in page and "<svg" in page
    # A second call takes everything over; the record's name is taken.
    assert main([*arguments[:-4], "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [run["reused"] for run in again["runs"]] == [True] * 2
    assert [row["metric"] for row in again["rows"]] == [row["metric"] for row in record["rows"]]
    assert again["timing"] == record["timing"]  # nothing new: not measured again
    assert "results/tiny.json exists" in error_line(capsys, arguments)


@pytest.mark.parametrize(
    ("more", "settings", "select_seeds", "epochs"),
    [
        ("", 0, (10, 11), 2),
        ("--best-of auto", 0, (10, 11), 2),
        ("--recipes fp32,sun2020", 3, (10, 11), 2),
        ("--recipes fp32,sun2020 --seeds 9-11 --epochs 2", 3, (12, 13), 1),
        ("--recipes fp32,sun2020 --best-of none", 0, (10, 11), 2),
        ("--recipes sun2020,sun2020:factor=1.848", 0, (10, 11), 2),
        ("--recipes fp32,hfp8", 0, (10, 11), 2),
        ("--best-of sun2020:ste=clip --select-seeds 5 --select-epochs 4", 1, (5,), 4),
    ],
)
def test_which_settings_are_tried(
    more: str,
    settings: int,
    select_seeds: tuple[int, ...],
    epochs: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[CompareConfig] = []

    def stop(config: CompareConfig, say: Any) -> None:
        seen.append(config)
        raise UserError("seen")

    monkeypatch.setattr(studies, "compare", stop)
    error_line(capsys, ["compare", "vision", *shlex.split(more)])
    assert len(seen[0].best_of) == settings
    assert seen[0].select_seeds == select_seeds
    assert seen[0].choosing_epochs == epochs


def test_a_failed_run_is_shown_and_gives_status_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlxtend")

    def fail(config: Any) -> None:
        raise loop.NonFiniteError(f"NaN with {config.recipe}")

    monkeypatch.setattr(loop, "train", fail)
    arguments = ["compare", *TINY, "--recipes", "fp32,sun2020", "--seeds", "0", "--out", "out"]
    assert main(arguments) == 3
    out, _ = capsys.readouterr()
    assert "fp32: seed 0 failed: NaN with fp32." in out
    assert "no result" in out and "0 of 1" in out
    assert "NaN with sun2020" in Path("out/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--recipes", "fp32,sun202"], "unknown recipe 'sun202'"),
        (["--recipes", "fp32,,sun2020"], "an entry is empty"),
        (["--seeds", "a"], "seeds 'a'"),
        (["--model", "resnet9"], "resnet9"),
        (["--data", "mnist"], "mnist"),
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--switches", "hfp8:accumulator=chunked"], "not compared"),
        (["--best-of", "sun2020:factor=1.848", "--select-seeds", "0"], "seed 0 is in --seeds"),
        (["--record", "../x"], "plain name"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_compare_refuses_bad_input_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert says in error_line(capsys, ["compare", *arguments])
    assert list(Path.cwd().iterdir()) == []


def test_compare_has_every_option_of_train_that_describes_training() -> None:
    mine = inspect.signature(compare.command).parameters
    theirs = inspect.signature(train.command).parameters
    assert set(theirs) - set(mine) == {"recipe", "seed", "resume", "tensorboard"}
    for name in set(mine) & set(theirs) - {"out", "quiet"}:
        assert mine[name].default == theirs[name].default


def test_switches_reach_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from nybble.studies import compare as study

    seen: list[Any] = []

    def stop(config: Any, say: Any) -> None:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "compare", stop)
    words = [
        "--switches",
        "sun2020:factor=1.848",
        "--rule",
        "classifier=none",
        "--lr",
        "0.3",
        "--seeds",
        "3-4",
    ]
    assert main(["compare", *words]) == 130
    config = seen[0]
    assert config.recipes == ("fp32", "fp16", "sun2020:factor=1.848")
    assert (config.seeds, config.base.lr, config.base.rules) == (
        (3, 4),
        0.3,
        (("classifier", "none"),),
    )
    assert config.out == Path("runs/compare-vision-mnist5k-resnet8")


BENCH = shlex.split(
    "bench emulation --model cnn --batch-size 2 --size 16 --pairs 2 --threads 1 --recipe sun2020"
)


def test_bench_emulation_prints_and_records(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BENCH, "--json", "--record", "speed"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "nybble.bench/1" and found["target"] is None
    (measured,) = found["measurements"]
    assert measured["threads"] == 1 and measured["recipe"]["wall"]["n"] == 2
    assert measured["baseline"]["wall"]["median"] == 1.0
    assert found == json.loads(Path("results/speed.json").read_text())
    assert main(BENCH) == 0
    assert "threads  float32  emulated" in " ".join(capsys.readouterr().out.split(" ")).replace(
        "   ", "  "
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--threads", "0"], "threads '0'"),
        (["--threads", "two"], "threads 'two'"),
        (["--pairs", "0"], "pairs must be at least 1"),
        (["--recipe", "sun2019"], "sun2019"),
        (["--model", "resnet15"], "resnet15"),
    ],
)
def test_bench_refuses_bad_input(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert says in error_line(capsys, ["bench", "emulation", *arguments])


def test_recipes_lists_and_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    assert "sun2020-strict" in capsys.readouterr().out
    assert main(["recipes", "show", "sun2020"]) == 0
    assert "default 1.6" in capsys.readouterr().out
    assert main(["recipes", "--json"]) == 0
    assert "sun2020" in [r["name"] for r in json.loads(capsys.readouterr().out)]
    assert "Did you mean 'sun2020'?" in error_line(capsys, ["recipes", "show", "sun202"])


def test_summary_prints_every_gemm(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["summary", "cnn", "--input", "1x28x28", "--batch-size", "4"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "grad_weight" in out and "bytes saved for backward" in out
    assert main([*words, "--json", "--rule", "classifier=none"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["bits"][0] for row in rows if row["layer"] == "classifier"} == {32}


def test_summary_of_a_model_of_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    words = ["summary", "hf:gpt2", "--recipe", "sun2020:attention=yes+embedding=yes"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "hf:gpt2, recipe sun2020:attention=yes+embedding=yes, input input_ids 2 x 8"
    )
    for name in ("attn.qk_product", "attn.pv_product", "mlp.c_fc", "transformer.wte", "lm_head"):
        assert name in out
    assert "(other products)" not in out and "not converted" not in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["resnet9"], "resnet9"),
        (["cnn", "--input", "28 by 28"], "28 by 28"),
        (["cnn", "--input", "28x28"], "does not take an input of"),
        (["cnn", "--batch-size", "0"], "--batch-size"),
        (["cnn", "--recipe", "none"], "unknown recipe 'none'"),
        (["cnn", "--rule", "head"], "PATTERN=RECIPE"),
        (["cnn", "--rule", "head=none"], "head"),
        (["hf:brt"], "Did you mean 'bert'?"),
        (["hf:bert", "--batch-size", "4"], "leave out --batch-size"),
    ],
)
def test_summary_refuses_bad_input(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert says in error_line(capsys, ["summary", *arguments])
