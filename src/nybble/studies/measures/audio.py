"""White noise in test recordings, by signal-to-noise ratio.

    x' = x + a n,    n ~ N(0, 1) for every sample,    a^2 = mean(x^2) / 10^(snr / 10)

of each recording on its own, before the front end (log-mel, or the samples themselves), so the
noise passes through windows, filters and normalisation as the speech does. Silent recordings stay
silent. n is a function of (run's seed, recording), the same at every ratio.

Not done: recorded noises, reverberation, the rounding of noisy samples to 16 bits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nybble.errors import UserError
from nybble.studies.measures.trained import Trained, load_trained
from nybble.training.config import TrainConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nybble.training.data.audio.base import SpeechData

DECIBELS = (30, 20, 10, 0)


def audio_noise(folder: Path, config: TrainConfig) -> dict[str, float]:
    """The metric at each of `DECIBELS`, of the finished run in `folder`.

    Raises:
        UserError: the task has no recordings.
    """
    return with_audio_noise(load_trained(folder, config))


def with_audio_noise(run: Trained, decibels: tuple[int, ...] = DECIBELS) -> dict[str, float]:
    """{"20dB": metric, ...}."""
    import copy
    from typing import cast

    from nybble.training.data.audio.base import SpeechData
    from nybble.training.data.audio.features import FeatureSet

    task = run.task
    data = getattr(task, "data", None)
    if not isinstance(data, SpeechData):
        raise UserError(f"audio-noise: the task {run.config.task} has no recordings.")
    clean: FeatureSet = task.features  # type: ignore[attr-defined]
    found: dict[str, float] = {}
    for snr in decibels:
        noisy = copy.copy(task)  # a shallow copy: the run's own task stays as it is
        sounds = cast("SpeechData", NoisyTest(data, snr, run))
        noisy.features = FeatureSet(sounds, clean.front)  # type: ignore[attr-defined]
        found[f"{snr}dB"] = replace(run, task=noisy).metric()
    return found


class NoisyTest:
    """What `FeatureSet` takes of a set: noisy test recordings, and nothing for the others."""

    def __init__(self, data: SpeechData, snr: float, run: Trained) -> None:
        self.data, self.snr, self.run = data, snr, run
        self.names = data.names
        self.is_test = set(data.test.tolist())

    def recording(self, index: int) -> Tensor:
        """The samples of one recording; of a training recording a single zero, which nobody asks
        for."""
        import torch

        if index not in self.is_test:
            return torch.zeros(1)
        return add_noise(self.data.recording(index), self.snr, self.run.draws("audio", index))


def add_noise(samples: Tensor, snr: float, random: torch.Generator) -> Tensor:
    """`samples` with white noise of `snr` decibels below their own power.

    >>> import torch
    >>> loud = torch.ones(10000)
    >>> noise = add_noise(loud, 20.0, torch.Generator().manual_seed(0)) - loud
    >>> round(float(noise.square().mean()), 3)
    0.01
    """
    import torch

    power = float(samples.double().square().mean())
    noise = torch.randn(samples.shape, generator=random)
    return samples + math.sqrt(power / 10 ** (snr / 10)) * noise
