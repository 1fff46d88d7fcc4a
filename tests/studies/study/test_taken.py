"""Cells of an earlier record are taken over by a study in another folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nybble.errors import UserError
from nybble.studies.study.record import SCHEMA
from nybble.studies.study.taken import outcomes_of, unfinished

RUN = {
    "task": "a",
    "variant": "",
    "recipe": "fp32",
    "seed": 3,
    "key": "abc",
    "status": "complete",
    "metric": 90.5,
    "extras": {"test-again.metric": 90.4},
    "reason": "",
    "seconds": 2.0,
    "origin": {"commit": "c"},
    "dead_layers": ["conv1"],
}


def written(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "r.json"
    record = {"schema": SCHEMA, "study": "s", "missing": 1, "runs": [RUN]}
    path.write_text(json.dumps(record | changes))
    return path


def test_an_outcome_is_what_the_record_says(tmp_path: Path) -> None:
    outcome = outcomes_of(written(tmp_path))["abc"]
    assert (outcome.recipe, outcome.seed, outcome.metric) == ("fp32", 3, 90.5)
    assert outcome.finished and outcome.reused
    assert outcome.dead_layers == ("conv1",)
    assert outcome.extras == {"test-again.metric": 90.4}
    assert outcome.origin == {"commit": "c"}
    assert outcome.saved_bytes is None  # records did not have it at first


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"missing": 0}, False),
        ({"study": "other"}, False),
        ({"schema": "nybble.comparison/1"}, False),
    ],
)
def test_only_a_record_of_this_study_with_missing_cells_is_continued(
    tmp_path: Path, changes: dict[str, object], expected: bool
) -> None:
    assert unfinished(written(tmp_path, **changes), "s") is expected


@pytest.mark.parametrize("changes", [{"schema": "x"}, {"runs": [{"key": "a"}]}, {"runs": 7}])
def test_what_is_no_record_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match="is no record of a study"):
        outcomes_of(written(tmp_path, **changes))


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        outcomes_of(path)
