"""Generated pages are current, say where every table comes from, and records are never replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import nybble
from nybble.errors import UserError
from nybble.reports import docs
from nybble.reports.results import check_name, kind, load_all, save
from nybble.reports.table import markdown
from nybble.studies import sample

ROOT = Path(nybble.__file__).parents[2]


def bench_record(target: float | None = 1.6) -> dict[str, Any]:
    side = {"wall_ms": 30.0, "cpu_ms": 30.0}
    ratio = {"n": 9, "median": 1.5, "min": 1.4, "max": 1.7, "interval": None}
    recipe = {"wall_ms": 45.0, "cpu_ms": 45.0, "wall": ratio, "cpu": ratio}
    return {
        "schema": "nybble.bench/1",
        "bench": "emulation",
        "created": "2026-11-22T12:00:00+00:00",
        "command": "nybble bench emulation",
        "configuration": {
            "recipe": "sun2020",
            "baseline": "fp32",
            "model": "resnet14",
            "images": [64, 1, 28, 28],
            "backend": "reference",
            "pairs": 9,
        },
        "target": target,
        "measurements": [{"threads": 1, "baseline": side, "recipe": recipe}],
        "environment": {
            "versions": {"python": "3.11", "torch": "2.13.0"},
            "machine": {"cpu": "c", "cores": 2},
            "commit": "abc1234def5678",
        },
    }


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="not a source checkout")
def test_the_pages_of_this_project_are_current() -> None:
    old = [str(path.relative_to(ROOT)) for path in docs.stale(ROOT)]
    assert old == [], "run python -m nybble.reports.docs"


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="not a source checkout")
def test_every_record_of_this_project_has_a_known_schema() -> None:
    kinds = {name: kind(record) for name, record in load_all(ROOT / "results").items()}
    assert set(kinds.values()) <= {
        *("bench", "comparison", "depth", "hardware", "mutation", "study"),
    }, kinds


def test_results_page_names_the_record_and_the_command(tmp_path: Path) -> None:
    made = {"emulation": bench_record(), "made-up": sample.record()}
    text = docs.results_page(made)
    assert text.index("results/made-up.json") < text.index("results/emulation.json")
    assert markdown(made["made-up"]) in text
    assert "1.50x (1.40 to 1.70)" in text and "met." in text
    assert made["made-up"]["command"] in text
    assert "`abc1234def56`" in text
    assert docs.results_page({}).endswith("No study has been recorded yet.\n")


def test_mutation_record_is_a_table_by_file() -> None:
    made = {
        "kind": "mutation",
        "commit": "abc",
        "run": 10,
        "killed": 8,
        "timeout": 1,
        "survived": 1,
        "score": 0.9,
        "by_file": {"formats/log.py": {"killed": 8, "timeout": 1, "survived": 1}},
    }
    text = docs.results_page({"mutation": made})
    assert "9 of 10 small wrong changes" in text and "(90.0 %)" in text
    assert "| formats/log.py | 9 | 1 |" in text


def test_no_verdict_where_there_is_no_aim() -> None:
    assert "Aim" not in docs.results_page({"x": bench_record(target=None)})
    slow = bench_record(target=1.2)
    assert "not met" in docs.results_page({"x": slow})


def test_recipes_page_has_every_recipe_and_every_reason() -> None:
    from nybble.recipes import RECIPES, get_recipe

    text = docs.recipes_page()
    flat = " ".join(text.split())
    for name in RECIPES:
        assert f"\n## {name}\n" in text
        for switch in get_recipe(name).switches:
            assert " ".join(switch.why.split()) in flat
            assert f"default {switch.default}" in text


def test_writing_and_checking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert docs.main(["--check"]) == 1
    assert not (tmp_path / "docs").exists()
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0
    save(bench_record(), "new", tmp_path / "results")
    assert docs.main(["--check"]) == 1
    assert [path.name for path in docs.stale(tmp_path)] == ["results.md"]


def test_a_record_is_never_overwritten(tmp_path: Path) -> None:
    path = save(bench_record(), "a", tmp_path)
    assert json.loads(path.read_text()) == bench_record()
    for name in ("a", "a.json"):
        with pytest.raises(UserError, match="never overwritten"):
            save(sample.record(), name, tmp_path)
    assert json.loads(path.read_text()) == bench_record()


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "a b"])
def test_a_record_has_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="plain name"):
        check_name(name, tmp_path)


def test_results_holds_records_only(tmp_path: Path) -> None:
    assert load_all(tmp_path / "none") == {}
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UserError, match="no schema"):
        load_all(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_all(tmp_path)
