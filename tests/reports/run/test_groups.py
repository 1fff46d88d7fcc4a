"""Several runs: paired by seed with intervals, or told why not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.reports.run import folders

from nybble.reports.run import make_report
from nybble.studies.compare import CompareConfig, assemble
from nybble.studies.record import write_record
from nybble.studies.runs import read_outcome
from nybble.studies.statistics import paired_difference
from nybble.training.config import TrainConfig
from nybble.training.result import read_result

PLAIN = (0.95, 0.96, 0.955)
FOUR = (0.94, 0.945, 0.951)


def several(tmp_path: Path, seeds: int = 3, **changes: Any) -> list[Path]:
    made = []
    for seed in range(seeds):
        made.append(folders.make(tmp_path / f"p{seed}", PLAIN[seed], seed=seed, recipe="fp32",
                                 watch=[], layers=[]))  # fmt: skip
        made.append(folders.make(tmp_path / f"f{seed}", FOUR[seed], seed=seed, **changes))
    return made


def test_differences_are_those_of_the_statistics(tmp_path: Path) -> None:
    report = make_report(several(tmp_path))
    found = report.to_dict()
    assert found["baseline"] == "fp32"
    row = next(row for row in found["rows"] if row["recipe"] == "sun2020")
    wanted = paired_difference([100 * v for v in FOUR], [100 * v for v in PLAIN])
    assert row["difference"]["mean"] == pytest.approx(wanted.mean)
    assert wanted.t_interval is not None
    assert row["difference"]["t_interval"]["low"] == pytest.approx(wanted.t_interval.low)
    page = report.to_html()
    low, high = wanted.t_interval.low, wanted.t_interval.high
    assert f"{wanted.mean:+.2f} [{low:+.2f}, {high:+.2f}]" in page
    assert 'class="bars forest"' in page and "95 % interval of the mean" in page


def test_a_single_pair_shows_no_difference(tmp_path: Path) -> None:
    page = make_report(several(tmp_path, seeds=1)).to_html()
    assert "A single pair of runs proves nothing" in page
    assert "n/a: one pair has no interval" in page
    assert 'class="bars forest"' not in page
    assert "-1.00" not in page and not re.search(r"[-+]1\.0\b", page.split("<script")[0])


def test_one_run_says_that_it_proves_nothing(tmp_path: Path) -> None:
    page = make_report([folders.make(tmp_path / "a")]).to_html()
    assert "One run proves nothing about a recipe" in page


def test_the_baseline_may_be_chosen(tmp_path: Path) -> None:
    runs = several(tmp_path, seeds=2)
    four = [run for run in runs if run.name.startswith("f")]
    report = make_report(runs, baseline=four[0])
    assert report.to_dict()["baseline"] == "sun2020"
    assert len(report.content.runs) == 4  # it is among them already
    other = folders.make(tmp_path / "luq", 0.9, recipe="luq")
    assert make_report(runs, baseline=other).to_dict()["baseline"] == "luq"


def test_runs_on_other_data_are_not_compared(tmp_path: Path) -> None:
    runs = several(tmp_path, seeds=2, settings={"model": "resnet8"})
    report = make_report(runs)
    assert report.to_dict()["rows"] == []
    assert "differ in model: no difference" in report.to_html()


def test_other_settings_that_differ_are_named(tmp_path: Path) -> None:
    runs = several(tmp_path, seeds=2, settings={"lr": 0.03})
    report = make_report(runs)
    assert "also differ in lr: a difference may come from that" in report.to_html()
    assert {row["recipe"] for row in report.to_dict()["rows"]} == {
        "fp32, lr 0.1",
        "sun2020, lr 0.03",
    }


def test_the_same_seed_twice(tmp_path: Path) -> None:
    runs = several(tmp_path, seeds=2)
    again = folders.make(tmp_path / "again", 0.1, seed=0)
    report = make_report([*runs, again])
    assert any("seed 0 is given twice" in note for note in report.to_dict()["notes"])
    row = next(r for r in report.to_dict()["rows"] if r["recipe"] == "sun2020")
    assert row["metric"]["values"] == pytest.approx([94.0, 94.5])


def test_a_run_that_failed_is_counted_not_averaged(tmp_path: Path) -> None:
    runs = several(tmp_path)
    folders.make(tmp_path / "f2", 0.2, seed=2, status="failed", error="NaN in step 7")
    report = make_report(runs)
    row = next(r for r in report.to_dict()["rows"] if r["recipe"] == "sun2020")
    assert row["difference"]["n"] == 2 and row["difference"]["dropped"] == 1
    assert "NaN in step 7" in report.to_html()


def test_perplexities_are_compared_by_their_ratio(tmp_path: Path) -> None:
    for seed, scores in enumerate([(100.0, 102.0), (50.0, 51.0)]):
        for name, score in zip(("fp32", "luq"), scores, strict=True):
            made = folders.make(tmp_path / f"{name}{seed}", seed=seed, recipe=name, watch=[])
            record = read_result(made)
            assert record is not None
            for entry in (*record["epochs"], record["final"]):
                entry["test_perplexity"] = score
            record.update(metric="perplexity", unit="", higher_is_better=False)
            record.pop("comparison")  # a record of before it was written
            folders.write_result(made, record)
    report = make_report(sorted(tmp_path.iterdir()))
    row = next(r for r in report.to_dict()["rows"] if r["recipe"] == "luq")
    assert row["difference"]["kind"] == "ratio"
    assert row["difference"]["mean"] == pytest.approx(2.0)


def test_the_record_of_a_comparison_is_taken_over(tmp_path: Path) -> None:
    from nybble.training.tasks import make_task

    out = tmp_path / "cmp"
    runs = several(out / "runs", seeds=2)
    base = TrainConfig(data="mnist5k", model="cnn", epochs=3)
    settings = CompareConfig(base, ("fp32", "sun2020"), (0, 1), out)
    outcomes = [
        read_outcome(
            TrainConfig(recipe="fp32" if run.name[0] == "p" else "sun2020", seed=int(run.name[1]),
                        out=str(run)),
            read_result(run),
        )
        for run in runs
    ]  # fmt: skip
    record = assemble(settings, settings.recipes, outcomes, make_task(base), {}, None, None)
    write_record(out / "comparison.json", record)
    report = make_report([out])
    assert report.path == out / "runs.html" and len(report.content.runs) == 4
    assert report.to_dict()["rows"] == record["rows"]
    page = report.to_html()
    assert "nybble compare vision" in page and "[" in page
