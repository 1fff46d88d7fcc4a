"""The grids of the robustness studies: what each condition changes, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from nybble.studies.ready import STUDIES, get_study
from nybble.studies.ready.robustness import TEST_LINES, make, make_training, under
from nybble.studies.study.grid import Study, StudyTask, Variant
from nybble.studies.study.select import select
from nybble.training.config import TrainConfig


def changed(study: Study, name: str) -> dict[str, tuple[Any, Any]]:
    """Fields of the resolved configuration that a condition changes: (before, after)."""
    tasks = {task.name: task.config.resolved() for task in study.tasks}
    before, after = tasks[name.partition("+")[0]].to_dict(), tasks[name].to_dict()
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def test_rates_and_batches_change_alone() -> None:
    study = make_training(True)
    assert changed(study, "vision+lr-x4") == {"lr": (0.1, 0.4)}
    assert changed(study, "vision+lr-by-4") == {"lr": (0.1, 0.025)}
    assert changed(study, "vision+batch-x4") == {"batch_size": (32, 128)}
    assert changed(study, "vision+batch-by-4") == {"batch_size": (32, 8)}


def test_labels_are_options_and_shapes_are_models() -> None:
    study = make_training(False)
    assert changed(study, "digits+label-noise-20")["task_options"][1].count(["label_noise", "0.2"])
    assert set(changed(study, "vision+imbalance-100")) == {"task_options"}
    assert changed(study, "vision+resnet20") == {"model": ("resnet8", "resnet20")}
    before, after = changed(study, "gpt+layers-8")["task_options"]
    assert [pair for pair in after if pair not in before] == [["layers", "8"]]


def test_shifts_are_splits() -> None:
    study = make(False)
    names = [task.name for task in study.tasks]
    assert {"digits+other-speakers", "lstm+other-genre", "gpt+other-genre"} < set(names)
    after = changed(study, "gpt+other-genre")["task_options"][1]
    assert ["split", "genres:fiction"] in after
    assert ["split", "speakers:theo,nicolas"] in changed(study, "digits+other-speakers")[
        "task_options"
    ][1]


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("name", ["robustness", "robustness-training"])
def test_every_cell_is_another_run_with_its_pair(name: str, quick: bool) -> None:
    study = get_study(name, quick)
    cells = study.cells()
    assert len({cell.key for cell in cells}) == len(cells)
    pairs = {(cell.task, cell.seed, cell.recipe) for cell in cells}
    for task, seed, _ in pairs:
        assert {(task, seed, "fp32"), (task, seed, "sun2020")} <= pairs
    for cell in cells:
        assert cell.config.resolved().threads == 1
        if cell.config.task == "language":
            assert cell.config.limit_test is not None
            assert cell.config.limit_test <= TEST_LINES
    assert name in STUDIES
    assert study.measures == (("test-time",) if name == "robustness" else ())


def test_data_of_a_task_is_that_of_its_conditions() -> None:
    study = select(make(True), tasks=["digits", "digits+other-speakers"], data={"digits": "fsdd:X"})
    assert [task.config.data for task in study.tasks] == ["fsdd:X"] * 2
    one = select(make(True), tasks=["digits+other-speakers"], data={"digits": "fsdd:X"})
    assert [task.config.data for task in one.tasks] == ["fsdd:X"]


def test_a_condition_is_a_task_of_its_own() -> None:
    task = StudyTask("a", TrainConfig(lr=0.1), margin=0.5)
    (found,) = under(task, (Variant("fast", changes=(("lr", "*2"),)),))
    assert (found.name, found.config.lr, found.margin) == ("a+fast", 0.2, 0.5)
