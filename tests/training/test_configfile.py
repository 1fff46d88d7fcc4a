"""Configurations in files: what they say, what the command line changes, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nybble.cli.app import main
from nybble.errors import UserError
from nybble.training.config import TrainConfig
from nybble.training.configfile import read_config
from nybble.training.loop import Run, train
from nybble.training.tasks import task_class

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_file_is_complete_and_valid(path: Path) -> None:
    whole = read_config(path).resolved()
    task = task_class(whole.task)
    assert {key for key, _ in whole.task_options} <= set(task.options)
    assert f"nybble train --config configs/{path.name}" in path.read_text()


def test_a_file_says_the_same_as_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        'task = "language"\nlr = 1\nbetas = [0.9, 0.98]\nnesterov = false\n'
        '[options]\nwidth = 64\ncarried = true\ndropout = 0.5\n[rules]\nhead = "none"\n'
    )
    assert read_config(path) == TrainConfig(
        task="language",
        lr=1,
        betas=(0.9, 0.98),
        nesterov=False,
        task_options=(("width", "64"), ("carried", "true"), ("dropout", "0.5")),
        rules=(("head", "none"),),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", r"a\.toml: 'epoch' is no setting of a run\. Did you mean 'epochs'\?"),
        ("out = 'x'", r"'out' is no setting"),
        ("options = 3", r"options must be a table, \[options\], not 3"),
        ("epochs = ", r"a\.toml is no TOML: "),
        ("epochs = 0", r"a\.toml: epochs must be at least 1, not 0"),
        ("epochs = 'three'", r"a\.toml: .*epochs must be a whole number"),
    ],
)
def test_files_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_config(path)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.toml cannot be read: No such file"):
        read_config(path)


def test_the_command_line_goes_before_the_file(
    tiny_data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        f'data = "{tiny_data}"\nmodel = "cnn"\nepochs = 5\nbatch_size = 12\nrecipe = "fp32"\n'
        'seed = 3\nlr = 0.01\nchannels_last = false\n[rules]\n"classifier" = "none"\n'
    )
    out = tmp_path / "run"
    said = ["--epochs", "1", "--recipe", "sun2020", "--rule", "features.4=fp16", "--seed", "0"]
    command = ["train", "--config", str(path), "--out", str(out), "--quiet", *said]
    assert main(command) == 0
    config = json.loads((out / "result.json").read_text())["config"]
    # `--recipe sun2020 --seed 0` are the defaults, but they were said
    assert (config["epochs"], config["recipe"], config["seed"]) == (1, "sun2020", 0)
    assert (config["model"], config["batch_size"], config["lr"]) == ("cnn", 12, 0.01)
    assert config["channels_last"] is False
    assert config["rules"] == [["features.4", "fp16"], ["classifier", "none"]]
    assert main(["train", "--config", str(tmp_path / "no.toml")]) == 2
    assert "no.toml cannot be read" in capsys.readouterr().err


def test_a_comparison_takes_the_file_but_its_own_recipes(tiny_data: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        f'data = "{tiny_data}"\nmodel = "cnn"\nepochs = 1\nbatch_size = 12\nrecipe = "bf16"\n'
    )
    command = ["compare", "--config", str(path), "--recipes", "fp32,fp16", "--seeds", "0"]
    command += ["--best-of", "none", "--step-pairs", "0", "--out", str(tmp_path / "c"), "--quiet"]
    assert main(command) == 0
    found = sorted(p.parent.name for p in (tmp_path / "c").rglob("result.json"))
    assert len(found) == 2 and all("bf16" not in name for name in found)


# -- the paper's shapes, on a few made-up samples --------------------------------------------------


def write_text(folder: Path, names: dict[str, int], words: int, size: int = 12) -> None:
    folder.mkdir()
    random = torch.Generator().manual_seed(0)
    for name, lines in names.items():
        text = [
            " ".join(f"w{int(k)}" for k in torch.randint(words, (size,), generator=random))
            for _ in range(lines)
        ]
        (folder / name).write_text("\n".join(text))


def test_one_step_of_the_penn_treebank_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "ptb", {"train.txt": 1200, "test.txt": 20}, 20000)
    config = read_config(CONFIGS[0].parent / "ptb-lstm.toml")
    changes = {"epochs": 1, "recipe": "sun2020", "out": "run", "quiet": True}
    options = (*config.task_options, ("steps", "1"))
    run = Run(TrainConfig(**{**vars(config), **changes, "task_options": options}))
    assert run.model.head.weight.shape == (10000, 650) and run.model.lstm.num_layers == 2
    inputs, targets = run.task.batch(0, 0)
    assert list(inputs.shape) == list(targets.shape) == [20, 35]
    record = run.train()
    assert record["model"]["parameters"] == pytest.approx(19.8e6, rel=0.01)
    assert record["final"]["test_perplexity"] < 20000 and record["dead_layers"] == []


def test_one_step_of_transformer_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sacrebleu")
    pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    for ending in ("1en", "2de"):
        write_text(tmp_path / ending, {f"train.{ending}": 8, f"test.{ending}": 2}, 50, 3)
    (tmp_path / "wmt").mkdir()
    for path in tmp_path.glob("*/t*.*"):
        path.rename(tmp_path / "wmt" / path.name)
    config = read_config(CONFIGS[0].parent / "wmt-transformer-base.toml")
    said = {"steps": "1", "beam": "1", "length": "12"}
    options = tuple({**dict(config.task_options), **said}.items())
    changes = {"epochs": 1, "recipe": "sun2020", "batch_size": 2, "out": "run", "quiet": True}
    record = train(TrainConfig(**{**vars(config), **changes, "task_options": options}))
    # 6 + 6 layers of the true width: 44 million weights beside the vocabulary's
    vocabulary = record["data"]["vocabulary"]
    assert record["model"]["parameters"] - 2 * 512 * vocabulary == pytest.approx(44.1e6, rel=0.01)
    assert record["dead_layers"] == [] and record["data"]["languages"] == ["1en", "2de"]
