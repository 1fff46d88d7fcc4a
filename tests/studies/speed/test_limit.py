"""The largest batch under a limit of memory: the search, and real processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nybble.cli.app import main
from nybble.errors import UserError
from nybble.reports.speed import plain
from nybble.studies.speed import limit
from nybble.studies.speed.limit import LimitConfig, largest_batches, parse_bytes, search
from nybble.studies.speed.memory import MemoryConfig, in_a_process


@pytest.mark.parametrize("largest", [0, 1, 2, 5, 57, 63])
@pytest.mark.parametrize("base", [0, 100, 10**6])
def test_the_search_is_exact_for_small_batches(largest: int, base: int) -> None:
    def peak(batch: int) -> int:
        return base + 10 * batch

    found = search(peak, base + 10 * largest + 3)
    assert found["batch"] == largest
    sizes = [size for size, _ in found["tried"]]
    assert sizes == sorted(set(sizes)) and largest + 1 in sizes and len(sizes) <= 10


def test_the_search_with_jumps_and_large_batches() -> None:
    def stairs(batch: int) -> int:
        return 1000 + 64 * (batch // 8) + batch // 3

    found = search(stairs, 5000)
    tried = dict(found["tried"])
    above = min(size for size in tried if size > found["batch"])
    assert tried[found["batch"]] <= 5000 < tried[above]
    assert above - found["batch"] <= max(1, found["batch"] // 64) and len(tried) < 14
    assert max(tried) <= 4 * found["batch"]
    assert search(lambda batch: 1, 5, most=100)["batch"] == 100


def test_the_search_ends_where_the_data_does() -> None:
    found = search(lambda batch: 10 * batch if batch <= 37 else None, 10**9)
    assert found["batch"] == 37 and [38, None] in found["tried"]


def test_sizes() -> None:
    assert parse_bytes("2g") == 2 << 30 and parse_bytes("2048 KB") == 2 << 20
    for text in ("", "many", "-1M", "0", "5T", "100"):
        with pytest.raises(UserError, match="--limit must be a size"):
            parse_bytes(text)


def test_a_real_process_measures_its_peak_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = MemoryConfig(model="cnn", steps=1, size=64, batch=1, backend="reference")
    one = in_a_process(config, "ours", "channels-last", peak_only=True)
    assert set(one) == {"peak_bytes", "whole_bytes"} and one["whole_bytes"] > one["peak_bytes"]
    many = in_a_process(replace(config, batch=64), "ours", "channels-last", peak_only=True)
    # 64 images of 64 x 64 with 16 channels, more than once
    assert many["whole_bytes"] > one["whole_bytes"] + 63 * 64 * 64 * 16 * 4


@pytest.fixture
def known_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes whose peak is known: 100 M, and 10 M an example (ours: 3 M)."""

    def answer(config: MemoryConfig, side: str, form: str, peak_only: bool) -> dict[str, Any]:
        assert peak_only
        each = 3 if side == "ours" else 11 if form == "contiguous" else 10
        return {"whole_bytes": (100 + each * config.batch) << 20}

    monkeypatch.setattr(limit, "in_a_process", answer)


def test_the_record(known_peaks: None) -> None:
    found = largest_batches(LimitConfig(200 << 20, MemoryConfig(model="cnn", steps=1)))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    sides = [(m["side"], m["form"], m["batch"]) for m in found["measurements"]]
    assert sides == [
        ("float32", "contiguous", 9),
        ("float32", "channels-last", 10),
        ("ours", "channels-last", 33),
    ]
    assert found["batch"] == {"float32": 10, "ours": 33} and found["ratio"] == 3.3
    assert found["command"] == f"nybble bench memory --limit {200 << 20} --model cnn --steps 1"
    assert "Largest batch: 10 in float32, 33 in 4 bits, 3.30x." in plain(found)


def test_as_a_command(known_peaks: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "memory", "--limit", "100M", "--model", "cnn"]) == 0
    assert capsys.readouterr().out.count("none fits") == 3
    assert main(["bench", "memory", "--limit", "much", "--model", "cnn"]) == 2
    assert main(["bench", "memory", "--data", "mnist5k"]) == 2
    assert "add --task" in capsys.readouterr().err


def test_the_model_of_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlxtend")
    monkeypatch.chdir(tmp_path)
    config = MemoryConfig(task="vision", model="cnn", batch=8, steps=1)
    found = in_a_process(config, "ours", "channels-last")
    assert found["input"] == "float32 [8, 1, 28, 28]" and found["activation_bytes"] > 0
    too_many = MemoryConfig(task="vision", model="cnn", batch=5000, steps=1)
    assert in_a_process(too_many, "ours", "channels-last", peak_only=True) == {"too_few": True}
    with pytest.raises(UserError, match="has 4000 training examples, too few"):
        in_a_process(too_many, "ours", "channels-last")
