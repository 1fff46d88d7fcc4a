"""Small sound files and sets, made here."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nybble.training.config import TrainConfig

RATE = 8000


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_wav(
    path: Path, samples: np.ndarray[Any, Any], rate: int = RATE, channels: int = 1
) -> None:
    """Write int16 samples ([T] or [T, channels])."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def tone(hz: float, seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray[Any, Any]:
    """A sine with noise, int16; it does not end with a zero."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.02, len(time))
    samples = np.rint(8000 * (np.sin(2 * np.pi * hz * time) + noise)).astype(np.int16)
    samples[-1] = 5
    return samples


def write_digits(folder: Path, digits: str = "0123", count: int = 8) -> None:
    """Digits are tones; speakers ann and bob, of whom bob is 5 % higher."""
    for digit in digits:
        for speaker, shift in (("ann", 1.0), ("bob", 1.05)):
            for index in range(count):
                hz = (300 + 350 * int(digit)) * shift
                seconds = 0.2 + 0.01 * index
                samples = tone(hz, seconds, seed=100 * int(digit) + index)
                write_wav(folder / f"{digit}_{speaker}_{index}.wav", samples)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set in the form of the Free Spoken Digit Dataset: 4 digits, 2 speakers, 8 times each."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "recordings")
    return folder


@pytest.fixture
def tiny_speech(digits: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Make a configuration of a few short steps; keywords override."""

    def make(**changes: Any) -> TrainConfig:
        task = changes.get("task", "speech")
        fields: dict[str, Any] = {
            "task": task,
            "data": f"{'fsdd' if task == 'speech' else 'digits'}:{digits}",
            "recipe": "fp32",
            "epochs": 2,
            "batch_size": 8,
            "out": str(tmp_path / "run"),
            "quiet": True,
            "checkpoint_every": 0,
        }
        return TrainConfig(**{**fields, **changes})

    return make
