"""A study's tables: no difference without its interval, verdicts, notes, and the generated page."""

from __future__ import annotations

import math
from typing import Any

from nybble.reports import docs
from nybble.reports.results import kind
from nybble.reports.study import cells, markdown, plain, table_notes
from nybble.studies.outcome import Outcome
from nybble.studies.power import seeds_for_tost
from nybble.studies.study import sample
from nybble.studies.study.record import make_table

HERE = {"cpu": "c", "threads": 1, "torch": "t"}


def table(
    metrics: dict[str, tuple[float | None, ...]], margin: float | None = 0.25, **metric: Any
) -> dict[str, Any]:
    """The table of made-up metrics, by recipe and seed."""
    seeds = len(next(iter(metrics.values())))
    about = {
        "baseline": "fp32",
        "tasks": {
            "t": {
                "metric": {**sample.record()["tasks"]["vision"]["metric"], **metric},
                "margin": margin,
                "recipes": list(metrics),
                "seeds": list(range(seeds)),
            }
        },
    }
    outcomes = [
        Outcome(recipe, seed, "complete" if value is not None else "failed", "", value)
        for recipe, values in metrics.items()
        for seed, value in enumerate(values)
    ]
    return make_table(about, "t", "", outcomes)


def row(made: dict[str, Any], recipe: str) -> list[str]:
    return next(cells(made, entry) for entry in made["rows"] if entry["recipe"] == recipe)


def test_one_pair_shows_no_difference_and_says_so() -> None:
    made = table({"fp32": (90.0,), "sun2020": (88.5,)})
    assert row(made, "sun2020") == [
        *("sun2020", "88.50 (1 run)", "n/a: one pair has no interval"),
        *("-", "-", "undecided", "1"),
    ]
    assert "-1.50" not in plain({**sample.record(), "tables": [made]})
    lost = table({"fp32": (90.0, None), "sun2020": (None, 88.5)})
    assert row(lost, "sun2020")[2] == "n/a: no pair of finished runs"


def test_every_difference_has_both_intervals_p_and_a_verdict() -> None:
    made = table(
        {
            "fp32": (90.0, 90.5, 91.0, 91.5),
            "near": (90.02, 90.51, 90.97, 91.49),
            "far": (88.0, 88.6, 88.9, 89.5),
            "loud": (89.0, 91.5, 90.0, 92.5),
        }
    )
    assert row(made, "near")[2:6] == [
        *("-0.00 [-0.04, +0.03]", "[-0.03, +0.02]", "1.000"),
        "equivalent (p < 0.001)",
    ]
    assert row(made, "far")[2:6] == [
        *("-2.00 [-2.13, -1.87]", "[-2.07, -1.93]", "< 0.001"),
        "different",
    ]
    assert row(made, "loud")[5] == "undecided"
    notes = table_notes(made)
    assert any(note.startswith("Seeds that would show equivalence") for note in notes)
    assert "loud" in notes[0] and "far" not in notes[0] and "near" not in notes[0]


def test_seeds_are_counted_for_the_test_that_the_table_makes() -> None:
    loud = (89.0, 91.5, 90.0, 92.5)
    base = (90.0, 90.5, 91.0, 91.5)
    alone = table({"fp32": base, "loud": loud})
    sd = alone["rows"][1]["difference"]["sd"]
    assert f"loud {seeds_for_tost(sd, 0.25)}." in table_notes(alone)[0]
    beside = table({"fp32": base, "loud": loud, "a": loud, "b": loud})
    assert f"loud {seeds_for_tost(sd, 0.25, alpha=0.05 / 3)}, a" in table_notes(beside)[0]
    # Beyond the margin, or with as many seeds as that already: more of them do not help.
    far = table({"fp32": base, "far": (88.9, 89.6, 90.05, 90.3)}, margin=0.3)
    assert far["rows"][1]["verdict"]["verdict"] == "different" and not table_notes(far)
    spread = [(k - 5) / 3.3166247903554 for k in range(11)]  # sd 1: eleven seeds show ±1
    enough = table({"fp32": (90.0,) * 11, "enough": tuple(90.55 + d for d in spread)}, margin=1.0)
    assert enough["rows"][1]["verdict"]["verdict"] == "undecided" and not table_notes(enough)


def test_what_is_missing_and_what_is_equal_is_said() -> None:
    equal = table({"fp32": (90.0, 91.0, 92.0), "same": (90.0, 91.0, 92.0)})
    assert row(equal, "same")[4:6] == ["-", "undecided"]
    assert any("same: all differences are equal" in note for note in table_notes(equal))
    early = table({"fp32": (90.0, 91.0, 92.0), "near": (90.01, 91.0, 92.01)})
    early["rows"][1]["missing"] = [3, 4]
    assert row(early, "near")[5].startswith("equivalent (p")
    assert row(early, "near")[5].endswith(", so far")


def test_pairs_of_different_commits_are_named() -> None:
    record = sample.record()
    for run in record["runs"]:
        changed = (run["recipe"], run["seed"]) in {("hfp8", 1), ("fp32", 2)}
        run["origin"] = {**HERE, "commit": "new" if changed else "old"}
    text = plain(record)
    assert (
        "Pairs whose two runs differ in commit: vision, seed 1: hfp8; "
        "vision, seed 2: hfp8, sun2020." in text
    )
    assert "differ in cpu" not in text
    assert "vector instructions" not in text


def test_runs_of_different_vector_instructions_are_named() -> None:
    """torch's own float32 sums follow them: the same seed ends elsewhere."""
    record = sample.record()
    for run in record["runs"]:
        wide = run["seed"] == 1
        run["origin"] = {**HERE, "instructions": "AVX512" if wide else "AVX2"}
    assert "The runs differ in torch's vector instructions: AVX2, AVX512." in plain(record)
    assert "Pairs whose two runs" not in plain(record)
    record["runs"][0]["origin"] = HERE
    assert "AVX2, AVX512, not recorded." in plain(record)
    assert "Pairs whose two runs differ in torch's vector instructions: vision" in plain(record)


def test_commits_in_the_page_say_what_was_not_committed_and_where_runs_are_from() -> None:
    record = sample.record()
    record["environment"] = {**record["environment"], "commit": "0123456789abcdef-dirty"}
    for run in record["runs"]:
        run["origin"] = {**HERE, "commit": "fedcba9876543210"}
    text = docs.studies_page({"made-up": record})
    assert "at commit `0123456789ab` with local changes" in text
    assert "its runs at `fedcba987654`:" in text


def test_a_spread_beyond_counting_is_told_so() -> None:
    made = table({"fp32": (90.0, 91.0, 92.0), "wild": (50.0, 90.0, 130.0)})
    assert "wild more than 10000" in table_notes(made)[0]


def test_a_ratio_is_in_per_cent_and_lower_is_better() -> None:
    made = table(
        {"fp32": (100.0, 110.0, 120.0), "sun2020": (102.0, 112.3, 122.3)},
        margin=0.5,
        **{"name": "perplexity", "unit": "", "comparison": "ratio", "higher_is_better": False},
    )
    text = plain({**sample.record(), "tables": [made]})
    assert "change to fp32 (%) [95 %]" in text and "within ±0.5 %" in text
    assert row(made, "sun2020")[2].startswith("+2.00 [+1.79, +2.22]")
    assert table_notes(made)[0] == "Lower is better."


def test_a_table_without_the_baseline_has_no_differences() -> None:
    made = table({"sun2020": (90.0, 91.0)})
    assert row(made, "sun2020")[2:6] == ["-"] * 4
    without = table({"fp32": (90.0, 91.0), "a": (90.0, 91.5)}, margin=None)
    assert "verdict" in plain({**sample.record(), "tables": [without]})


def test_failures_and_missing_seeds_are_named_and_escaped() -> None:
    record = sample.record()
    assert "sun2020: seed 2 failed: loss is NaN <at> step 7." in plain(record)
    assert "loss is NaN &lt;at> step 7" in markdown(record)
    assert "test-again.loss: fp32 0.085 ± 0.005; hfp8 0.085 ± 0.005 (+0.001 [" in plain(record)
    assert "resnet8 on mnist5k (4000 train, 1000 test), 3 epochs, batch 64" in markdown(record)
    missing = sample.record(missing=3)
    assert "3 cells have not been run" in plain(missing)


def test_the_page_of_studies_names_record_and_command() -> None:
    record = sample.record()
    assert kind(record) == "study"
    text = docs.studies_page({"made-up": record})
    assert "Record: `results/made-up.json`" in text and record["command"] in text
    assert markdown(record) in text and "`abc1234`" in text
    results = docs.results_page({"made-up": record})
    assert "studies.md" in results and "results/made-up.json" not in results
    assert docs.studies_page({}).endswith("No study has been recorded yet.\n")


def test_seeds_for_a_ratio_are_counted_at_the_margin_that_is_tested() -> None:
    made = table(
        {"fp32": (100.0, 100.0, 100.0), "luq": (94.0, 112.0, 95.0)}, margin=10.0, comparison="ratio"
    )
    pairs = made["rows"][1]["difference"]
    exact = seeds_for_tost(pairs["sd"], 100 * math.log(1.1), 0.0, 0.8, 0.05)
    assert exact > seeds_for_tost(pairs["sd"], 10.0, 0.0, 0.8, 0.05)
    assert any(f"luq {exact}." in note for note in table_notes(made))


def test_numbers_that_no_table_could_hold_are_short() -> None:
    made = table({"fp32": (1e200, 2.0, 3.0), "luq": (4e250, 5.0, 1e300)})
    assert all(len(cell) < 40 for row in made["rows"] for cell in cells(made, row))


def test_a_caption_says_steps_and_sizes() -> None:
    record = sample.record()
    given = record["tasks"]["vision"]["configuration"]
    given["task_options"] = [["width", "64"], ["steps", "300"], ["speakers", ""]]
    text = markdown(record)
    assert "resnet8 (width=64) on mnist5k (4000 train, 1000 test), 300 steps, batch 64" in text
    given["task_options"] = []
    assert "resnet8 on mnist5k (4000 train, 1000 test), 3 epochs, batch 64" in markdown(record)


def test_a_study_without_its_baseline_speaks_of_none() -> None:
    record = sample.record()
    record["tables"][0] |= {"baseline": None}
    text = plain(record)
    assert "Differences to" not in text and "difference [95 %]" in text
