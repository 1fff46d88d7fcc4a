"""Order, keys, variants and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nybble.errors import UserError
from nybble.studies.study import Study, StudyTask, Variant
from nybble.studies.study.grid import Cell
from nybble.training.config import TrainConfig

SMALL = TrainConfig(model="cnn", epochs=1, threads=1)


def study(**changes: Any) -> Study:
    return replace(
        Study("s", "t", (StudyTask("a", SMALL),), ("fp32", "sun2020"), (0, 1)), **changes
    )


def test_groups_of_pairs_are_neighbours_and_seeds_come_first() -> None:
    tasks = (
        StudyTask("a", SMALL),
        StudyTask("b", replace(SMALL, epochs=2), seeds=(1, 2), recipes=("fp32",)),
    )
    cells = study(tasks=tasks, variants=(Variant(), Variant("v", (("lr", 0.5),)))).cells()
    assert [cell.name for cell in cells] == [
        *("a, fp32, seed 0", "a, sun2020, seed 0", "a, v, fp32, seed 0", "a, v, sun2020, seed 0"),
        *("a, fp32, seed 1", "a, sun2020, seed 1", "a, v, fp32, seed 1", "a, v, sun2020, seed 1"),
        *("b, fp32, seed 1", "b, v, fp32, seed 1", "b, fp32, seed 2", "b, v, fp32, seed 2"),
    ]
    assert len({cell.key for cell in cells}) == len(cells)


def key(config: TrainConfig) -> str:
    return Cell("s", "t", "", config.recipe, config.seed, config).key


def test_a_key_is_the_run_and_nothing_else() -> None:
    assert key(SMALL) == key(replace(SMALL, out="x", quiet=True, checkpoint_every=1))
    assert key(SMALL) == key(replace(SMALL, lr=SMALL.resolved().lr))  # said, or the default
    for change in ({"seed": 1}, {"lr": 0.01}, {"threads": 2}, {"recipe": "hfp8"}):
        assert key(replace(SMALL, **change)) != key(SMALL)  # type: ignore[arg-type]


def test_a_field_of_a_later_version_leaves_keys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(SMALL)
    identity, to_dict = TrainConfig.identity, TrainConfig.to_dict
    monkeypatch.setattr(TrainConfig, "identity", lambda self: {**identity(self), "new": 0})
    monkeypatch.setattr(TrainConfig, "to_dict", lambda self: {**to_dict(self), "new": 0})
    assert key(replace(SMALL, quiet=True)) == before  # another object: not from the cache


def test_a_recipe_of_float32_has_no_rules_and_threads_are_told() -> None:
    config = replace(SMALL, rules=(("fc", "none"),), threads=None)
    first, second = study(tasks=(StudyTask("a", config),), seeds=(0,)).cells()
    assert first.config.rules == () and second.config.rules == (("fc", "none"),)
    assert first.config.threads == 1


def test_variants_multiply_what_the_task_would_have() -> None:
    quarter = Variant("q", (("batch_size", "*0.25"), ("lr", "*4")), (("width", "8"),))
    options = (("width", "9"), ("layers", "2"))
    config = quarter.apply(replace(SMALL, task="language", model="gpt", task_options=options))
    whole = replace(SMALL, task="language", model="gpt").resolved()
    assert config.batch_size == whole.batch_size // 4 and config.lr == 4 * whole.lr
    assert config.task_options == (("layers", "2"), ("width", "8"))
    assert Variant("s", (("batch_size", "*0.001"),)).apply(SMALL).batch_size == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tasks": ()}, "at least one task"),
        ({"tasks": (StudyTask("a", SMALL),) * 2}, "task 'a' is there twice"),
        ({"recipes": ()}, "at least one recipe and seed"),
        ({"recipes": ("fp32", "fp32")}, "recipe 'fp32' is there twice"),
        ({"seeds": (1, 1)}, "seed '1' is there twice"),
        ({"variants": (Variant(), Variant("v"))}, "are the same run"),
        ({"variants": (Variant("v", (("rate", 1),)),)}, "'rate' is no field"),
        ({"variants": (Variant("v", (("out", "x"),)),)}, "'out' is no field"),
        ({"variants": (Variant("v", (("schedule", "*2"),)),)}, "cannot be multiplied"),
    ],
)
def test_what_is_no_study_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        study(**changes).cells()
