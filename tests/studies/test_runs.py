"""What happens to each run folder: reused, resumed, kept as failed, tried again, refused.

Training is replaced by a stand-in that writes the same files; `test_compare` uses the real one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nybble.errors import UserError
from nybble.recipes import get_recipe
from nybble.recipes.definition import definition
from nybble.studies import jobs
from nybble.studies.jobs import side_by_side
from nybble.studies.outcome import Outcome
from nybble.studies.plan import Plan
from nybble.studies.runs import known_outcome, read_outcome, run_all, run_one
from nybble.training import loop
from nybble.training.config import TrainConfig
from nybble.training.folder import claim_folder
from nybble.training.result import read_result, write_result
from nybble.training.signals import Interrupted


def result(config: TrainConfig, status: str, accuracy: float = 0.5, **more: Any) -> dict[str, Any]:
    epoch = {
        "epoch": 1,
        "train_loss": 1.0,
        "test_accuracy": accuracy,
        "elapsed_seconds": 3.0,
        "test_loss": 1.0,
        "step_ms": 2.0,
    }
    return {
        "status": status,
        "folder": config.out,
        "config": config.to_dict(),
        "metric": "accuracy",
        "epochs": [epoch],
        "final": epoch,
        "warnings": [],
        "saved_bytes": 100,
        "dead_layers": [],
        "machine": {"cpu": "c", "instructions": "AVX2", "threads": 1},
        "versions": {"torch": "t"},
        "commit": "abc",
        **more,
    }


class Trainer:
    """Stands in for `nybble.training.loop.train` and remembers how it was called."""

    def __init__(self) -> None:
        self.calls: list[TrainConfig] = []
        self.errors: dict[tuple[str, int], BaseException] = {}

    def __call__(self, config: TrainConfig) -> dict[str, Any]:
        self.calls.append(config)
        claim_folder(config).close()
        error = self.errors.get((config.recipe, config.seed))
        if error is not None:
            status = "interrupted" if isinstance(error, Interrupted) else "failed"
            write_result(config.run_folder(), result(config, status, error=str(error)))
            raise error
        record = result(config, "complete", 0.9 if config.recipe == "fp32" else 0.8)
        write_result(config.run_folder(), record)
        return record

    def names(self) -> list[tuple[str, int]]:
        return [(config.recipe, config.seed) for config in self.calls]


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    stand_in = Trainer()
    monkeypatch.setattr(loop, "train", stand_in)
    return stand_in


@pytest.fixture
def configs(tmp_path: Path) -> list[TrainConfig]:
    base = TrainConfig(model="cnn", epochs=1)
    return Plan(base, ("fp32", "sun2020"), (0, 1), tmp_path / "runs").configs()


def test_accuracy_is_in_percent_and_the_rest_is_read(
    trainer: Trainer, configs: list[TrainConfig]
) -> None:
    outcome = run_all(configs)[1]
    assert (outcome.recipe, outcome.seed, outcome.metric) == ("sun2020", 0, 80.0)
    assert (outcome.saved_bytes, outcome.seconds, outcome.reused) == (100, 3.0, False)
    machine = {"cpu": "c", "instructions": "AVX2", "threads": 1}
    assert outcome.origin == {"commit": "abc", **machine, "torch": "t"}


def test_finished_runs_are_taken_over(trainer: Trainer, configs: list[TrainConfig]) -> None:
    run_all(configs[:3])
    trainer.calls.clear()
    said: list[str] = []
    outcomes = run_all(configs, say=said.append)
    assert trainer.names() == [("sun2020", 1)]
    assert [o.reused for o in outcomes] == [True, True, True, False]
    assert [o.metric for o in outcomes] == [90.0, 80.0, 90.0, 80.0]
    assert said[0] == "run 1/4  fp32 seed 0  complete: 90.00 (from an earlier call)"


def test_a_stopped_run_is_resumed_and_a_new_one_is_not(
    trainer: Trainer, configs: list[TrainConfig]
) -> None:
    trainer.errors[("fp32", 0)] = Interrupted("stopped", signal.SIGTERM)
    with pytest.raises(Interrupted):
        run_all(configs)
    assert trainer.names() == [("fp32", 0)]
    trainer.errors.clear()
    trainer.calls.clear()
    run_all(configs)
    assert [(c.recipe, c.seed, c.resume) for c in trainer.calls] == [
        ("fp32", 0, True),
        ("sun2020", 0, False),
        ("fp32", 1, False),
        ("sun2020", 1, False),
    ]


def test_a_nan_loss_fails_one_run_only(trainer: Trainer, configs: list[TrainConfig]) -> None:
    trainer.errors[("sun2020", 0)] = loop.NonFiniteError("NaN at step 7\n in conv1")
    outcomes = run_all(configs)
    assert [o.status for o in outcomes] == ["complete", "failed", "complete", "complete"]
    assert outcomes[1].reason == "NaN at step 7 in conv1"
    assert not outcomes[1].finished


def test_an_unexpected_error_fails_one_run_and_its_traceback_is_logged(
    trainer: Trainer, configs: list[TrainConfig]
) -> None:
    trainer.errors[("fp32", 0)] = RuntimeError("shapes")
    outcomes = run_all(configs)
    assert outcomes[0].reason == "RuntimeError: shapes"
    log = (configs[0].run_folder() / "log.txt").read_text()
    assert "Traceback" in log and "RuntimeError: shapes" in log


@pytest.mark.parametrize("error", [UserError("the disk is full"), OSError(28, "no space")])
def test_what_would_stop_every_run_stops_all(
    trainer: Trainer, configs: list[TrainConfig], error: Exception
) -> None:
    trainer.errors[("fp32", 0)] = error
    with pytest.raises(type(error)):
        run_all(configs)
    assert len(trainer.calls) == 1


def test_failed_runs_are_kept_until_asked(trainer: Trainer, configs: list[TrainConfig]) -> None:
    trainer.errors[("sun2020", 0)] = loop.NonFiniteError("NaN")
    run_all(configs)
    trainer.errors.clear()
    trainer.calls.clear()
    outcomes = run_all(configs)
    assert trainer.calls == []
    assert (outcomes[1].status, outcomes[1].reason) == ("failed", "NaN")
    outcomes = run_all(configs, retry_failed=True)
    assert trainer.names() == [("sun2020", 0)]
    assert trainer.calls[0].resume is False
    assert outcomes[1].status == "complete"
    folder = configs[1].run_folder()
    aside = folder.with_name(folder.name + ".failed-1")
    record = read_result(aside)
    assert record is not None and record["status"] == "failed"


def test_a_folder_of_another_run_is_refused_before_anything_runs(
    trainer: Trainer, configs: list[TrainConfig]
) -> None:
    run_all([replace(configs[3], epochs=7)])
    trainer.calls.clear()
    with pytest.raises(UserError, match="epochs is 7 there, 1 was asked"):
        run_all(configs)
    assert trainer.calls == []


@pytest.fixture
def own_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of a user's, whose recipe `mine` is changed by hand."""
    module = types.ModuleType("a_module_of_mine")
    module.mine = get_recipe("luq")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize("ended", ["complete", "interrupted"])
def test_a_run_of_a_recipe_that_has_changed_is_refused(
    trainer: Trainer, configs: list[TrainConfig], own_recipe: Any, ended: str
) -> None:
    config = replace(configs[1], recipe=f"{own_recipe.__name__}:mine")
    if ended == "interrupted":
        trainer.errors[(config.recipe, 0)] = Interrupted("stopped", signal.SIGTERM)
        with pytest.raises(Interrupted):
            run_all([config])
    else:
        run_all([config])
    own_recipe.mine = replace(get_recipe("luq"), title="other words")
    assert known_outcome(config, False) is None or ended == "complete"
    own_recipe.mine = get_recipe("int8")
    trainer.calls.clear()
    with pytest.raises(UserError, match=r"another 'a_module_of_mine:mine'.* has changed"):
        run_all([config])
    assert trainer.calls == []


def test_a_rule_that_has_changed_is_refused(
    trainer: Trainer, configs: list[TrainConfig], own_recipe: Any
) -> None:
    config = replace(configs[1], rules=(("head", f"{own_recipe.__name__}:mine"), ("x", "none")))
    run_all([config])
    own_recipe.mine = get_recipe("int8")
    with pytest.raises(UserError, match=r"another 'a_module_of_mine:mine'"):
        run_all([config])


def test_a_failed_run_may_be_tried_again_with_its_recipe_mended(
    trainer: Trainer, configs: list[TrainConfig], own_recipe: Any
) -> None:
    config = replace(configs[1], recipe=f"{own_recipe.__name__}:mine")
    trainer.errors[(config.recipe, 0)] = loop.NonFiniteError("NaN")
    run_all([config])
    trainer.errors.clear()
    own_recipe.mine = get_recipe("int8")
    assert [o.status for o in run_all([config])] == ["failed"]
    assert [o.status for o in run_all([config], retry_failed=True)] == ["complete"]


def test_a_folder_of_before_there_were_definitions_is_taken(
    trainer: Trainer, configs: list[TrainConfig]
) -> None:
    run_all(configs[1:2])
    path = configs[1].run_folder() / "config.json"
    record = json.loads(path.read_text())
    assert record.pop("recipes") == {"sun2020": definition(get_recipe("sun2020"))}
    path.write_text(json.dumps(record))
    assert run_all(configs[1:2])[0].reused


def test_outcomes_arrive_one_by_one(trainer: Trainer, configs: list[TrainConfig]) -> None:
    seen: list[tuple[str, int]] = []
    run_all(configs, done=lambda outcome: seen.append((outcome.recipe, outcome.seed)))
    assert seen == [(c.recipe, c.seed) for c in configs]


def test_a_missing_accuracy_is_not_a_number_of_percent(configs: list[TrainConfig]) -> None:
    record = result(configs[0], "complete")
    record["epochs"][0]["test_accuracy"] = None
    assert read_outcome(configs[0], record).metric is None
    record["metric"] = "perplexity"
    record["epochs"][0]["test_perplexity"] = 12.5
    assert read_outcome(configs[0], record).metric == 12.5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": "1"}, "schema_version is '1'"),
        ({"status": 3}, "status 3"),
        ({"final": None}, "final is missing"),
        ({"final": {}}, "epochs: epoch is missing"),
        ({"metric": 3}, "metric is missing"),
        ({"folder": None}, "folder is missing"),
        ({"epochs": "x"}, "epochs is missing"),
        ({"epochs": [{}]}, "epochs: epoch is missing"),
        ({"epochs": [3]}, "epochs is missing"),
        ({"dead_layers": None}, "dead_layers is missing"),
        ({"dead_layers": [3]}, "dead_layers, warnings is missing"),
        ({"saved_bytes": "x"}, "saved_bytes is missing"),
    ],
)
def test_an_edited_result_is_named(
    change: dict[str, Any], says: str, trainer: Trainer, configs: list[TrainConfig]
) -> None:
    run_all(configs[:1])
    path = configs[0].run_folder() / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=r"result\.json is damaged") as caught:
        run_all(configs[:1])
    assert says in str(caught.value)


def test_run_one_needs_no_folder(trainer: Trainer, configs: list[TrainConfig]) -> None:
    assert run_one(configs[0]).status == "complete"


HELPER = """
import os, time
from pathlib import Path
from nybble.errors import UserError
from nybble.studies.outcome import Outcome
from nybble.training.signals import Interrupted, StopRequest

def good(config):
    return Outcome(config.recipe, config.seed, "complete", "", float(os.getpid()))

def dies(config):
    os._exit(3)

def full(config):
    raise UserError("the disk is full")

def talks(config):
    folder = Path(config.out)
    folder.mkdir()
    (folder / "log.txt").write_text("2026-11-22 10:00:00  epoch 1/9  step 3/7\\n")
    time.sleep(1.0)
    return good(config)

def by_name(config):
    return globals()[config.recipe](config)

def waits(config):
    with StopRequest() as stop:
        Path(config.out).write_text("ready")
        while stop.signum is None:
            time.sleep(0.01)
        time.sleep(0.3)
        Path(config.out).write_text("saved")
        raise Interrupted("stopped", stop.signum)
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import importlib

    (tmp_path / "job_helper.py").write_text(HELPER)
    monkeypatch.syspath_prepend(str(tmp_path))
    return importlib.import_module("job_helper")


def crashed(config: TrainConfig, reason: str) -> Outcome:
    return Outcome(config.recipe, config.seed, "failed", "", reason=reason)


def test_jobs_run_in_processes_of_their_own(
    helper: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PROGRESS_SECONDS", 0.4)
    said: list[str] = []
    recipes = {1: "good", 2: "dies", 3: "talks"}
    waiting = [
        (place, TrainConfig(recipe=recipe, seed=place, out=str(tmp_path / recipe)))
        for place, recipe in recipes.items()
    ]
    events = list(side_by_side(waiting, 3, helper.by_name, crashed, said.append))
    assert [place for place, _, outcome in events if outcome is None] == [1, 2, 3]
    outcomes = {place: outcome for place, _, outcome in events if outcome is not None}
    assert {place: (o.recipe, o.seed) for place, o in outcomes.items()} == {
        place: (recipe, place) for place, recipe in recipes.items()
    }
    assert outcomes[2] == crashed(waiting[1][1], "its process ended with status 3")
    assert len({outcomes[1].metric, outcomes[3].metric, float(os.getpid())}) == 3
    assert "run 3  talks seed 3  epoch 1/9  step 3/7" in said


def test_a_full_disk_in_a_process_stops_all(helper: Any) -> None:
    with pytest.raises(UserError, match="the disk is full"):
        list(side_by_side([(1, TrainConfig())], 1, helper.full, crashed))


def test_a_signal_lets_every_process_save_before_it_ends(helper: Any, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b")]

    def interrupt() -> None:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and not all(f.exists() for f in files):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    waiting = [(n, TrainConfig(out=str(file))) for n, file in enumerate(files)]
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted):
        list(side_by_side(waiting, 2, helper.waits, crashed))
    thread.join()
    assert [f.read_text() for f in files] == ["saved", "saved"]
