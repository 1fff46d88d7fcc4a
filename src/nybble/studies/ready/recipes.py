"""Study `recipes`: every recipe of few bits against float32, on four kinds of networks."""

from __future__ import annotations

from nybble.studies.ready import sizes
from nybble.studies.ready.choose import few_bit_recipes
from nybble.studies.study.grid import FLOAT32, Study

TITLE = "Every recipe of few bits against float32: vision, LSTM, GPT, spoken digits"


def make(quick: bool) -> Study:
    """The study; `quick` has smaller runs and three seeds, for an hour on two cores.

    >>> [task.name for task in make(True).tasks]
    ['vision', 'lstm', 'gpt', 'digits']
    """
    return Study(
        name="recipes-quick" if quick else "recipes",
        title=TITLE,
        tasks=(
            sizes.vision(quick),
            sizes.lstm(quick, None if quick else sizes.LSTM_SEEDS),
            sizes.gpt(quick),
            sizes.digits(quick),
        ),
        recipes=(FLOAT32, *few_bit_recipes()),
        seeds=(0, 1, 2) if quick else (0, 1, 2, 3, 4),
    )
