"""Studies `robustness` and `robustness-training`: does few-bit training bear less than float32?

Both are grids of pairs: recipes against float32, the same seeds, under the same conditions.

    robustness             networks trained as usual and then tested under noise, corruptions,
                           replaced tokens and bit flips (measure `test-time`); and trained on some
                           speakers or genres and tested on others
    robustness-training    trained under worse conditions: wrong labels, a long tail, the learning
                           rate and the batch size times 4 and divided by 4, deeper and shallower,
                           wider and narrower networks

A condition of training or of data is a task of its own, named TASK+CONDITION, so that a condition
is run only where it means something. The learning rate stays what it was where the batch size
changes. Language models take a fixed number of steps, so there a larger batch reads more text;
elsewhere the number of epochs is fixed, so a larger batch takes fewer steps. The text they are
tested on is short (`TEST_LINES`), because the measures test thirty times.
"""

from __future__ import annotations

from dataclasses import replace

from nybble.studies.ready import sizes
from nybble.studies.ready.choose import known_recipes
from nybble.studies.study.grid import FLOAT32, Study, StudyTask, Variant

TITLE = "What few bits bear at test time: noise, corruptions, bit flips, other speakers and genres"
TRAINING_TITLE = "What few bits bear in training: labels, rates, batches, depth, width"
JOIN = "+"
RECIPES = ("sun2020", "luq", "nvfp4", "int8", "nybble4")
"""Compared with float32, as far as the registry has them."""

TEST_LINES = 500
"""Of the language models' test set."""

SHIFTS: dict[str, tuple[Variant, ...]] = {
    "lstm": (Variant("other-genre", options=(("split", "genres:fiction"),)),),
    "gpt": (Variant("other-genre", options=(("split", "genres:fiction"),)),),
    "digits": (Variant("other-speakers", options=(("split", "speakers:theo,nicolas"),)),),
}
"""Trained on some, tested on others."""

RATES = (
    Variant("lr-x4", changes=(("lr", "*4"),)),
    Variant("lr-by-4", changes=(("lr", "*0.25"),)),
    Variant("batch-x4", changes=(("batch_size", "*4"), ("lr", "*1"))),
    Variant("batch-by-4", changes=(("batch_size", "*0.25"), ("lr", "*1"))),
)
LABELS = (
    Variant("label-noise-20", options=(("label_noise", "0.2"),)),
    Variant("label-noise-40", options=(("label_noise", "0.4"),)),
    Variant("imbalance-10", options=(("imbalance", "10"),)),
    Variant("imbalance-100", options=(("imbalance", "100"),)),
)
SHAPES: dict[str, tuple[Variant, ...]] = {
    "vision": (
        Variant("resnet14", changes=(("model", "resnet14"),)),
        Variant("resnet20", changes=(("model", "resnet20"),)),
        Variant("four-times-as-wide", changes=(("model", "resnet8x4"),)),
    ),
    "lstm": (
        Variant("layers-1", options=(("layers", "1"),)),
        Variant("layers-4", options=(("layers", "4"),)),
        Variant("width-64", options=(("width", "64"),)),
        Variant("width-256", options=(("width", "256"),)),
    ),
    "gpt": (
        Variant("layers-2", options=(("layers", "2"),)),
        Variant("layers-8", options=(("layers", "8"),)),
        Variant("width-64", options=(("width", "64"),)),
        Variant("width-256", options=(("width", "256"),)),
    ),
}


def make(quick: bool) -> Study:
    """The study `robustness`.

    >>> [task.name for task in make(True).tasks][-2:]
    ['digits', 'digits+other-speakers']
    """
    recipes, notes = compared(quick)
    tasks = [sizes.vision(quick), *language(quick), sizes.digits(quick)]
    return Study(
        name="robustness-quick" if quick else "robustness",
        title=TITLE,
        tasks=tuple(
            one for task in tasks for one in (task, *under(task, SHIFTS.get(task.name, ())))
        ),
        recipes=recipes,
        seeds=(0, 1, 2) if quick else (0, 1, 2, 3, 4),
        measures=("test-time",),
        notes=notes,
    )


def make_training(quick: bool) -> Study:
    """The study `robustness-training`; quick: images only.

    >>> [task.name for task in make_training(True).tasks][:3]
    ['vision', 'vision+label-noise-20', 'vision+label-noise-40']
    """
    recipes, notes = compared(quick)
    vision, digits = sizes.vision(quick), sizes.digits(quick)
    tasks = [vision, *under(vision, (*LABELS, *RATES, *SHAPES["vision"]))]
    if quick:
        notes += ("quick: images only; the full study has language models and spoken digits too",)
    else:
        tasks += [digits, *under(digits, (*LABELS, *RATES))]
        for task in language(quick):
            tasks += [task, *under(task, (*RATES, *SHAPES[task.name]))]
    return Study(
        name="robustness-training-quick" if quick else "robustness-training",
        title=TRAINING_TITLE,
        tasks=tuple(tasks),
        recipes=recipes,
        seeds=(0, 1, 2) if quick else (0, 1, 2, 3, 4),
        notes=notes,
    )


def language(quick: bool) -> list[StudyTask]:
    """The language models, tested on less text."""
    tasks = [sizes.lstm(quick), sizes.gpt(quick)]
    return [
        replace(
            task,
            config=replace(
                task.config, limit_test=min(task.config.limit_test or TEST_LINES, TEST_LINES)
            ),
        )
        for task in tasks
    ]


def compared(quick: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The recipes of these studies, and a note for each that is left out; quick: the first alone.

    >>> compared(True)[0]
    ('fp32', 'sun2020')
    """
    recipes, notes = known_recipes([FLOAT32, *(RECIPES[:1] if quick else RECIPES)])
    return recipes, notes


def under(task: StudyTask, variants: tuple[Variant, ...]) -> list[StudyTask]:
    """The task under each of the conditions, as tasks of their own."""
    return [
        replace(task, name=f"{task.name}{JOIN}{v.name}", config=v.apply(task.config))
        for v in variants
    ]
