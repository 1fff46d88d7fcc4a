"""A study that is wrong says so when it is made, in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nybble.errors import UserError
from nybble.studies.study import Study, StudyTask, Variant
from nybble.studies.study.select import select
from nybble.training import TrainConfig

CONFIG = TrainConfig(model="cnn", epochs=1, threads=1)
TASK = StudyTask("v", CONFIG, margin=0.25)


def study(**changes: Any) -> Study:
    given = {"name": "s", "title": "t", "tasks": (TASK,), "recipes": ("fp32",), "seeds": (0,)}
    return Study(**{**given, **changes})


def variant(*changes: Any) -> Study:
    made = study(variants=(Variant("x", changes=changes),))
    made.cells()
    return made


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StudyTask("v", CONFIG, margin=0.0), "margin must be a number above 0"),
        (lambda: StudyTask("v", CONFIG, margin=float("nan")), "margin must be a number above 0"),
        (lambda: StudyTask("v", CONFIG, margin="x"), "margin must be a number above 0"),  # type: ignore[arg-type]
        (lambda: StudyTask("v", None), "must be a TrainConfig"),  # type: ignore[arg-type]
        (lambda: StudyTask(None, CONFIG), "the name must be text"),  # type: ignore[arg-type]
        (lambda: study(seeds=(0.5,)), "seeds must be a tuple of whole numbers"),
        (lambda: study(seeds=(True, 1)), "seeds must be a tuple of whole numbers"),
        (lambda: study(seeds=(-1,)), "seeds must be a tuple of whole numbers"),
        (lambda: study(seeds=3), "seeds must be a tuple of whole numbers"),
        (lambda: study(recipes=(1,)), "recipes must be a tuple of names"),
        (lambda: study(recipes="fp32"), "recipes must be a tuple of names"),
        (lambda: study(tasks=TASK), "tasks must be a tuple of StudyTasks"),
        (lambda: study(tasks=(CONFIG,)), "tasks must be a tuple of StudyTasks"),
        (lambda: study(title=object()), "the title must be text"),
        (lambda: study(notes=(1,)), "notes must be a tuple of texts"),
        (lambda: study(measures=(print,)), "measures must be a tuple of names"),
        (lambda: study(baseline=3), "the baseline must be text"),
        (lambda: study(baseline="sun2020"), "its baseline 'sun2020' is in no task"),
        (lambda: variant(("lr", "*a")), "cannot be multiplied by 'a'"),
        (lambda: variant(("batch_size", "*inf")), "cannot be multiplied by 'inf'"),
        (lambda: variant(("lr", "big")), "lr must be a number"),
        (lambda: variant(("epochs", 1.5)), "epochs must be a whole number"),
        (lambda: variant(("batch_size", "64")), "batch_size must be a whole number"),
        (lambda: variant(("resolved", 1)), "is no field of a training run"),
        (lambda: variant(("recipe", "sun2020")), "has recipes of its own"),
        (lambda: variant(("seed", 3)), "has seeds of its own"),
        (lambda: Variant("x", options=(("a", 0.2),)), "pairs (name, text)"),  # type: ignore[arg-type]
        (lambda: Variant("x", changes=7), "pairs (name, value)"),  # type: ignore[arg-type]
    ],
)
def test_what_is_wrong_is_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        make()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_right_passes() -> None:
    assert study(baseline=None, seeds=[0, 1], recipes=["fp32", "luq"]).cells()
    assert study(recipes=("luq",)).cells()  # without its baseline there are no differences
    assert variant(("lr", "*4")).cells()


def test_a_note_on_tasks_that_are_left_out_goes_with_them() -> None:
    gpt, lstm = (StudyTask(name, TrainConfig()) for name in ("gpt", "lstm"))
    notes = ("lstm: a", "lstm, gpt: b", "Any: c", "other: d")
    study = Study("s", "t", (gpt, lstm), ("fp32",), (0,), notes=notes)
    assert select(study).notes == notes
    assert select(study, tasks=["gpt"]).notes == notes[1:]
