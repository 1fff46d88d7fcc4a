"""Robustness by condition: pairs, what is beyond the plain difference, what is said of failures."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from nybble.cli.app import main
from nybble.errors import UserError
from nybble.reports import conditions_page, study
from nybble.reports.conditions import (
    AS_TRAINED,
    Condition,
    beyond,
    conditions,
    lines,
    markdown,
    notes,
    plain,
    suits,
    tasks,
)

SEEDS = [0, 1, 2]
ACCURACY = {
    "name": "accuracy",
    "unit": "%",
    "digits": 2,
    "higher_is_better": True,
    "comparison": "difference",
}
PERPLEXITY = {
    "name": "perplexity",
    "unit": "",
    "digits": 2,
    "higher_is_better": False,
    "comparison": "ratio",
}
VALUES: dict[str, dict[str, list[float | None]]] = {
    "vision": {"fp32": [98.0, 97.0, 97.5], "sun2020": [97.0, 96.5, 97.1]},
    "vision+lr-x4": {"fp32": [96.0, 95.0, 95.5], "sun2020": [92.0, 90.5, None]},
    "gpt": {"fp32": [10.0, 11.0, 12.0], "sun2020": [11.0, 11.5, 13.0]},
}
EXTRAS: dict[str, dict[str, list[float]]] = {
    "test-time.input-noise.0.1": {"fp32": [90.0, 91.0, 89.0], "sun2020": [85.0, 87.0, 86.0]},
    "test-time.input-noise.0.5": {"fp32": [50.0, 51.0, 49.0], "sun2020": [52.0, 50.0, 49.5]},
    "test-time.bit-flips.words-1e-05": {"fp32": [60.0, 61.0, 62.0]},
    "test-time.bit-flips.codes-0.01.failed": {"fp32": [0.0, 0.0, 0.0], "sun2020": [0.5, 0.0, 0.1]},
    "test-again.loss": {"fp32": [1.0, 1.0, 1.0], "sun2020": [1.0, 1.0, 1.0]},
}
WORDS_FLIPPED = "bit-flips.words-1e-05"
WORDS = {"fp32": [20.0, 22.0, 24.0], "sun2020": [33.0, 34.5, 39.0]}


@pytest.fixture
def record() -> dict[str, Any]:
    """The record of a made-up study, with one failed run."""
    runs = []
    for task, recipes in VALUES.items():
        for recipe, values in recipes.items():
            for seed, value in enumerate(values):
                extras: dict[str, float] = {}
                if task == "vision":
                    extras = {n: by[recipe][seed] for n, by in EXTRAS.items() if recipe in by}
                elif task == "gpt":
                    extras = {"test-time.token-corruption.5%": WORDS[recipe][seed]}
                runs.append(
                    {
                        "task": task,
                        "variant": "",
                        "recipe": recipe,
                        "seed": seed,
                        "status": "failed" if value is None else "complete",
                        "metric": value,
                        "extras": extras,
                    }
                )
    tables = [
        {
            "task": task,
            "rows": [
                {"recipe": recipe, "problems": ["seed 2 failed"] * (None in values), "missing": []}
                for recipe, values in recipes.items()
            ],
        }
        for task, recipes in VALUES.items()
    ]
    return {
        "schema": "nybble.study/1",
        "title": "Made up",
        "command": "nybble study robustness",
        "baseline": "fp32",
        "notes": ["left out: luq (unknown)"],
        "missing": 0,
        "tasks": {
            task: {
                "metric": PERPLEXITY if task == "gpt" else ACCURACY,
                "recipes": list(recipes),
                "seeds": SEEDS,
            }
            for task, recipes in VALUES.items()
        },
        "tables": tables,
        "runs": runs,
    }


def line(record: dict[str, Any], task: str, condition: str) -> list[str]:
    (found,) = (entry for entry in lines(record, task)[1:] if entry[0] == condition)
    return found


def test_conditions_are_tasks_and_measured_numbers(record: dict[str, Any]) -> None:
    assert tasks(record) == ["vision", "gpt"]
    names = [here.name for here in conditions(record, "vision")]
    assert names == [AS_TRAINED, "lr-x4", "input-noise.0.1", "input-noise.0.5", WORDS_FLIPPED]
    assert suits(record)
    assert not suits({**record, "tasks": {"gpt": record["tasks"]["gpt"]}, "runs": []})
    assert not suits({**record, "baseline": None})
    with pytest.raises(UserError, match="no task 'speech'; it has vision, gpt"):
        conditions(record, "speech")


def test_differences_and_what_is_beyond_are_paired_t_tests(record: dict[str, Any]) -> None:
    noise = EXTRAS["test-time.input-noise.0.1"]
    plain_difference = [q - f for q, f in zip(noise["sun2020"], noise["fp32"], strict=True)]
    clean = [
        (q or 0) - (f or 0)
        for q, f in zip(VALUES["vision"]["sun2020"], VALUES["vision"]["fp32"], strict=True)
    ]
    more = [d - c for d, c in zip(plain_difference, clean, strict=True)]
    found = line(record, "vision", "input-noise.0.1")
    assert found[1:4] == ["90.00", "sun2020", "86.00"]
    for cell, values in ((found[4], plain_difference), (found[5], more)):
        low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert cell == f"{sum(values) / 3:+.2f} [{low:+.2f}, {high:+.2f}]"
    # Two lines of the table have something beyond with three pairs, one with two: Holm over three.
    ps = [
        stats.ttest_1samp(values, 0).pvalue
        for values in (
            [-3.0, -4.0],  # lr-x4: (92 - 96) - (97 - 98), (90.5 - 95) - (96.5 - 97)
            more,
            [3.0, -0.5, 0.9],
        )
    ]
    assert ps[1] == min(ps)
    assert found[6] == f"{min(1.0, 3 * ps[1]):.3f}"


def test_what_only_float32_has_is_a_line_of_its_own(record: dict[str, Any]) -> None:
    assert line(record, "vision", WORDS_FLIPPED)[1:] == ["61.00", *[""] * 5]


def test_as_trained_has_nothing_beyond(record: dict[str, Any]) -> None:
    assert line(record, "vision", AS_TRAINED)[5:] == ["", ""]


def test_a_pair_that_failed_is_left_out_and_said(record: dict[str, Any]) -> None:
    found = line(record, "vision", "lr-x4")
    assert found[4].endswith("(2 pairs)")
    assert found[5].startswith("-3.50 [")
    assert "vision+lr-x4, sun2020: seed 2 failed" in notes(record, "vision")
    assert "bit-flips.codes-0.01: draws without a finite number: sun2020 20 %" in notes(
        record, "vision"
    )


def test_perplexities_are_compared_by_ratio(record: dict[str, Any]) -> None:
    found = line(record, "gpt", "token-corruption.5%")
    ratios = [math.log(q / f) for q, f in zip(WORDS["sun2020"], WORDS["fp32"], strict=True)]
    before = [math.log(11 / 10), math.log(11.5 / 11), math.log(13 / 12)]
    more = [r - b for r, b in zip(ratios, before, strict=True)]
    for cell, logs in ((found[4], ratios), (found[5], more)):
        assert cell.startswith(f"{100 * math.expm1(sum(logs) / 3):+.2f} [")
    assert lines(record, "gpt")[0][4] == "change (%) [95 %]"
    assert "perplexity: lower is better; seeds 0, 1, 2" in notes(record, "gpt")


def test_one_seed_shows_no_difference(record: dict[str, Any]) -> None:
    one = copy.deepcopy(record)
    for entry in one["tasks"].values():
        entry["seeds"] = [0]
    found = line(one, "vision", "input-noise.0.1")
    assert found[4:] == ["one pair: no interval", "one pair: no interval", ""]


def test_a_condition_alone_has_nothing_to_be_beyond(record: dict[str, Any]) -> None:
    alone = {**record, "tasks": {"vision+lr-x4": record["tasks"]["vision+lr-x4"]}}
    assert tasks(alone) == ["vision"]
    found = line(alone, "vision", "lr-x4")
    assert found[4].startswith("-4.25 [")
    assert found[5:] == ["", ""]


def test_a_ratio_of_nothing_is_no_pair() -> None:
    nothing = Condition("", {"a": [0.0, None], "b": [1.0, 1.0]})
    assert beyond(nothing, nothing, "a", "b", ratio=True).n == 0


def test_the_tables_stand_in_every_report(record: dict[str, Any]) -> None:
    cell = line(record, "vision", "input-noise.0.1")[5]
    for text in (plain(record), study.plain(record), markdown(record), study.markdown(record)):
        assert cell in text
        assert "input-noise.0.5" in text
    assert "left out: luq" in study.plain(record)
    assert "- left out: luq" in study.markdown(record)
    assert "| condition | fp32 (%) | recipe |" in markdown(record)


def test_the_page_has_a_curve_a_measure(record: dict[str, Any]) -> None:
    found = [name for name, _ in conditions_page.families(record, "vision")]
    assert found == ["input-noise"]
    page = conditions_page.page(record)
    assert page.count("<svg") == 1
    assert line(record, "gpt", "token-corruption.5%")[4] in page
    svg = conditions_page.curves(record, "vision", "input-noise")
    for text in ("as trained", "0.5", "accuracy (%)", "sun2020"):
        assert text in svg
    other = {**record, "schema": "nybble.comparison/1"}
    with pytest.raises(UserError, match="give the record of a robustness study"):
        conditions_page.page(other)


def test_study_page_writes_it(
    record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.json").write_text(json.dumps(record))
    to = tmp_path / "page.html"
    assert main(["study", "page", str(tmp_path / "r.json"), "--to", str(to)]) == 0
    assert "token-corruption" in to.read_text()
    for content, message in (("[1]", "is no record"), ("{", "cannot be read as a record")):
        (tmp_path / "r.json").write_text(content)
        assert main(["study", "page", str(tmp_path / "r.json"), "--to", str(to)]) == 2
        assert message in capsys.readouterr().err


def test_a_task_that_the_baseline_was_not_run_on_has_no_pair(record: dict[str, Any]) -> None:
    entry = record["tasks"]["gpt"]
    entry["recipes"] = [name for name in entry["recipes"] if name != "fp32"]
    assert {cells[4] for cells in lines(record, "gpt")[1:]} == {"no pair"}
    assert line(record, "vision", "input-noise.0.1")[4] != "no pair"


def test_the_footer_speaks_of_this_table(record: dict[str, Any]) -> None:
    text = study.plain(record)
    assert "Beyond that as trained" in text and "undecided" not in text and "bootstrap" not in text
