"""The table says everything: values, intervals, failures, dead layers, how a row was chosen."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from nybble.reports.cells import cells, difference, duration, header, notes, reached, size
from nybble.reports.table import markdown, plain, show
from nybble.studies import sample
from nybble.studies.outcome import Outcome

RECORD = sample.record()


def row(recipe: str) -> list[str]:
    return next(cells(RECORD, r) for r in RECORD["rows"] if r["recipe"] == recipe)


def test_every_cell_of_the_made_up_comparison() -> None:
    assert row("fp32") == [
        "fp32",
        "91.50 ± 0.50",
        "-",
        "1 (40.0 ms)",
        "40.0 s (3 of 3)",
        "9.0 MB",
        "3",
    ]
    # Differences -1.0 and -1.4: mean -1.2, half width 12.7062 * 0.28284 / 1.41421 = 2.54.
    assert row("sun2020") == [
        "sun2020",
        "90.05 ± 0.07 (2 of 3 runs)",
        "-1.20 [-3.74, +1.34] (2 pairs)",
        "1.50x [1.50, 1.50]",
        "not reached (0 of 3)",
        "1.5 MB (6.0x less)",
        "2 of 3, 1 dead layer",
    ]
    assert row(sample.BEST)[4] == "40.0 s (1 of 3)"


def test_notes_name_failures_dead_layers_and_the_choice() -> None:
    text = "\n".join(notes(RECORD))
    assert "sun2020: seed 2 failed: loss is NaN <at> step 7." in text
    assert "sun2020: layers without any gradient: layer2.conv1." in text
    assert "Chosen among 2 settings" in text and "other seeds (10, 11; the test items" in text
    assert "1 thread, backend torch, reference" in text
    assert "3 seeds (0, 1, 2)" in text


def test_a_wide_interval_says_how_many_seeds_would_narrow_it() -> None:
    # Differences -0.4, 0.0, -0.3: sd 0.208, so t(0.975, 3) * 0.208 / 2 = 0.331 for four seeds.
    text = "\n".join(notes(RECORD))
    assert f"{sample.BEST}: with this spread between seeds, about 4 seeds" in text
    assert "sun2020: with this spread" not in text  # two pairs only
    assert not any(
        "with this spread" in n
        for n in notes(
            sample.record(
                metric={
                    "name": "perplexity",
                    "unit": "",
                    "digits": 3,
                    "higher_is_better": False,
                }
            )
        )
    )


def test_runs_at_the_same_time_are_told() -> None:
    assert any("2 runs went on at a time" in note for note in notes(sample.record(jobs=2)))
    assert not any("at a time" in note for note in notes(RECORD))


def test_runs_of_different_commits_are_told() -> None:
    origin = {"commit": "aaa", "cpu": "c", "threads": 1, "torch": "2.13.0"}
    same = [replace(run, origin=origin) for run in sample.outcomes()]
    assert not any("differ" in note for note in notes(sample.record(outcomes=same)))
    same[4] = replace(same[4], origin={**origin, "commit": "bbb"})
    assert "The runs differ in commit: aaa, bbb." in notes(sample.record(outcomes=same))


def test_one_seed_has_no_interval_and_says_so() -> None:
    runs = [run for run in sample.outcomes() if run.seed == 0]
    record = sample.record(outcomes=runs, seeds=[0])
    assert cells(record, record["rows"][1])[1:3] == [
        "90.00 (1 run)",
        "n/a: one pair has no interval",
    ]
    assert any("one seed gives no interval" in note for note in notes(record))


def test_all_runs_failed() -> None:
    runs = [Outcome("fp32", 0, "failed", "x", reason="boom"), Outcome("sun2020", 0, "failed", "y")]
    record = sample.record(
        outcomes=runs, seeds=[0], recipes=["fp32", "sun2020"], selection=None, timing=None
    )
    found = cells(record, record["rows"][1])
    assert found[1:5] == ["no result", "n/a: no pair of finished runs", "not measured", "n/a"]
    assert found[6] == "0 of 1"
    assert "fp32: seed 0 failed: boom." in notes(record)


def test_runs_that_are_missing_are_said() -> None:
    record = sample.record(seeds=[0, 1, 2, 3])
    assert "every recipe: not run yet: seeds 3." in notes(record)
    assert cells(record, record["rows"][0])[6] == "3 of 4"


def test_without_fp32_there_is_no_difference() -> None:
    record = sample.record(baseline=None)
    assert header(record)[2] == "difference to baseline [95 %]"
    assert any("no differences" in note for note in notes(record))
    assert cells(record, record["rows"][0])[2] == "n/a: no pair of finished runs"


def test_plain_is_aligned_and_complete() -> None:
    lines = plain(RECORD).splitlines()
    start = lines[0].index("difference")
    for line, text in zip(lines[3:5], ("-1.20", "-0.23"), strict=True):
        assert line[start:].startswith(text)
    assert all(note in plain(RECORD) for note in notes(RECORD))


def test_terminal_gets_the_same_cells_and_no_markup_errors() -> None:
    out = io.StringIO()
    show(RECORD, Console(file=out, force_terminal=True, width=250, color_system=None))
    text = out.getvalue()
    for item in RECORD["rows"]:
        for cell in cells(RECORD, item):
            assert cell in text
    assert "<at> step 7" in text


def test_a_pipe_gets_plain_text_without_wrapping_or_colour() -> None:
    out = io.StringIO()
    show(RECORD, Console(file=out, width=40))
    assert out.getvalue() == plain(RECORD) + "\n"
    assert "\x1b" not in out.getvalue()


def test_markdown_has_one_cell_a_column() -> None:
    lines = markdown(RECORD).splitlines()
    assert {line.count("|") for line in lines[:5]} == {8}
    assert "&lt;at>" in markdown(RECORD)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (59.96, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (90, "1 min 30 s"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (5_000_000_000_000, "5000.0 GB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


def test_reached_and_difference_without_data() -> None:
    assert reached(None) == "n/a"
    assert difference(None, 2) == "n/a: no pair of finished runs"
