"""The tasks speech and ctc: every model learns in 4 bits, resumes exactly, is scored right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nybble.errors import UserError
from nybble.nn import quantized_layers
from nybble.training.config import TrainConfig
from nybble.training.loop import Run, train
from nybble.training.models.speech import CTC_MODELS, MODELS, SWB300, CTCNet, LSTMClassifier
from nybble.training.tasks import make_task

from .conftest import tone, write_wav

Make = Callable[..., TrainConfig]


def losses(config: TrainConfig) -> tuple[Run, list[float]]:
    run = Run(config)
    record = run.train()
    assert record["dead_layers"] == []
    return run, [epoch["train_loss"] for epoch in record["epochs"]]


@pytest.mark.parametrize("model", ["lstm", "cnn"])
def test_classifiers_learn_in_four_bits(model: str, tiny_speech: Make) -> None:
    config = tiny_speech(
        model=model, recipe="sun2020", epochs=4, lr=1e-2, task_options=(("seconds", "0.3"),)
    )
    run, found = losses(config)
    assert found[-1] < 0.8 * found[0]
    layers = dict(quantized_layers(run.model))
    assert layers and all(layer.nybble_backend != "reference" for layer in layers.values())


def test_wav2vec2_learns_in_four_bits(tiny_speech: Make) -> None:
    pytest.importorskip("transformers")
    config = tiny_speech(
        model="wav2vec2",
        recipe="sun2020",
        lr=2e-3,
        limit_train=16,
        limit_test=4,
        task_options=(("seconds", "0.25"),),
    )
    run, found = losses(config)
    assert found[-1] < found[0]
    assert type(run.model).__name__ == "Wav2Vec2ForSequenceClassification"


@pytest.mark.parametrize("model", ["ctc", "wav2vec2"])
def test_recognisers_learn_in_four_bits(model: str, tiny_speech: Make) -> None:
    pytest.importorskip("jiwer")
    if model == "wav2vec2":
        pytest.importorskip("transformers")
    config = tiny_speech(task="ctc", model=model, recipe="sun2020", batch_size=4, limit_test=4)
    _, found = losses(config)
    assert found[-1] < found[0]


def test_swb300_is_the_papers_shape() -> None:
    with torch.device("meta"):
        model = SWB300(32000, 40)
    assert model.lstm.num_layers == 4 and model.lstm.hidden_size == 512
    assert model.lstm.bidirectional and model.bottleneck.out_features == 256
    assert model(torch.zeros(2, 21, 40, device="meta")).shape == (2, 32000)
    small = SWB300(3, 40, hidden=8, width=4)
    out = small(torch.randn(2, 21, 40))
    out.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in small.parameters())


def test_swb300_is_in_the_registry() -> None:
    assert sum(p.numel() for p in MODELS["swb300"].build(10, 40).parameters()) > 20e6


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_lstm_takes_any_number_of_frames(frames: int) -> None:
    assert LSTMClassifier(3, 40, hidden=4)(torch.randn(2, frames, 40)).shape == (2, 3)


def test_padding_changes_no_output_of_the_recogniser() -> None:
    torch.manual_seed(0)
    model = CTCNet(5, 40, hidden=8, width=4).eval()
    model.norm1.running_mean.normal_()
    x, lengths = torch.randn(3, 31, 40), torch.tensor([31, 8, 1])
    for row, length in enumerate(lengths.tolist()):
        x[row, length:] = 0
    together = model(x, lengths)
    assert together.shape == (3, 16, 5)
    for row, length in enumerate(lengths.tolist()):
        alone = model(x[row : row + 1, :length], lengths[row : row + 1])
        assert torch.allclose(together[row, : alone.shape[1]], alone[0], atol=1e-5)


CASES: list[dict[str, Any]] = [
    {"model": "cnn", "recipe": "sun2020", "augmentation": "specaugment"},
    {"model": "lstm", "recipe": "sun2020"},
    {"task": "ctc", "model": "ctc", "recipe": "sun2020", "limit_test": 4, "limit_train": 16},
]


@pytest.mark.parametrize("changes", CASES, ids=lambda c: f"{c['model']}")
def test_resume_equals(
    changes: dict[str, Any],
    tiny_speech: Make,
    tmp_path: Path,
    final_state: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if changes.get("task") == "ctc":
        pytest.importorskip("jiwer")
    config = tiny_speech(**{"limit_train": 24, "limit_test": 4, "checkpoint_every": 2, **changes})
    train(config)
    expected = final_state(config)
    stopped = replace(config, out=str(tmp_path / "stopped"))
    task = type(make_task(config))
    original = task.batch

    class Killed(BaseException):
        pass

    def batch(self: Any, epoch: int, step: int) -> Any:
        if (epoch, step) == (1, 1):
            raise Killed
        return original(self, epoch, step)

    with monkeypatch.context() as patch:
        patch.setattr(task, "batch", batch)
        with pytest.raises(Killed):
            train(stopped)
    train(replace(stopped, resume=True))
    assert final_state(stopped) == expected


def test_batches_are_functions_of_the_position(tiny_speech: Make) -> None:
    for changes in ({}, {"augmentation": "specaugment"}, {"augmentation": "none"}):
        one, other = (make_task(tiny_speech(**changes)) for _ in range(2))
        other.batch(0, 0)
        for position in ((1, 2), (0, 1)):
            (a, b), (c, d) = one.batch(*position), other.batch(*position)
            assert torch.equal(a, c) and torch.equal(b, d)
        assert not torch.equal(one.batch(0, 0)[0], one.batch(1, 0)[0])
        seen = torch.cat([one.batch(0, step)[1] for step in range(one.steps_per_epoch)])
        assert torch.equal(seen.bincount(), torch.tensor([6, 6, 6, 6]))


def test_batches_of_recognition(tiny_speech: Make) -> None:
    pytest.importorskip("jiwer")
    task = make_task(tiny_speech(task="ctc", batch_size=4))
    task.model()
    seen = []
    for step in range(task.steps_per_epoch):
        (inputs, lengths), (frames, indices, texts) = task.batch(0, step)
        assert inputs.shape[1] == int(lengths.max()) and torch.equal(frames, (lengths + 1) // 2)
        assert texts == tuple(task.data.texts[i] for i in indices.tolist())
        seen += indices.tolist()
    assert len(seen) == len(set(seen)) and set(seen) <= set(task.data.train.tolist())
    tests = [i for _, target in task.test_batches() for i in target[1].tolist()]
    assert sorted(tests) == task.data.test.tolist()


def test_word_and_character_errors(tiny_speech: Make) -> None:
    pytest.importorskip("jiwer")
    from nybble.training.tasks.words import count_errors

    # one substitution and one deletion of five words; "on" + "three" of "one two three" is a
    # substitution (one character less) and a deletion (four characters with the space)
    assert count_errors(["one two three", "four five"], ["on three", "four five"])[:2] == (2, 5)
    assert count_errors(["one two three"], ["on three"])[2:] == (5, 13)
    assert count_errors(["a b"], [""]) == (2, 2, 3, 3)
    assert count_errors(["a"], ["a b c"]) == (2, 1, 4, 1)  # more than all of it
    task = make_task(tiny_speech(task="ctc"))
    scores = [(2, 5, 5, 22), (0, 5, 1, 20)]
    assert task.summarise(scores) == 0.2 and task.extras(scores) == {"cer": 6 / 42}


def test_a_perfect_output_has_no_errors(tiny_speech: Make) -> None:
    pytest.importorskip("jiwer")
    task = make_task(tiny_speech(task="ctc"))
    task.model()
    _, (frames, indices, texts) = next(iter(task.test_batches()))
    logits = torch.zeros(len(texts), int(frames.max()), len(task.alphabet))
    for row, text in enumerate(texts):
        path: list[int] = []
        for code in task.alphabet.encode(text).tolist():
            path += [0, code] if path and path[-1] == code else [code]
        logits[row, torch.arange(len(path)), torch.tensor(path)] = 50.0
        logits[row, len(path) :, 0] = 50.0
    target = (frames, indices, texts)
    assert task.summarise([task.score(logits, target)]) == 0
    assert task.weight(target) == len(texts) and float(task.loss(logits, target)) < 1e-3


def test_a_transcript_too_long_is_named(tmp_path: Path, tiny_speech: Make) -> None:
    pytest.importorskip("jiwer")
    for name in ("train", "test"):
        write_wav(tmp_path / f"{name}.wav", tone(300, 0.1))
        (tmp_path / f"{name}.tsv").write_text(f"{name}.wav\tone two three four\n")
    write_wav(tmp_path / "train.wav", tone(300, 1.0))
    with pytest.raises(UserError, match=r"transcript of .*test\.wav is too long.*needs 19 output"):
        train(tiny_speech(task="ctc", data=f"transcripts:{tmp_path}"))


def test_one_recording_a_batch_and_short_ones(tmp_path: Path, tiny_speech: Make) -> None:
    for label, hz in (("a", 300), ("b", 900)):
        for k in range(3):
            write_wav(tmp_path / "set" / label / f"{k}.wav", tone(hz, 0.01 if k else 0.2))
        write_wav(tmp_path / "set" / label / "quiet.wav", np.zeros(50, dtype=np.int16))
    config = tiny_speech(data=f"sounds:{tmp_path / 'set'}", batch_size=1, recipe="sun2020")
    record = train(config)
    assert record["data"]["train"] == 6 and record["epochs"][0]["train_loss"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet"}, "Unknown model 'resnet'; choose one of lstm, swb300, cnn"),
        ({"model": "torch.nn:Linear"}, "called with"),
        ({"augmentation": "crop"}, "Unknown augmentation 'crop'"),
        ({"task_options": (("normalise", "global"),)}, "choose one of utterance"),
        ({"data": "mnist5k"}, "mnist5k' is for vision, not for speech"),
        ({"task": "ctc", "data": "fsdd:x"}, "is for speech, not for ctc"),
    ],
)
def test_refused(changes: dict[str, Any], message: str, tiny_speech: Make) -> None:
    if changes.get("task") == "ctc":
        pytest.importorskip("jiwer")
    with pytest.raises(UserError, match=message):
        train(tiny_speech(**changes))


def test_a_model_of_the_users(
    tiny_speech: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "speech_of_mine.py").write_text(
        "from torch import nn\n"
        "def good(num_classes, bands):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d((4, bands)), nn.Flatten(),\n"
        "                         nn.Linear(4 * bands, num_classes))\n"
        "def narrow(num_classes, bands):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(2))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert train(tiny_speech(model="speech_of_mine:good", epochs=1))["status"] == "complete"
    with pytest.raises(UserError, match=r"it must return \[1, 4\]"):
        train(tiny_speech(model="speech_of_mine:narrow", out=str(tmp_path / "other")))


def test_every_model_says_what_it_needs() -> None:
    for model in (*MODELS.values(), *CTC_MODELS.values()):
        assert model.hears in ("log-mel", "waveform") and model.defaults["lr"] > 0


def test_worse_training_labels_leave_the_test_alone(tiny_speech: Make) -> None:
    clean: Any = make_task(tiny_speech(model="cnn"))
    options = (("imbalance", "2"), ("label_noise", "0.5"))
    worse: Any = make_task(tiny_speech(model="cnn", task_options=options))
    before, after = clean.data, worse.data
    assert torch.equal(before.test, after.test)
    assert torch.equal(before.labels[before.test], after.labels[after.test])
    assert len(after.train) < len(before.train)
    assert set(after.train.tolist()) <= set(before.train.tolist())
    wrong = before.labels[after.train] != after.labels[after.train]
    assert int(wrong.sum()) == round(len(wrong) / 2)
    assert after.notes[-1].startswith("label noise 0.5")
