"""Rows derived from runs: pairing by seed, survivors counted, times to the baseline's metric."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from nybble.errors import UserError
from nybble.studies import sample
from nybble.studies.outcome import Outcome, Point, make_row, reach, time_to_reach
from nybble.studies.record import read_record, write_record


def run(recipe: str, seed: int, metric: float | None, **more: object) -> Outcome:
    status = "complete" if metric is not None else "failed"
    return Outcome(recipe, seed, status, f"runs/{recipe}{seed}", metric, **more)  # type: ignore[arg-type]


def test_pairs_are_by_seed_whatever_the_order_of_the_runs() -> None:
    runs = [run("b", 1, 11.0), run("a", 0, 1.0), run("b", 0, 2.0), run("a", 1, 10.0)]
    row = make_row("b", runs, [0, 1], "a")
    assert row["difference"]["differences"] == [1.0, 1.0]
    assert row["metric"]["values"] == [2.0, 11.0]


def test_failed_runs_are_counted_and_named() -> None:
    runs = [run("a", 0, 1.0), run("a", 1, 2.0), run("b", 0, 1.5), run("b", 1, None, reason="NaN")]
    row = make_row("b", runs, [0, 1, 2], "a")
    assert (row["finished"], row["runs"]) == (1, 3)
    assert row["problems"] == ["seed 1 failed: NaN"]
    assert row["missing"] == [2]
    assert row["difference"]["n"] == 1
    assert row["difference"]["t_interval"] is None


def test_a_finished_run_without_a_finite_metric_does_not_count() -> None:
    runs = [run("a", 0, math.nan)]
    row = make_row("a", runs, [0], "a")
    assert row["finished"] == 0 and row["metric"]["mean"] is None


def test_a_failed_run_keeps_its_last_metric_out_of_the_mean() -> None:
    runs = [Outcome("a", 0, "failed", "f", 50.0), run("a", 1, 90.0)]
    assert make_row("a", runs, [0, 1], "a")["metric"]["mean"] == 90.0


def test_without_a_baseline_there_is_no_difference() -> None:
    row = make_row("a", [run("a", 0, 1.0)], [0], None)
    assert row["difference"] is None and row["time_to_baseline"] is None


def test_time_to_reach_is_the_first_epoch_at_least_at_the_target() -> None:
    curve = (Point(1, 5.0, None, 80.0), Point(2, 9.0, None, None), Point(3, 14.0, None, 90.0))
    item = run("a", 0, 90.0, curve=curve)
    assert time_to_reach(item, 80.0) == 5.0
    assert time_to_reach(item, 80.1) == 14.0
    assert time_to_reach(item, 90.0) == 14.0
    assert time_to_reach(item, 90.1) is None


def test_a_loss_is_reached_from_above() -> None:
    curve = (Point(1, 5.0, None, 3.0), Point(2, 9.0, None, 2.0))
    item = run("a", 0, 2.0, curve=curve)
    assert time_to_reach(item, 2.5, higher_is_better=False) == 9.0
    assert time_to_reach(item, 1.9, higher_is_better=False) is None
    row = make_row("a", [item], [0], "a", higher_is_better=False)
    assert row["time_to_baseline"]["median_seconds"] == 9.0


def test_reach_uses_each_seeds_own_target() -> None:
    base = {0: run("a", 0, 80.0), 1: run("a", 1, 90.0), 2: run("a", 2, None)}
    runs = {seed: run("b", seed, 85.0, curve=(Point(1, 5.0, None, 85.0),)) for seed in (0, 1, 2)}
    found = reach(runs, base)
    assert (found.reached, found.of, found.median_seconds) == (1, 2, 5.0)
    assert found.seconds == (5.0, None)


def test_dead_layers_of_any_seed_are_listed() -> None:
    runs = [run("a", 0, 1.0, dead_layers=("x",)), run("a", 1, 1.0, dead_layers=("x", "w"))]
    assert make_row("a", runs, [0, 1], "a")["dead_layers"] == ["w", "x"]


def test_the_largest_number_of_saved_bytes_is_reported() -> None:
    runs = [run("a", 0, 1.0, saved_bytes=7), run("a", 1, 1.0, saved_bytes=9), run("a", 2, None)]
    assert make_row("a", runs, [0, 1, 2], "a")["saved_bytes"] == 9
    assert make_row("a", [run("a", 0, 1.0)], [0], "a")["saved_bytes"] is None


def test_a_row_times_its_own_runs_against_the_baselines_end() -> None:
    slow = (Point(1, 50.0, None, 80.0), Point(2, 99.0, None, 95.0))
    runs = [
        run("a", 0, 90.0, curve=(Point(1, 5.0, None, 90.0),)),
        run("b", 0, 95.0, curve=slow),
    ]
    assert make_row("b", runs, [0], "a")["time_to_baseline"]["seconds"] == [99.0]


def test_record_round_trips_and_is_strict_json(tmp_path: Path) -> None:
    record = sample.record()
    path = tmp_path / "deep" / "comparison.json"
    write_record(path, record)
    assert read_record(path) == json.loads(json.dumps(record, allow_nan=False))
    assert not list(path.parent.glob("*.tmp"))


def test_nan_becomes_null_in_a_run() -> None:
    data = run("a", 0, 1.0, curve=(Point(1, 2.0, math.nan, math.inf),)).to_dict()
    assert data["curve"][0]["train_loss"] is None and data["curve"][0]["metric"] is None


def test_runs_are_sorted_by_seed_then_recipe() -> None:
    order = [(item["seed"], item["recipe"]) for item in sample.record()["runs"]]
    assert order[:3] == [(0, sample.FP32), (0, sample.SUN), (0, sample.BEST)]


def test_selected_row_is_marked_and_only_it() -> None:
    marks = [row["selected"] is not None for row in sample.record()["rows"]]
    assert marks == [False, False, True]


def test_baseline_must_be_compared() -> None:
    with pytest.raises(UserError, match="baseline 'x'"):
        sample.record(baseline="x")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "has schema None"),
        ('{"schema": "other/1"}', "has schema 'other/1'"),
        ('{"schema": "nybble.comparison/1"}', "title"),
    ],
)
def test_bad_records_are_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(UserError, match=reason):
        read_record(path)


def test_missing_record_and_unwritable_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_record(tmp_path / "none.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        write_record(tmp_path / "file" / "c.json", {})


def test_a_metric_that_has_no_ratio_is_a_problem() -> None:
    runs = [run(recipe, seed, 2.0) for recipe in "ab" for seed in (0, 1)]
    runs[3] = run("b", 1, 0.0)
    assert make_row("b", runs, [0, 1], "a", comparison="ratio")["problems"] == [
        "seed 1 ended at 0, which has no ratio"
    ]
    assert make_row("b", runs, [0, 1], "a")["problems"] == []


@pytest.mark.parametrize(
    "damage",
    [
        {"metric": "abc"},
        {"metric": True},
        {"extras": None},
        {"extras": []},
        {"extras": {"loss": "x"}},
        {"origin": 3},
        {"seconds": []},
        {"reason": None},
        {"seed": "0"},
        {"dead_layers": [1]},
        {"curve": [{}]},
        {"surplus": 1},
    ],
)
def test_a_damaged_run_is_no_run(damage: dict[str, object]) -> None:
    whole = run("a", 0, 1.0, extras={"loss": None}).to_dict()
    assert Outcome.from_dict(whole) == run("a", 0, 1.0, extras={"loss": None})
    with pytest.raises((TypeError, ValueError)):
        Outcome.from_dict({**whole, **damage})
