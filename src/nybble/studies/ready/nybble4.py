"""Study `nybble4`: the recipe of this project against float32 and three others, on fresh seeds.

The protocol, fixed before any of its runs (docs/nybble4.md): networks, data, schedules and seeds
below; the seeds were used for nothing else, development took seeds 0 to 19. Every recipe as its
defaults have it, at the rates that the tasks have for float32.
"""

from __future__ import annotations

from dataclasses import replace

from nybble.studies.ready import sizes
from nybble.studies.study.grid import FLOAT32, Study, StudyTask

TITLE = "nybble4 against float32, sun2020, luq and nvfp4, on seeds that no development saw"
QUICK = "nybble4 against float32, sun2020, luq and nvfp4, short runs on seeds of its development"
RECIPES = (
    FLOAT32,
    "sun2020",
    "luq",
    "luq:inputs=pact",
    "nvfp4",
    "nybble4",
)
"""luq twice: SAWB's symmetric levels leave half of the codes unused behind a ReLU. Without
nybble4-hadamard, whose rotations take several times as long; study `recipes` has it."""
FRESH = tuple(range(100, 105))
FRESH_LSTM = tuple(range(100, 110))
"""The LSTM's runs differ more from seed to seed."""


def make(quick: bool) -> Study:
    """The study; `quick` shows that it runs, on development seeds, and proves nothing.

    >>> make(False).seeds
    (100, 101, 102, 103, 104)
    """
    if quick:
        tasks = (sizes.vision(True), sizes.lstm(True), sizes.gpt(True), sizes.digits(True))
        return Study("nybble4-quick", QUICK, tasks, RECIPES, (10, 11))
    return Study("nybble4", TITLE, _converged(), RECIPES, FRESH, notes=(sizes.CLIP_NOTE,))


def _converged() -> tuple[StudyTask, ...]:
    """The four tasks, each until its schedule ends."""
    return (
        _longer(sizes.gpt(False), task_options=(("steps", "1000"),), limit_test=None),
        _longer(sizes.vision(False), epochs=4, limit_train=None, limit_test=None),
        _longer(sizes.lstm(False, FRESH_LSTM), task_options=(), limit_test=None),
        _longer(sizes.digits(False), epochs=8),
    )


def _longer(task: StudyTask, **changes: object) -> StudyTask:
    return replace(task, config=replace(task.config, **changes))  # type: ignore[arg-type]
