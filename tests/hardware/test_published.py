"""The bounds that were set before: peaks exactly, averages near what was published."""

from __future__ import annotations

import pytest

from nybble.errors import UserError
from nybble.hardware.chip_file import get_chip
from nybble.hardware.claim import FORMS, take_apart
from nybble.hardware.comparison import Traced
from nybble.hardware.networks import get_network
from nybble.hardware.published import check_published
from nybble.hardware.scaling import OVER, scaling


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    return check_published()


def test_published_figures(found: dict[str, dict[str, object]]) -> None:
    assert found["passed"]["peaks"]
    assert found["passed"]["inference"]
    assert found["passed"]["training"]
    means = found["training"]["means"]
    assert isinstance(means, dict) and means["0.5"] < means["1"] < means["2"]


def test_the_claim_shrinks_step_by_step() -> None:
    rows = {row["form"]: row for row in take_apart(("resnet50",), batch=64)["rows"]}
    assert set(rows) == set(FORMS)
    for row in rows.values():
        assert row["density"] == 8
        assert row["density"] >= row["peak"] > row["gemms"] > row["step"] > 1
        fast = list(row["speedup_at"].values())
        assert fast == sorted(fast)
    assert rows["4-bit"]["peak"] == pytest.approx(8.0)
    # a calculation with shares of MACs gives 2.8 to 3.2, with the 1x1 convolutions in 8 bits
    assert 2.8 < rows["recipe"]["peak"] < 3.2
    assert 6.0 < rows["ends"]["peak"] < 7.2


@pytest.mark.parametrize("over", OVER)
def test_scaling(over: str) -> None:
    rows = scaling(Traced(get_network("alexnet")), get_chip("rapid-fp4"), "sun2020", 16, over)
    assert len(rows) > 2
    speeds = [row["examples_per_second"] for row in rows]
    assert speeds == sorted(speeds)
    if over == "chips":
        share = rows[-1]["communication_share"]
        assert share["32"] > share["16"] > share["4"] > 0


def test_unknown_scaling() -> None:
    with pytest.raises(UserError, match=r"--over chip.*Did you mean 'chips'"):
        scaling(Traced(get_network("alexnet")), get_chip("rapid"), "sun2020", 16, "chip")
