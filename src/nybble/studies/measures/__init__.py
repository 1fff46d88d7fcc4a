"""What can be measured on a finished run, by name; a study lists the names (`Study.measures`).

    measure(folder, config) -> {name of the number: number}

`folder` is the run's folder (checkpoints/, result.json), `config` its configuration;
`trained.load_trained` gives the trained model and its task. A measure is a pure function of the
two: what it draws is a function of the run's seed, and it leaves the folder as it is. It runs once,
in the process that has trained the cell, and its numbers stand in the cell's extras as
MEASURE.NUMBER. An error makes the cell a failed one; the trained run is kept.

A new measure is a file here and one line in `MEASURES`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nybble.errors import UserError, suggest
from nybble.studies.measures.again import again
from nybble.studies.measures.audio import audio_noise
from nybble.studies.measures.bitflips import bit_flips
from nybble.studies.measures.images import image_corruptions
from nybble.studies.measures.noise import input_noise
from nybble.studies.measures.suite import at_test_time
from nybble.studies.measures.tokens import token_corruption
from nybble.training.config import TrainConfig

Measure = Callable[[Path, TrainConfig], dict[str, float]]

MEASURES: dict[str, Measure] = {
    "test-again": again,
    "input-noise": input_noise,
    "image-corruptions": image_corruptions,
    "audio-noise": audio_noise,
    "token-corruption": token_corruption,
    "bit-flips": bit_flips,
    "test-time": at_test_time,
}


def get_measure(name: str) -> Measure:
    """The measure of a name.

    Raises:
        UserError: there is none.

    >>> get_measure("test-again").__name__
    'again'
    """
    if name not in MEASURES:
        raise UserError(
            f"unknown measure '{name}': the measures are {', '.join(MEASURES)}."
            f"{suggest(name, MEASURES)}"
        )
    return MEASURES[name]


__all__ = ["MEASURES", "Measure", "get_measure"]
