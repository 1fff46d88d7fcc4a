"""Study `recipes`: every recipe of few bits against float32, on four kinds of networks.

The recipes are those of the registry when the study starts. Every one of them runs on vision and
GPT; LSTM and spoken digits, which cost most, take the recipes of `MAIN`.
"""

from __future__ import annotations

from dataclasses import replace

from nybble.studies.ready import sizes
from nybble.studies.ready.choose import few_bit_recipes
from nybble.studies.study.grid import FLOAT32, Study

TITLE = "Every recipe of few bits against float32: vision, LSTM, GPT, spoken digits"
MAIN = (
    "hfp8",
    "int8",
    "sun2020",
    "luq",
    "nvfp4",
    "tseng2025",
    "nybble4",
    "nybble4-hadamard",
)
COSTLY = ("lstm", "digits")
"""The tasks that take only the recipes of `MAIN`."""


def make(quick: bool) -> Study:
    """The study; `quick` has smaller runs and three seeds, for an hour on two cores.

    >>> [task.name for task in make(True).tasks]
    ['vision', 'lstm', 'gpt', 'digits']
    """
    every = (FLOAT32, *few_bit_recipes())
    main = (FLOAT32, *(name for name in MAIN if name in every))
    tasks = tuple(
        replace(task, recipes=main) if task.name in COSTLY else task for task in sizes.tasks(quick)
    )
    return Study(
        name="recipes-quick" if quick else "recipes",
        title=TITLE,
        tasks=tasks,
        recipes=every,
        seeds=(0, 1, 2) if quick else (0, 1, 2, 3, 4),
        notes=(sizes.CLIP_NOTE,) if quick else (sizes.CLIP_NOTE, sizes.EARLY_NOTE),
    )
