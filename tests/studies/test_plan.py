"""Plans: the order of runs, what they share, and whose folder OUT is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nybble.errors import UserError
from nybble.studies.plan import Plan, claim, shared
from nybble.training.config import TrainConfig

BASE = TrainConfig(data="mnist5k", model="cnn", epochs=2)


def test_pairs_finish_together() -> None:
    plan = Plan(BASE, ("fp32", "a", "b"), (3, 1), Path("o"))
    order = [(c.seed, c.recipe) for c in plan.configs()]
    assert order == [(3, "fp32"), (3, "a"), (3, "b"), (1, "fp32"), (1, "a"), (1, "b")]


def test_every_run_has_its_own_folder_and_the_shared_settings() -> None:
    configs = Plan(BASE, ("fp32", "r:a=1", "r:a=2"), (0, 1), Path("o")).configs()
    assert len({c.out for c in configs}) == 6
    assert {c.epochs for c in configs} == {2}
    assert configs[1].out == "o/r@a=1-seed0"


def test_rules_do_not_apply_to_float32() -> None:
    base = TrainConfig(rules=(("fc", "none"),))
    rules = {c.recipe: c.rules for c in Plan(base, ("fp32", "sun2020"), (0,), Path("o")).configs()}
    assert rules == {"fp32": (), "sun2020": (("fc", "none"),)}


def test_shared_settings_leave_out_recipe_seed_and_session() -> None:
    assert shared(TrainConfig(recipe="a", seed=1, out="x", quiet=True)) == shared(TrainConfig())
    assert shared(TrainConfig(epochs=3)) != shared(TrainConfig(epochs=4))
    assert shared(TrainConfig(model="resnet8"))["lr"] == 0.2


def test_a_new_folder_is_claimed_and_known_again(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    assert claim(out, BASE) is False
    assert claim(out, BASE) is True
    empty = tmp_path / "empty"
    empty.mkdir()
    assert claim(empty, BASE) is False


def test_another_comparison_is_refused_and_left_alone(tmp_path: Path) -> None:
    claim(tmp_path / "o", BASE)
    before = (tmp_path / "o" / "plan.json").read_bytes()
    with pytest.raises(UserError, match="another comparison: epochs is 2 there, 5 asked"):
        claim(tmp_path / "o", TrainConfig(data="mnist5k", model="cnn", epochs=5))
    assert (tmp_path / "o" / "plan.json").read_bytes() == before


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not empty and holds no comparison"):
        claim(tmp_path, BASE)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="it is a file"):
        claim(tmp_path / "thesis.tex", BASE)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "x/1"}', '{"schema": "nybble.plan/1"}'])
def test_a_damaged_plan_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match=r"plan\.json cannot be read"):
        claim(tmp_path, BASE)


def test_the_plan_is_readable_json(tmp_path: Path) -> None:
    claim(tmp_path / "o", BASE)
    data = json.loads((tmp_path / "o" / "plan.json").read_text())
    assert data["configuration"]["model"] == "cnn"
    assert "seed" not in data["configuration"]
