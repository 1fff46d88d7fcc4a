"""The cost of looking is a share with an interval, of whole turns."""

from __future__ import annotations

import shlex

import pytest

from nybble.cli.app import main
from nybble.errors import UserError
from nybble.reports.watching import markdown, plain
from nybble.studies.speed.watching import BLOCK, WatchConfig, measure_watch


def test_a_small_measurement() -> None:
    config = WatchConfig("cnn", batch=2, every=10, size=16)
    found = measure_watch(config)
    assert found["interval"]["low"] <= found["cost"] <= found["interval"]["high"]
    assert found["looks"] >= 3 * 4  # three layers, their operands
    ratio = found["step_ms"]["watched"] / found["step_ms"]["plain"] - 1
    assert found["cost"] == pytest.approx(ratio)
    assert "aim: at most 3 %" in plain(found) and markdown(found).startswith("- looking")


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=f"--every must be at least {2 * BLOCK}"):
        WatchConfig(every=3)
    assert main(shlex.split("bench watch --model resnet9")) == 2
    assert "Did you mean" in capsys.readouterr().err
