"""Memory: what one process finds, and what the parent makes of two."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from nybble.errors import NybbleError, UserError
from nybble.reports.speed import plain
from nybble.studies.speed import memory
from nybble.studies.speed.memory import MemoryConfig, in_a_process, measure_memory
from nybble.studies.speed.memory_child import alive_bytes, high_water, saved_bytes
from nybble.studies.speed.workload import make_workload


def test_the_record_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = MemoryConfig(model="cnn", batch=8, size=16, steps=1, backend="reference")
    found = measure_memory(config)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    sides = [(m["side"], m["form"]) for m in found["measurements"]]
    assert sides == [
        ("float32", "contiguous"),
        ("float32", "channels-last"),
        ("ours", "channels-last"),
    ]
    for m in found["measurements"]:
        assert m["peak_bytes"] > 0 and m["imported_bytes"] > 50 << 20
        assert 0 < m["activation_bytes"] <= m["saved_bytes"] * 1.001
    assert found["ratio"]["peak"] > 0 and found["ratio"]["saved"] > 0
    assert found["ours"]["backend"] == {"torch": 6, "reference": 6}
    text = plain(found)
    assert "kept for backward: float32 takes" in text and "allocator: default" in text


def test_kept_bytes_agree_with_the_allocator() -> None:
    made = make_workload("cnn", batch=8, size=16)
    kept, alive = saved_bytes(made, made.model), alive_bytes(made, made.model)
    images = made.args[0].numel() * 4  # kept, but alive before
    assert abs(kept - images - alive) < 0.02 * kept


def test_the_high_water_mark_rises_with_use_and_never_falls() -> None:
    before = high_water()
    block = bytearray(32 << 20)
    block[::4096] = b"x" * len(block[::4096])
    after = high_water()
    del block
    slack = 1 << 20  # the kernel counts pages in batches, thread by thread
    assert after >= before - slack and high_water() >= after - slack


def test_what_a_process_says_reaches_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="unknown backend"):
        in_a_process(MemoryConfig(model="cnn", backend="cuda"), "ours", "contiguous")


@pytest.mark.parametrize(
    ("code", "says"),
    [("import sys; sys.exit('boom')", "status 1: boom"), ("print('x')", "no message")],
)
def test_a_process_that_dies_is_no_result(
    code: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = memory.subprocess.run

    def instead(command: list[str], **options: Any) -> Any:
        return run([sys.executable, "-c", code], **options)

    monkeypatch.setattr(memory.subprocess, "run", instead)
    with pytest.raises(NybbleError, match=says):
        in_a_process(MemoryConfig(model="cnn"), "ours", "contiguous")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 0}, "steps must be"),
        ({"allocator": "mine"}, "default or keep"),
        ({"model": "x"}, "x"),
    ],
)
def test_bad_configurations(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        MemoryConfig(**options)
