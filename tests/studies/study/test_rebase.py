"""Tables against another recipe of the study: the same runs, paired anew."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from nybble.errors import UserError
from nybble.studies.study import sample
from nybble.studies.study.reading import read_any
from nybble.studies.study.rebase import rebase


def test_against_its_own_baseline_the_tables_are_what_they_were() -> None:
    record = sample.record()
    assert rebase(record, "fp32") == record


def test_the_difference_turns_round_and_failures_stay() -> None:
    record = sample.record()
    before = {row["recipe"]: row for row in record["tables"][0]["rows"]}
    after = {row["recipe"]: row for row in rebase(record, "hfp8")["tables"][0]["rows"]}
    assert after["fp32"]["difference"]["mean"] == pytest.approx(
        -before["hfp8"]["difference"]["mean"]
    )
    assert after["fp32"]["difference"]["sd"] == pytest.approx(before["hfp8"]["difference"]["sd"])
    assert after["sun2020"]["verdict"]["verdict"] == "failed"
    assert after["hfp8"]["verdict"] is None
    assert record == sample.record()  # the record that was given is not changed


def test_a_task_without_the_recipe_shows_no_differences() -> None:
    record = sample.record()
    other = copy.deepcopy(record["tasks"]["vision"])
    other["recipes"] = ["fp32", "sun2020"]
    record["tasks"]["gpt"] = other
    record["tables"].append({**record["tables"][0], "task": "gpt"})
    vision, gpt = rebase(record, "hfp8")["tables"]
    assert vision["baseline"] == "hfp8" and gpt["baseline"] is None
    assert all(row["verdict"] is None for row in gpt["rows"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, r"no task of made-up has that recipe; it has fp32, hfp8, sun2020\."),
        ({"schema": "nybble.comparison/1"}, "no record of a study"),
        ({"runs": [{"task": "vision"}]}, "no whole record"),
        ({"tasks": 3}, "no whole record"),
    ],
)
def test_what_cannot_be_done_is_one_line(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        rebase(sample.record(**changes), "int8" if not changes else "hfp8")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such record in results/, no file and no folder"),
        ("[1]", "no record of a comparison or a study"),
        ("{", "cannot be read as a record"),
        ('{"study": "other"}', "no record of a study 'made-up'"),
    ],
)
def test_reading_what_is_no_record(tmp_path: Path, content: str | None, expected: str) -> None:
    path = tmp_path / "r.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=f"study show .*{expected}"):
        read_any(str(path), Path("results"), "study show", "made-up")


def test_a_name_in_results_comes_before_a_file(tmp_path: Path) -> None:
    record = sample.record()
    (tmp_path / "made.json").write_text(json.dumps(record))
    assert read_any("made", tmp_path, "study show") == record


def test_a_baseline_that_failed_is_equivalent_to_nothing() -> None:
    """Whichever of the two is called the baseline: its other runs are a selection."""
    record = sample.record()
    runs = [run for run in record["runs"] if run["recipe"] != "sun2020"]
    for run in runs:
        run["metric"] = 90.0 + 0.001 * run["seed"] * (run["recipe"] == "fp32")
    for i, recipe in enumerate(("sun2020", "hfp8")):
        kept = [run for run in runs if run["recipe"] == "fp32"]
        other = copy.deepcopy(kept)
        for run in other:
            run["recipe"], run["metric"] = recipe, 90.0
        if i == 0:
            other[2] |= {"status": "failed", "metric": None, "reason": "NaN"}
        made = {**record, "runs": kept + other}
        verdicts = [
            row["verdict"]["verdict"]
            for baseline in ("fp32", recipe)
            for row in rebase(made, baseline)["tables"][0]["rows"]
            if row["recipe"] in ("fp32", recipe) and row["verdict"]
        ]
        assert verdicts == [["failed", "failed"], ["equivalent", "equivalent"]][i]


def test_no_number_that_is_none_and_no_device_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('{"runs": [NaN]}')
    with pytest.raises(UserError, match=r"cannot be read as a record \(it holds NaN"):
        read_any(str(path), tmp_path, "study show")
    with pytest.raises(UserError, match="no such record"):
        read_any("/dev/zero", tmp_path, "study show")
