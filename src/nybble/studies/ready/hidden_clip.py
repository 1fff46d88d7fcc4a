"""Study `hidden-clip`: is it the four bits, or the learned clip of an LSTM's hidden states?

In the recorded studies `sun2020` is better than float32 on the LSTM. Its hidden states have PACT's
learned clip, float32's have none. Here the same clip is put on 8-bit integers
(`int8:recurrent=hidden`), where rounding hardly matters, and taken from or given to 4-bit recipes:
if the rows with a clip are alike at 8 and at 4 bits, it is the clip.
"""

from __future__ import annotations

from dataclasses import replace

from nybble.studies.ready import sizes
from nybble.studies.study.grid import FLOAT32, Study

TITLE = "What a learned clip of an LSTM's hidden states does, in 8 bits and in 4"
RECIPES = (
    FLOAT32,
    "int8",
    "int8:recurrent=hidden",
    "sun2020",
    "luq",
    "luq:inputs=pact",
    "nybble4",
    "nybble4:recurrent=hidden",
)


def make(quick: bool) -> Study:
    """The study; quick: three seeds of 230 steps; full: ten of an epoch, and spoken digits.

    >>> make(True).seeds
    (0, 1, 2)
    """
    short = sizes.lstm(False, (0, 1, 2) if quick else sizes.LSTM_SEEDS)
    if quick:
        return Study(
            "hidden-clip-quick", TITLE, (short,), RECIPES, (0, 1, 2), notes=(sizes.EARLY_NOTE,)
        )
    longer = replace(short, config=replace(short.config, task_options=(), limit_test=None))
    return Study("hidden-clip", TITLE, (longer, sizes.digits(False)), RECIPES, (0, 1, 2, 3, 4))
