"""Comparisons of metrics that are no shares: ratios, lower is better, other numbers of a task."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from tests.training.toy_task import Echo

from nybble.cli.app import main
from nybble.reports import figures
from nybble.reports.cells import cells, header, notes
from nybble.reports.html import page
from nybble.reports.table import plain
from nybble.studies import sample
from nybble.studies.outcome import Outcome, Point
from nybble.studies.plan import PLAN, claim, shared
from nybble.studies.record import make_record, read_record
from nybble.studies.statistics import paired_change
from nybble.training.config import TrainConfig
from nybble.training.tasks import TASKS

PERPLEXITY = {
    "name": "perplexity",
    "unit": "",
    "digits": 2,
    "higher_is_better": False,
    "comparison": "ratio",
}


def test_a_change_is_the_t_interval_of_logarithms() -> None:
    a, b = [101.0, 103.0, 99.0, 104.0], [100.0, 101.0, 98.0, 100.0]
    found = paired_change(a, b)
    logs = np.log(np.array(a) / np.array(b))
    want = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert found.t_interval is not None and found.mean is not None and found.sd is not None
    assert found.t_interval.low == pytest.approx(100 * math.expm1(want.low))
    assert found.t_interval.high == pytest.approx(100 * math.expm1(want.high))
    assert found.mean == pytest.approx(100 * (stats.gmean(np.array(a) / np.array(b)) - 1))
    assert found.sd == pytest.approx(100 * logs.std(ddof=1))
    assert found.differences == pytest.approx([1.0, 100 * (103 / 101 - 1), 100 / 98, 4.0])
    assert found.bootstrap is not None and found.bootstrap.low < found.mean < found.bootstrap.high
    assert found.kind == "ratio" and found.to_dict()["kind"] == "ratio"
    # the other way round is the reciprocal, exactly the same interval
    back = paired_change(b, a)
    assert back.t_interval is not None and back.mean is not None
    assert 1 + back.mean / 100 == pytest.approx(1 / (1 + found.mean / 100))
    assert 1 + back.t_interval.low / 100 == pytest.approx(1 / (1 + found.t_interval.high / 100))


@pytest.mark.parametrize("bad", [None, 0.0, -1.0, math.inf, math.nan])
def test_a_value_without_a_logarithm_is_dropped(bad: float | None) -> None:
    found = paired_change([bad, 2.0, 3.0], [1.0, 1.0, 2.0])
    assert (found.n, found.dropped) == (2, 1)
    assert "1 of 3 pairs" in found.note
    assert paired_change([bad], [1.0]).mean is None


def record(**changes: Any) -> dict[str, Any]:
    """Two recipes, three seeds, perplexity falling to 100, 101, 99 and 2 % above that."""
    runs = []
    for seed, base in enumerate((100.0, 101.0, 99.0)):
        for recipe, factor in (("fp32", 1.0), ("sun2020", (1.02, 1.03, 1.01)[seed])):
            final = base * factor
            curve = tuple(Point(e, 10.0 * e, 5.0 / e, final * (4 - e)) for e in (1, 2, 3))
            extras = {"bits": math.log2(final)} if recipe == "fp32" or seed else {}
            runs.append(Outcome(recipe, seed, "complete", "x", final, extras=extras, curve=curve))
    made = sample.record(
        metric=PERPLEXITY,
        recipes=["fp32", "sun2020"],
        outcomes=runs,
        timing=None,
        selection=None,
        **changes,
    )
    assert set(made["rows"][1]) == set(sample.record()["rows"][1])
    return made


def test_the_table_of_a_ratio() -> None:
    made = record()
    assert header(made)[1:3] == ["perplexity", "change to fp32 (%) [95 %]"]
    row = cells(made, made["rows"][1])
    assert row[1] == "102.01 ± 2.02"
    # ln 1.02, ln 1.03, ln 1.01: geometric mean 1.99967 %, half width 4.3027 * 0.9804 % / sqrt 3
    assert row[2] == "+2.00 [-0.46, +4.51]"
    assert row[4] == "not reached (0 of 3)"  # lower is better, and it never got so low
    assert cells(made, made["rows"][0])[4] == "30.0 s (3 of 3)"
    text = "\n".join(notes(made))
    assert "Lower perplexity is better." in text
    assert "Change to fp32: the ratio of the two, paired by seed, as per cent more (+)" in text
    assert "seeds would narrow the interval to ±0.5 %." in text
    assert "bits: fp32 6.644 ± 0.014; sun2020 6.672 ± 0.040 (2 of 3 runs)." in text
    assert "accura" not in plain(made)


def test_lower_is_better_is_said_of_differences_too() -> None:
    wer = {"name": "wer", "unit": "%", "digits": 2, "higher_is_better": False}
    made = sample.record(metric=wer)
    assert header(made)[2] == "difference to fp32 [95 %]"
    assert "Lower wer is better." in notes(made)
    assert not any("is better" in note for note in notes(sample.record()))


def test_the_page_and_the_figure_of_a_ratio() -> None:
    made = record()
    figure = figures.differences(made)
    assert figure is not None
    assert "perplexity: per cent above fp32's" in figure and "paired change to fp32" in figure
    text = page(made)
    assert "+2.00 [-0.46, +4.51]" in text and "accurac" not in text
    assert "minus fp32's (points)" in str(figures.differences(sample.record()))


def test_one_seed_has_no_interval() -> None:
    made = record(seeds=[0])
    assert cells(made, made["rows"][1])[2] == "n/a: one pair has no interval"
    assert any("one seed gives no interval" in note for note in notes(made))


def test_outcomes_with_extras_survive_json() -> None:
    run = Outcome("fp32", 0, "complete", "x", 3.0, extras={"bits": 1.5})
    assert Outcome.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    failed = Outcome("fp32", 0, "failed", "x", 3.0, extras={"bits": 1.5})
    row = make_record(
        title="t", command="c", created="", task="echo", metric=PERPLEXITY, baseline=None,
        configuration={}, environment={}, recipes=["fp32"], seeds=[0], outcomes=[failed],
    )["rows"][0]  # fmt: skip
    assert row["extras"]["bits"]["mean"] is None


def test_a_comparison_of_another_task_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TASKS, "echo", f"{Echo.__module__}:Echo")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(
        "compare echo --recipes fp32,sun2020 --seeds 0,1 --epochs 1 --set width=6 --betas 0.9,0.98 "
        "--best-of none --step-pairs 1 --threads 1 --quiet"
    )
    assert main(words) == 0
    out = capsys.readouterr().out
    folder = Path("runs/compare-echo-noise-cell")
    made = read_record(folder / "comparison.json")
    assert out == plain(made) + "\n" and "change to fp32 (%)" in out
    assert made["metric"] == PERPLEXITY
    assert made["configuration"]["optimizer"] == "adamw"
    assert made["timing"]["batch_size"] == 6
    row = made["rows"][1]
    values = [r["metric"]["values"] for r in made["rows"]]
    changes = [100 * (b / a - 1) for a, b in zip(*values, strict=True)]
    assert row["difference"]["differences"] == pytest.approx(changes)
    assert row["extras"]["bits"]["n"] == 2
    # the command that the record names makes the same runs: all are taken over
    again = [word for word in shlex.split(made["command"])[1:]]
    assert again[again.index("--set") + 1] == "width=6"
    assert main([*again, "--step-pairs", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(run["reused"] for run in found["runs"])


def test_a_plan_of_an_earlier_version_is_known_again(tmp_path: Path) -> None:
    base = TrainConfig(data="mnist5k", model="cnn", epochs=2)
    claim(tmp_path / "o", base)
    path = tmp_path / "o" / PLAN
    plan = json.loads(path.read_text())
    for name in ("task_options", "betas", "clip_norm"):
        del plan["configuration"][name]
    path.write_text(json.dumps(plan))
    assert claim(tmp_path / "o", base) is True
    assert plan["configuration"]["lr"] == shared(base)["lr"] == 0.1
