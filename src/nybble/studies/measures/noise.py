"""Gaussian noise on a model's inputs, at test time.

    x' = x + strength * s * n,    n ~ N(0, 1),    s = deviation of all input values of the test set

so a strength of 0.5 is half of the inputs' own deviation, whatever their scale (pixels, log-mel
frames, samples). Every strength adds the same n, larger; n is a function of (run's seed, batch).
It is the plain form of the noise that Hendrycks and Dietterich 2019 (arXiv 1903.12261) put on
images; their severities are not used.

Not done: noise on the embeddings of a language model (`tokens.py` replaces tokens instead).
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nybble.errors import UserError
from nybble.studies.measures.trained import Trained, first, load_trained, whole
from nybble.training.config import TrainConfig

if TYPE_CHECKING:
    from nybble.training.tasks.base import Inputs

STRENGTHS = (0.1, 0.2, 0.5, 1.0)


def input_noise(folder: Path, config: TrainConfig) -> dict[str, float]:
    """The metric at each of `STRENGTHS`, of the finished run in `folder`.

    Raises:
        UserError: the task's inputs are no floating-point numbers.
    """
    return with_noise(load_trained(folder, config))


def with_noise(run: Trained, strengths: tuple[float, ...] = STRENGTHS) -> dict[str, float]:
    """{strength: metric}; the strengths are named as they are written, "0.1"."""
    import torch

    deviation = input_deviation(run)

    def noisy(strength: float, inputs: Inputs, index: int) -> Inputs:
        x, rest = first(inputs)
        noise = torch.randn(x.shape, generator=run.draws("noise", index))
        return whole(x + strength * deviation * noise, rest)

    return {f"{strength:g}": run.metric(partial(noisy, strength)) for strength in strengths}


def input_deviation(run: Trained) -> float:
    """The standard deviation of all values that the test set gives to the model.

    Raises:
        UserError: they are tokens.
    """
    total = squares = 0.0
    count = 0
    for inputs, _ in run.task.test_batches():
        x, _ = first(inputs)
        if not x.is_floating_point():
            raise UserError(
                f"input-noise: the inputs of the task {run.config.task} are tokens, not numbers; "
                "use token-corruption."
            )
        wide = x.double()
        total += float(wide.sum())
        squares += float(wide.square().sum())
        count += x.numel()
    mean = total / count
    return math.sqrt(max(0.0, squares / count - mean * mean))
