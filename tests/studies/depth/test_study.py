"""The study as a whole: repeatable, its means and intervals, its tables, page and command."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

from nybble.errors import UserError
from nybble.reports import depth as report
from nybble.studies.depth import DepthConfig, measure_depth
from nybble.studies.depth.figures import FIGURES
from nybble.studies.depth.study import (
    GRADIENTS,
    command,
    known,
    of_one_chain,
    trained_chain,
)

SMALL = DepthConfig(
    recipes=("sun2020", "sun2020:factor=stochastic"),
    depths=(1, 3),
    kinds=("residual",),
    forwards=("float32",),
    width=8,
    batch_size=16,
    seeds=(0, 1, 4),
)


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return measure_depth(SMALL, notes=("left out: x",))


def test_means_and_intervals_are_those_over_seeds(record: dict[str, Any]) -> None:
    assert [(row["recipe"], row["depth"]) for row in record["rows"]] == [
        (recipe, depth) for depth in SMALL.depths for recipe in SMALL.recipes
    ]
    row = record["rows"][2]
    assert set(row["figures"]) == {f"{g}.{f}" for g in GRADIENTS for f in FIGURES}
    values = [
        of_one_chain(SMALL, trained_chain(SMALL, "residual", 3, seed), "sun2020", "float32", seed)
        for seed in SMALL.seeds
    ]
    cosines = [value for g in GRADIENTS for value in row["figures"][f"{g}.cosine"]["mean"]]
    assert all(0.5 < value <= 1 for value in cosines)  # means over batches, not sums
    for name, figure in row["figures"].items():
        for block in range(3):
            numbers = [value[name][block] for value in values]
            low, high = stats.ttest_1samp(numbers, 0).confidence_interval(0.95)
            assert figure["mean"][block] == pytest.approx(sum(numbers) / 3, rel=1e-5, abs=1e-9)
            assert figure["low"][block] == pytest.approx(low, rel=1e-4, abs=1e-6)
            assert figure["high"][block] == pytest.approx(high, rel=1e-4, abs=1e-6)
        assert figure["n"] == 3


def test_a_measurement_repeats_exactly(record: dict[str, Any]) -> None:
    assert measure_depth(SMALL)["rows"] == record["rows"]


def test_random_bits_differ_between_draws_and_batches(record: dict[str, Any]) -> None:
    random = record["rows"][3]["figures"]
    assert random["weight.error"]["mean"] != random["weight.bias"]["mean"]
    nearest = record["rows"][2]["figures"]
    assert nearest["weight.error"]["mean"] == nearest["weight.bias"]["mean"]


def test_what_a_block_adds_itself_is_unbiased_however_deep() -> None:
    """Each draw is compared with the products of its own operands, not with the other draw's."""
    config = DepthConfig(
        recipes=("luq",), depths=(8,), kinds=("plain",), forwards=("float32",), seeds=(0, 1)
    )
    figures = measure_depth(config)["rows"][0]["figures"]
    assert figures["own_weight.shrinkage"]["mean"][0] == pytest.approx(1.0, abs=0.05)
    assert figures["weight.cosine"]["mean"][0] < 0.95


def test_training_before_changes_the_gradients() -> None:
    one = DepthConfig(recipes=("sun2020",), depths=(2,), kinds=("plain",), width=8, seeds=(0,))
    untrained, trained = (
        measure_depth(DepthConfig(**{**vars(one), "steps": steps}))["rows"][0]["figures"]
        for steps in (0, 3)
    )
    assert untrained["weight.cosine"]["mean"] != trained["weight.cosine"]["mean"]
    assert untrained["weight.cosine"]["low"] == [None, None]  # one seed


def test_tables_and_page(record: dict[str, Any]) -> None:
    text = report.markdown(record)
    assert "| `sun2020` | " in text
    assert "cosine at depth 1 | cosine at depth 3 | shrinkage at 3" in text
    assert "- left out: x" in text
    figure = record["rows"][2]["figures"]["weight.cosine"]
    cell = f"{figure['mean'][0]:.2f} [{figure['low'][0]:.2f}, {figure['high'][0]:.2f}]"
    assert cell in text
    assert cell in report.plain(record)
    page = report.page(record)
    assert page.count("<svg") == 4
    assert cell in page
    assert "http" not in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (0,)}, "depths must be at least 1"),
        ({"seeds": ()}, "seeds .*give at least one, and each once"),
        ({"recipes": ("sun2020", "sun2020")}, "recipes .*each once"),
        ({"width": 1}, "width must be at least 2, not 1"),
    ],
)
def test_bad_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DepthConfig(**changes)


def test_recipes_that_are_not_here_leave_a_note() -> None:
    recipes, notes = known()
    assert recipes[:2] == ("sun2020:phases=even-even", "sun2020")
    assert all(note.startswith("left out") for note in notes)


def test_the_command_repeats_the_configuration() -> None:
    assert command(DepthConfig()) == "nybble study depth"
    assert command(DepthConfig(batch_size=8, seeds=(3, 4))) == (
        "nybble study depth --batch-size 8 --seeds 3,4"
    )
