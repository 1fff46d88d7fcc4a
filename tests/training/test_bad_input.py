"""Bad input: one line on stderr, status 2, no traceback, nothing written or overwritten."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nybble.cli.app import main

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def nybble(
    capsys: pytest.CaptureFixture[str],
    tiny_data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Call:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, out: str = "run") -> tuple[int, str, str]:
        words = ["--data", tiny_data, "--model", "cnn", "--recipe", "fp32", "--epochs", "1"]
        words += ["--batch-size", "12", "--out", out, *arguments]
        capsys.readouterr()
        status = main(["train", "vision", *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def image(path: Path, size: tuple[int, int] = (8, 8)) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size).save(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "mnist5"], "Unknown data 'mnist5'; * Did you mean 'mnist5k'?"),
        (["--model", "resnet"], "Unknown model 'resnet'; * Did you mean 'resnet*'?"),
        (["--recipe", "sun2002"], "*sun2002* Did you mean 'sun2020'?"),
        (["--recipe", "sun2020", "--rule", "nowhere=hfp8"], "*nowhere*"),
        (["--recipe", "sun2020", "--rule", "nowhere"], "--rule must be PATTERN=RECIPE*"),
        (["--rule", "classifier=hfp8"], "--rule changes a recipe; the recipe fp32 *"),
        (["--schedule", "onecicle"], "Unknown schedule * Did you mean 'onecycle'?"),
        (["--optimizer", "adam"], "Unknown optimizer * Did you mean 'adamw'?"),
        (["--augmentation", "flip"], "Unknown augmentation 'flip'*"),
        (["--epochs", "0"], "epochs must be at least 1, not 0."),
        (["--lr", "nan"], "lr must be a number of at least 0, not nan."),
        (["--lr", "-1"], "lr must be a number of at least 0, not -1.0."),
        (["--loss-scale", "3"], "loss_scale must be a power of two, not 3.0."),
        (["--warmup", "1"], "warmup is a share of the run, 0 <= warmup < 1, not 1.0."),
        (["--weight-decay", "1e300"], "weight_decay must be a number of at least 0, not 1e+300."),
        (["--seed", str(2**63)], "seed must be below 2**63, not *"),
        (["--threads", "100000"], "threads must be between 1 and 1024, not 100000."),
        (["--backend", "nativ"], "Unknown backend 'nativ'; * Did you mean 'native'?"),
        (["--accumulate", "exakt"], "Unknown accumulate 'exakt'; * Did you mean 'exact'?"),
        (["--data", "folder:" + "y" * 300], "File name too long: yyy*"),
        (["--model", "leaves:build"], "The model 'leaves:build' cannot be imported: * SystemExit*"),
        (["--limit-train", "0"], "limit_train must be at least 1, not 0."),
        (["--threads", "0"], "threads must be at least 1, not 0."),
        (["--on-corrupt", "ignore"], "on_corrupt must be 'stop' or 'skip', not 'ignore'."),
        (["--resize", "0"], "resize must be between 1 and 4096 pixels, not 0."),
        (["--epochs", "many"], "Invalid value for '--epochs'*"),
        (["--data", "folder:empty"], "The folder empty has no sub-folder*"),
        (["--data", "folder:sizes"], "The images of sizes differ in size: *b.png is 9x8, *"),
        (["--data", "folder:corrupt"], "The image corrupt*x.png cannot be decoded*skip*"),
        (["--data", "folder:one"], "The folder one has one class only (ant)*"),
        (["--data", "hf:x/y"], "hf:x/y needs the datasets library*pip install datasets*"),
        (["--model", "tens:ten"], "The model 'tens:ten' does not fit the data*[1, 10]*[1, 4]*"),
        (["--model", "tens:thin"], "The model 'tens:thin' does not fit the data*RuntimeError*"),
        (["--model", "tens:frozen"], "The model 'tens:frozen' has no weight that can be trained."),
    ],
)
def test_one_line_and_status_two(
    arguments: list[str], message: str, nybble: Call, tmp_path: Path, monkeypatch: Any
) -> None:
    if "hf:x/y" in arguments and importlib.util.find_spec("datasets"):
        pytest.skip("datasets is installed")
    if any(word.startswith("folder:") for word in arguments):
        pytest.importorskip("PIL")
        (tmp_path / "empty").mkdir()
        image(tmp_path / "sizes" / "ant" / "a.png")
        image(tmp_path / "sizes" / "ant" / "c.png")
        image(tmp_path / "sizes" / "bee" / "b.png", (9, 8))
        image(tmp_path / "corrupt" / "ant" / "a.png")
        (tmp_path / "corrupt" / "ant" / "x.png").write_text("no image")
        image(tmp_path / "corrupt" / "bee" / "a.png")
        image(tmp_path / "one" / "ant" / "a.png")
    (tmp_path / "tens.py").write_text(
        "from torch import nn\n"
        "def ten(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))\n"
        "def thin(): return nn.Conv2d(3, 4, 3)\n"
        "def frozen():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)\n"
    )
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)")
    monkeypatch.delitem(__import__("sys").modules, "tens", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    status, out, err = nybble(*arguments)
    assert status == 2 and out == ""
    assert err.startswith("nybble: error: ") and err.count("\n") == 1, err
    assert "Traceback" not in err
    text = err.removeprefix("nybble: error: ").rstrip("\n")
    from fnmatch import fnmatchcase

    pattern = message.replace("[", "[[]").replace("?", "[?]")
    assert fnmatchcase(text, pattern) or text.startswith(message), text
    assert not (tmp_path / "run").exists()


def test_corrupt_images_are_left_out_and_counted_by_choice(nybble: Call, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    for name in ("ant", "bee"):
        for index in range(5):
            image(tmp_path / "set" / name / f"{index}.png")
    (tmp_path / "set" / "bee" / "x.png").write_text("no image")
    status, out, _ = nybble("--data", "folder:set", "--on-corrupt", "skip")
    assert status == 0 and "accuracy" in out
    notes = json.loads((tmp_path / "run" / "result.json").read_text())["data"]["notes"]
    assert any("1 corrupt images left out: set/bee/x.png" in note for note in notes)


def test_a_folder_with_another_run_is_left_alone(nybble: Call, tmp_path: Path) -> None:
    assert nybble()[0] == 0
    before = tree(tmp_path / "run")
    for arguments, message in (
        (["--seed", "1"], "holds another run (seed is 0 there, 1 was asked for)"),
        (["--resume", "--lr", "0.5"], "holds another run (lr is 0.009375"),
        ([], "holds this run already; add --resume"),
    ):
        status, _, err = nybble(*arguments)
        assert status == 2 and message in err and err.count("\n") == 1
        assert tree(tmp_path / "run") == before
    status, out, _ = nybble("--resume")
    assert status == 0 and "accuracy" in out
    assert tree(tmp_path / "run") == before


def test_a_folder_with_other_files_is_left_alone(nybble: Call, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    status, _, err = nybble()
    assert status == 2 and "is not empty and holds no nybble run (thesis.txt)" in err
    assert tree(tmp_path / "run") == {str(tmp_path / "run" / "thesis.txt"): b"precious"}
    (tmp_path / "file").write_text("x")
    status, _, err = nybble(out="file")
    assert status == 2 and "file is a file, not a folder" in err
    (tmp_path / "run" / "config.json").write_text("{")
    assert "is not the configuration of a nybble run" in nybble("--resume")[2]


def test_two_processes_cannot_share_a_folder(nybble: Call, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "log.txt").open("a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        status, _, err = nybble()
    assert status == 2 and "Another process is training in run" in err
    assert nybble()[0] == 0


def test_tensorboard_missing(nybble: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "tensorboard" else original(n, *a)
    )
    status, _, err = nybble("--tensorboard")
    assert status == 2 and "pip install tensorboard" in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made(nybble: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    status, _, err = nybble(out="file/run")
    assert status == 2 and err.count("\n") == 1 and "could not be written" in err


def test_a_loss_that_is_not_finite(nybble: Call, tmp_path: Path) -> None:
    status, out, err = nybble("--lr", "1e30", "--schedule", "constant", "--warmup", "0", "--quiet")
    assert status == 2 and out == ""
    assert "nybble: error: Training stopped at step" in err and err.count("\n") == 1
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert record["status"] == "failed" and "first non-finite value arose" in record["error"]


def test_data_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    text = capsys.readouterr().out
    assert ("cifar10:DIR" in text and "apt-get install" in text) or "found" in text
    assert main(["data", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    names = [row["name"] for row in rows]
    vision = ["mnist5k", "mnist10k", "fashion-mnist", "cifar10", "folder", "hf"]
    assert names[: len(vision)] == vision
    assert {"brown", "text", "verses", "table", "fsdd", "voices", "transcripts"} <= set(names)
    for row in rows:
        assert row["status"] in ("found", "missing", "yours") and row["install"]
        assert (row["path"] is not None) == (row["status"] == "found")
