"""All measures of a task under one name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nybble.errors import UserError
from nybble.studies.measures import MEASURES, get_measure
from nybble.studies.measures.suite import SUITS
from nybble.studies.measures.trained import recorded_config
from nybble.training.tasks import TASKS

Finished = Callable[[str, str], Path]


def test_every_task_has_measures_that_exist() -> None:
    assert set(SUITS) == set(TASKS)
    assert {name for names in SUITS.values() for name in names} < set(MEASURES)


@pytest.mark.parametrize("kind", ["images", "text", "recordings"])
def test_the_numbers_are_those_of_the_measures(finished: Finished, kind: str) -> None:
    folder = finished(kind, "sun2020")
    config = recorded_config(folder)
    found = get_measure("test-time")(folder, config)
    measures = SUITS[config.task]
    assert {name.partition(".")[0] for name in found} == set(measures)
    first = measures[0]
    alone = get_measure(first)(folder, config)
    assert {k: v for k, v in found.items() if k.startswith(first + ".")} == {
        f"{first}.{number}": value for number, value in alone.items()
    }


def test_a_task_of_ones_own_says_so(finished: Finished) -> None:
    folder = finished("images", "fp32")
    config = replace(recorded_config(folder), task="my:Task")
    with pytest.raises(UserError, match="not known what suits the task my:Task"):
        get_measure("test-time")(folder, config)
