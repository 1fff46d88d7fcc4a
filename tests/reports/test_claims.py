"""What holds of the paper: signs, directions and intervals of the generated table."""

from __future__ import annotations

from typing import Any

import pytest

from nybble.recipes import get_recipe
from nybble.reports.claims import CLAIMS, RECIPE, markdown
from nybble.studies.ready.ablation_sun2020 import SETTINGS
from nybble.studies.study import sample


def record(comparison: str, better: bool, paper: list[float], other: list[float]) -> dict[str, Any]:
    metric = {"name": "m", "digits": 2, "comparison": comparison, "higher_is_better": better}
    rows = [
        {"recipe": RECIPE, "metric": {"values": paper}},
        {"recipe": f"{RECIPE}:phases=even-even", "metric": {"values": other}},
    ]
    tasks = {"t": sample.record()["tasks"]["vision"]}
    table = {"task": "t", "metric": metric, "rows": rows, "seeds": list(range(len(paper)))}
    return {"tables": [table], "tasks": tasks}


def line(text: str) -> str:
    return next(one for one in text.splitlines() if one.startswith("| two grids"))


@pytest.mark.parametrize(
    ("comparison", "higher", "paper", "other", "change", "verdict"),
    [
        ("difference", True, [90.0, 91.0, 92.1], [89.0, 90.0, 91.0], "+1.03 [", "the paper's"),
        ("difference", True, [89.0, 90.0, 91.0], [90.0, 91.0, 92.1], "-1.03 [", "the other"),
        ("ratio", False, [10.0, 11.0, 12.1], [10.1, 11.1, 12.2], "-0.90 [", "the paper's"),
        ("ratio", False, [10.1, 11.1, 12.2], [10.0, 11.0, 12.1], "+0.91 [", "the other"),
        ("difference", True, [90.0, 91.0, 92.0], [91.0, 90.0, 92.0], "+0.00 [", "neither"),
        # The interval has no zero in it, but of two lines one has none by chance more often.
        ("difference", True, [90.0, 91.0, 92.0], [89.0, 90.6, 91.3], "+0.70 [", "neither"),
    ],
)
def test_which_one_was_better(comparison, higher, paper, other, change, verdict) -> None:
    found = line(markdown(record(comparison, higher, paper, other)))
    assert change in found and f"| {verdict} |" in found


@pytest.mark.parametrize(("other", "shown"), [([89.0, 90.0, 91.0], 1), ([91.0, 90.0, 92.0], 0)])
def test_how_much_was_shown_is_said_first(other: list[float], shown: int) -> None:
    text = markdown(record("difference", True, [90.0, 91.0, 92.1], other))
    assert text.startswith("Runs of 3 seeds: ")
    assert f"comparisons {shown} show one of the two choices to be better" in text.splitlines()[0]
    assert "resnet8 on mnist5k (4000 train, 1000 test)" in text


def test_one_seed_says_nothing() -> None:
    found = line(markdown(record("difference", True, [90.0], [80.0])))
    assert "n/a: one pair has no interval" in found and "| - | neither |" in found


def test_every_claim_is_of_settings_that_the_ablation_runs() -> None:
    for claim in CLAIMS:
        for switches in filter(None, (claim.paper, claim.other)):
            assert switches in SETTINGS
            get_recipe(f"{RECIPE}:{switches}")
        assert claim.other != claim.paper
