"""All that can go wrong at test time, as far as a task can meet it: the measures of `SUITS`.

The names of the numbers are MEASURE.NUMBER, as if the measures had been asked for one by one; a
study of several tasks names this one measure for all of them.
"""

from __future__ import annotations

from pathlib import Path

from nybble.errors import UserError
from nybble.training.config import TrainConfig

SUITS: dict[str, tuple[str, ...]] = {
    "vision": ("input-noise", "image-corruptions", "bit-flips"),
    "speech": ("input-noise", "audio-noise", "bit-flips"),
    "ctc": ("input-noise", "audio-noise", "bit-flips"),
    "language": ("token-corruption", "bit-flips"),
    "text": ("token-corruption", "bit-flips"),
    "translation": ("token-corruption", "bit-flips"),
}
"""Task -> measures."""


def at_test_time(folder: Path, config: TrainConfig) -> dict[str, float]:
    """The numbers of every measure that suits the task of the finished run in `folder`.

    Raises:
        UserError: the task is one of the user's own.
    """
    from nybble.studies.measures import get_measure

    if config.task not in SUITS:
        raise UserError(
            f"test-time: it is not known what suits the task {config.task}; name the measures one "
            "by one."
        )
    return {
        f"{name}.{number}": value
        for name in SUITS[config.task]
        for number, value in get_measure(name)(folder, config).items()
    }
