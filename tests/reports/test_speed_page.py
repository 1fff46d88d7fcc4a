"""docs/speed.md: an aim beside every figure that speaks of it, and the reason of a miss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nybble.reports import docs, speed_page
from nybble.studies.speed.profile import PLACES
from nybble.studies.speed.targets import (
    AIMS,
    KERNELS,
    NYBBLE4_RESNET18,
    RESNET18,
    SAVED_RESNET18,
)

RATIO = {"n": 9, "median": 1.9, "min": 1.8, "max": 2.0, "interval": None}
TIMES = {"cpu_ms": 10.0, "wall_ms": 11.0}
ENVIRONMENT = {
    "versions": {"python": "3.11", "torch": "2.13.0"},
    "machine": {"cpu": "c", "cores": 2},
    "commit": "abc1234def5678",
}


def record(bench: str, **parts: Any) -> dict[str, Any]:
    configuration = {
        "model": "resnet18",
        "batch": 32,
        "recipe": "sun2020",
        "input": "float32 [32, 3, 32, 32]",
        "activations": "4bit",
        "threads": 1,
        "rounds": 21,
        "steps": 3,
        "allocator": "default",
        "only": ["gemm"],
        "models": ["resnet18"],
    }
    return {
        "schema": "nybble.bench/1",
        "bench": bench,
        "created": "2026-11-22T12:00:00+00:00",
        "command": f"nybble bench {bench}",
        "configuration": configuration,
        "environment": ENVIRONMENT,
        **parts,
    }


def step_record(speedup: float) -> dict[str, Any]:
    side = {"ms": dict.fromkeys(PLACES, 10.0), "total_ms": 90.0}
    measurement = {
        "threads": 1,
        "decides": "cpu",
        "cpu": RATIO,
        "wall": RATIO,
        "float32": {"form": "contiguous", "tried": [], **TIMES},
        "ours": {"form": "channels-last", "backend": {"native": 54}, **TIMES},
    }
    return record(
        "step",
        speedup={"1": speedup},
        target=RESNET18.to_dict(),
        measurements=[measurement],
        profile={"threads": 1, "float32": side, "ours": side},
    )


def against_record(value: float) -> dict[str, Any]:
    found = step_record(2.4)
    found["configuration"] = {**found["configuration"], "recipe": "nybble4", "against": "sun2020"}
    other = {"cpu": {**RATIO, "median": value}, "wall": RATIO, "backend": {"native": 54}, **TIMES}
    found["measurements"][0]["against"] = other
    return {**found, "target": None, "against_target": NYBBLE4_RESNET18.to_dict()}


def memory_record() -> dict[str, Any]:
    side = {
        "side": "ours",
        "form": "channels-last",
        "saved_bytes": 100,
        "activation_bytes": None,
        "alive_bytes": 90,
        "peak_bytes": 1000,
    }
    return record(
        "memory",
        ratio={"saved": 6.0, "peak": None},
        targets={"saved": SAVED_RESNET18.to_dict(), "peak": None},
        measurements=[side],
    )


def kernels_record() -> dict[str, Any]:
    group = {
        "group": "gemm output",
        "threads": 1,
        "rows": 2,
        "least": 3.1,
        "median": 3.2,
        "most": 3.3,
        "target": KERNELS["gemm output"].to_dict(),
    }
    row = {
        "threads": 1,
        "name": "1 x 2 x 3, output",
        "decides": "cpu",
        "cpu": RATIO,
        "baseline": "mm",
        "float32_us": {"mm": 2000.0},
        "ours_us": 10.0,
    }
    return record("kernels", groups=[group], measurements=[row])


def peers_record() -> dict[str, Any]:
    row = {
        "model": "resnet18",
        "name": "nybble",
        "version": None,
        "note": None,
        "time": RATIO,
        "saved_bytes": 10,
        "float32_saved_bytes": 60,
        "gradients": "4 bits",
    }
    return record("peers", measurements=[row])


def page(records: dict[str, dict[str, Any]]) -> str:
    return speed_page.page(records, docs.MADE, docs.origin)


def test_without_records_every_aim_is_open() -> None:
    text = page({})
    assert text.count("not recorded yet") == len(AIMS)
    assert text.startswith(docs.MADE) and "Where an aim is missed" not in text


def test_every_kind_has_its_section_and_its_figures() -> None:
    made = {
        "a": step_record(2.2),
        "b": memory_record(),
        "c": kernels_record(),
        "d": peers_record(),
        "e": {"kind": "mutation"},
    }
    text = page(made)
    for heading in (
        "A whole step: resnet18",
        "Memory: resnet18",
        "Kernels: gemm",
        "Other packages",
    ):
        assert f"\n## {heading}" in text
    assert "batch 32, 1 thread: 2.20x (aim 2.0x: met; hard 2.5x: not met)" in text
    assert "batch 32: 6.00x (aim 5.0x: met; hard 7.0x: not met)" in text
    assert "1 thread, gemm output, 3.10 to 3.30, least: 3.10x" in text
    assert text.count("not recorded yet") == len(AIMS) - 3
    assert "Where an aim is missed" not in text
    assert "    nybble bench step" in text and "`abc1234def56`" in text


def test_a_miss_has_its_reason() -> None:
    text = page({"slow": step_record(1.5)})
    assert "`slow` (whole step, ResNet-18" in text
    assert "Reason: an aim of 2.0x allows 50 % of float32's step." in text
    noted = {**kernels_record(), "note": "Tails cost."}
    noted["groups"][0]["least"] = 2.0
    assert "Tails cost." in page({"k": noted})
    del noted["note"]
    assert "no reason has been recorded" in page({"k": noted})


def test_a_recipe_against_another_one() -> None:
    text = page({"turns": against_record(0.97)})
    assert "| 1.00x | - | 1 thread: 0.97x (aim 1.0x: not met) | `turns` |" in text
    assert "sun2020 took turns too (54 Gemms native): 10.0 ms with 1 thread" in text
    assert "Where an aim is missed" in text and "Where an aim" not in page({"a": against_record(1)})


def test_the_results_page_leaves_them_to_the_speed_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = docs.results_page({"a": step_record(2.2)})
    assert "speed.md" in text and "A whole step" not in text
    monkeypatch.chdir(tmp_path)
    assert docs.main([]) == 0
    assert "# Speed and memory" in Path("docs/speed.md").read_text()
    block = "<!-- results: a -->\n<!-- end of results -->"
    assert "**A whole step: resnet18" in docs.with_results(block, {"a": step_record(2.2)})
