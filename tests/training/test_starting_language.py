"""Starting from a trained model of text: its tokens, its settings and its classes come along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nybble.errors import UserError
from nybble.training import TrainConfig, train
from nybble.training.data.text.tokenizers import KINDS, restore_tokenizer, train_tokenizer
from nybble.training.loop import Run


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_survives_json(kind: str) -> None:
    if kind == "bpe":
        pytest.importorskip("tokenizers")
    specials = ("<unk>", "<eos>")
    made = train_tokenizer(kind, ["one two two", "three one"] * 3, 300, specials)
    again = restore_tokenizer(json.loads(json.dumps(made.to_dict())), specials)
    text = "two one zwölf"
    assert again.encode(text) == made.encode(text) and again.size == made.size
    assert again.decode(made.encode(text)) == made.decode(made.encode(text))


def written(folder: Path, lines: str) -> str:
    folder.mkdir()
    for part in ("train", "test"):
        (folder / f"{part}.txt").write_text(lines)
    return f"text:{folder}"


def config(**changes: Any) -> TrainConfig:
    fields: dict[str, Any] = {
        "task": "language",
        "recipe": "fp32",
        "epochs": 1,
        "batch_size": 2,
        "quiet": True,
        "checkpoint_every": 0,
    }
    return TrainConfig(**{**fields, **changes})


def test_a_language_model_keeps_its_vocabulary(tmp_path: Path) -> None:
    options = {"tokens": "word", "width": "16", "length": "4", "layers": "1"}
    first = written(tmp_path / "first", "one two three four\n" * 12)
    source = str(tmp_path / "source")
    train(config(data=first, model="lstm", out=source, task_options=tuple(options.items())))
    # Other words, in another order: alone, they would get other numbers.
    second = written(tmp_path / "second", "four five four one\n" * 12)
    run = Run(config(data=second, start=source, recipe="sun2020", out=str(tmp_path / "next")))
    task: Any = run.task
    assert task.tokenizer.encode("one two five") == task.tokenizer.encode("one two zzz")
    assert task.tokenizer.decode(task.tokenizer.encode("one two")) == "one two"
    assert run.config.model == "lstm" and dict(run.config.task_options)["width"] == "16"
    assert run.train()["start"]["recipe"] == "fp32"


def test_classes_of_texts(tmp_path: Path) -> None:
    def table(name: str, labels: tuple[str, ...]) -> str:
        rows = [
            {"text": f"word{k % 3} {label}", "label": label} for k in range(8) for label in labels
        ]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return f"table:{path}"

    source = str(tmp_path / "source")
    options = (("tokens", "word"), ("width", "8"), ("heads", "2"), ("layers", "1"))
    three = config(
        task="text", data=table("abc", ("a", "b", "c")), out=source, task_options=options
    )
    train(three)
    fewer = Run(config(task="text", data=table("ca", ("c", "a")), start=source))
    task: Any = fewer.task
    assert task.data.classes == ("a", "b", "c")
    assert {label for _, label in task.train} == {0, 2}
    other = config(task="text", data=table("ad", ("a", "d")), start=source)
    with pytest.raises(UserError, match=r"has the class 'd', .*--new-head"):
        Run(other)
    anew = Run(TrainConfig(**{**vars(other), "new_head": True}))
    assert anew.start is not None and anew.start["new_head"] is not None
    assert anew.task.describe()["classes"] == ["a", "d"]
