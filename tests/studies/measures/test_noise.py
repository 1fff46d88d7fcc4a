"""Noise on inputs, on recordings and on tokens: how much of it, where, and what it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from nybble.errors import UserError
from nybble.studies.measures.audio import NoisyTest, add_noise, with_audio_noise
from nybble.studies.measures.noise import input_deviation, with_noise
from nybble.studies.measures.tokens import replaced, vocabulary, with_tokens_replaced
from nybble.studies.measures.trained import Trained
from nybble.training.tasks import Task

Load = Callable[..., Trained]


def seen(run: Trained, monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """What the model is given, test by test, while a measure runs."""
    tests: list[list[Any]] = []
    original = Trained.test

    def test(self: Trained, change: Any = None, model: Any = None) -> Any:
        batches: list[Any] = []
        tests.append(batches)

        def watched(inputs: Any, index: int) -> Any:
            changed = inputs if change is None else change(inputs, index)
            batches.append(changed)
            return changed

        return original(self, watched, model)

    monkeypatch.setattr(Trained, "test", test)
    return tests


class Louder:
    """A task whose inputs have another mean and deviation than 0 and 1."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def test_batches(self) -> Iterator[tuple[torch.Tensor, Any]]:
        for inputs, target in self.task.test_batches():
            yield 7 * inputs + 2, target
            yield 7 * inputs + 2, target


def test_the_noise_has_the_strength_asked_for(
    trained: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("images")
    run = replace(run, task=cast("Task", Louder(run.task)))
    clean = torch.cat([inputs for inputs, _ in run.task.test_batches()])
    assert float(clean.mean()) > 1.0
    assert math.isclose(input_deviation(run), float(clean.std(correction=0)), rel_tol=1e-5)
    tests = seen(run, monkeypatch)
    with_noise(run, (0.0, 0.1, 1.0))
    none, little, much = (torch.cat(batches) - clean for batches in tests)
    assert not none.any()
    assert not torch.equal(*much.chunk(2))  # every batch has noise of its own
    assert math.isclose(float(little.std()), 0.1 * float(clean.std()), rel_tol=0.03)
    assert torch.allclose(10 * little, much, atol=1e-3)  # the same noise, larger


def test_noise_is_a_function_of_the_seed(trained: Load) -> None:
    first, again, other = (
        with_noise(trained("images", seed=seed), (1.0, 2.0, 3.0)) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_much_noise_costs_accuracy(trained: Load) -> None:
    run = trained("images")
    found = with_noise(run, (0.0, 5.0))
    assert found["0"] == run.metric() > 90
    assert found["5"] < 60


def test_tokens_take_no_gaussian_noise(trained: Load) -> None:
    with pytest.raises(UserError, match="are tokens, not numbers; use token-corruption"):
        with_noise(trained("text"))


# ---- recordings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("snr", [0, 20])
def test_the_ratio_is_that_of_each_recording(trained: Load, snr: int) -> None:
    run = trained("recordings")
    data: Any = run.task.data  # type: ignore[attr-defined]
    noisy = NoisyTest(data, snr, run)
    for index in data.test.tolist()[:4]:
        clean = data.recording(index)
        noise = noisy.recording(index) - clean
        ratio = 10 * math.log10(float(clean.square().mean() / noise.square().mean()))
        assert abs(ratio - snr) < 0.5
    train = int(data.train[0])
    assert noisy.recording(train).tolist() == [0.0]


def test_silence_stays_silent() -> None:
    assert not add_noise(torch.zeros(100), 0.0, torch.Generator()).any()


def test_noise_in_recordings_costs_accuracy_and_leaves_the_run(trained: Load) -> None:
    run = trained("recordings")
    clean = run.metric()
    found = with_audio_noise(run, (120, -40))
    assert found["120dB"] == clean > 70
    assert found["-40dB"] < 60
    assert run.metric() == clean
    assert found == with_audio_noise(run, (120, -40))


def test_only_recordings_are_heard(trained: Load) -> None:
    with pytest.raises(UserError, match="the task vision has no recordings"):
        with_audio_noise(trained("images"))


# ---- tokens --------------------------------------------------------------------------------------


def test_a_share_of_the_ordinary_tokens_is_replaced() -> None:
    tokens = torch.arange(12).repeat(1000)
    random = [torch.Generator().manual_seed(3) for _ in range(3)]
    some, more, every = (
        replaced(tokens, share, 12, 2, r) for share, r in zip((0.05, 0.2, 1.0), random, strict=True)
    )
    for new in (some, more, every):
        assert torch.equal(new[tokens < 2], tokens[tokens < 2])
        assert int(new[tokens >= 2].min()) >= 2
        assert int(new.max()) <= 11
    assert bool((every != tokens)[tokens >= 2].all())
    changed, also = some != tokens, more != tokens
    assert math.isclose(float(changed[tokens >= 2].float().mean()), 0.05, rel_tol=0.15)
    assert bool(also[changed].all())  # nested
    counts = torch.bincount(every[tokens == 5], minlength=12)
    assert counts[5] == 0
    assert int(counts[2:].sum()) == 1000
    assert int(counts[counts > 0].min()) > 60  # each of the nine others, 111 on average


def test_wrong_words_cost_perplexity(trained: Load) -> None:
    run = trained("text", "sun2020")
    found = with_tokens_replaced(run, (0.0, 0.1, 0.5))
    assert found["0%"] == run.metric()
    assert found["0%"] < found["10%"] < found["50%"]
    assert vocabulary(run) == (12, 2)


def test_images_have_no_tokens(trained: Load) -> None:
    with pytest.raises(UserError, match="models of the task vision read no text"):
        with_tokens_replaced(trained("images"))
