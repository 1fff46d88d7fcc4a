"""A tiny comparison from end to end with real training, and its restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nybble.errors import UserError
from nybble.studies import compare as study
from nybble.studies.compare import CompareConfig, compare
from nybble.studies.record import read_record
from nybble.training import loop
from nybble.training.config import TrainConfig

pytest.importorskip("mlxtend")

BASE = TrainConfig(
    model="cnn", epochs=1, batch_size=32, limit_train=96, limit_test=40, threads=1, quiet=True
)
BEST = ("sun2020:factor=1.848", "sun2020:phases=odd-even")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompareConfig, dict[str, Any]]:
    out = tmp_path_factory.mktemp("compare") / "out"
    config = CompareConfig(
        BASE, ("fp32", "sun2020"), (0, 1), out, step_pairs=2, best_of=BEST, select_seeds=(10,)
    )
    before = torch.get_num_threads()
    record = compare(config)
    assert torch.get_num_threads() == before
    return config, record


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Training is forbidden; the list collects the attempts."""
    tried: list[tuple[str, int]] = []

    def refuse(config: TrainConfig) -> None:
        tried.append((config.recipe, config.seed))
        raise RuntimeError("not in this test")

    monkeypatch.setattr(loop, "train", refuse)
    return tried


def test_every_run_is_there_and_complete(finished: Any) -> None:
    config, record = finished
    winner = record["selection"]["winner"]
    assert winner in BEST
    assert record["recipes"] == ["fp32", "sun2020", winner]
    assert [(r["seed"], r["recipe"], r["status"]) for r in record["runs"]] == [
        (seed, recipe, "complete") for seed in (0, 1) for recipe in record["recipes"]
    ]
    assert all(0 <= r["metric"] <= 100 and r["saved_bytes"] > 0 for r in record["runs"])
    assert record == read_record(config.out / "comparison.json")


def test_rows_are_paired_and_the_chosen_one_is_marked(finished: Any) -> None:
    _, record = finished
    rows = {row["recipe"]: row for row in record["rows"]}
    assert rows["fp32"]["difference"] is None
    assert rows["sun2020"]["difference"]["n"] == 2
    want = [
        a - b
        for a, b in zip(
            rows["sun2020"]["metric"]["values"], rows["fp32"]["metric"]["values"], strict=True
        )
    ]
    assert rows["sun2020"]["difference"]["differences"] == want
    assert [row["selected"] is not None for row in record["rows"]] == [False, False, True]
    assert rows["sun2020"]["saved_bytes"] < rows["fp32"]["saved_bytes"]


def test_the_choice_ran_on_other_seeds_and_the_best_mean_won(finished: Any) -> None:
    config, record = finished
    selection = record["selection"]
    assert selection["seeds"] == [10]
    means = {c["recipe"]: c["mean"] for c in selection["candidates"]}
    assert set(means) == set(BEST)
    assert means[selection["winner"]] == max(means.values())
    folders = sorted(p.name for p in (config.out / "selection-1").iterdir())
    assert folders == ["sun2020@factor=1.848-seed10", "sun2020@phases=odd-even-seed10"]


def test_step_times_say_how_they_were_measured(finished: Any) -> None:
    _, record = finished
    timing = record["timing"]
    assert (timing["threads"], timing["batch_size"], timing["pairs"]) == (1, 32, 2)
    assert timing["backend"]["fp32"] == "torch"
    assert timing["backend"]["sun2020"] in ("reference", "native")
    assert timing["ratios"]["fp32"]["wall"]["median"] == 1.0
    assert timing["ratios"]["sun2020"]["wall"]["median"] > 0
    assert record["rows"][1]["step_time"] == timing["ratios"]["sun2020"]


def test_a_second_call_trains_nothing_and_finds_the_same(
    finished: Any, no_training: list[tuple[str, int]]
) -> None:
    config, record = finished
    again = compare(replace(config, step_pairs=0))
    assert no_training == []
    assert all(run["reused"] for run in again["runs"])
    for old, new in zip(record["rows"], again["rows"], strict=True):
        assert old["metric"] == new["metric"] and old["difference"] == new["difference"]
    assert again["timing"] is None
    compare(replace(config, step_pairs=1))


def test_seeds_and_recipes_can_be_added_and_only_they_run(
    finished: Any, no_training: list[tuple[str, int]]
) -> None:
    config, _ = finished
    more = replace(
        config, seeds=(0, 1, 2), recipes=("fp32", "bf16"), best_of=(), select_seeds=(), step_pairs=0
    )
    record = compare(more)
    assert no_training == [("bf16", 0), ("bf16", 1), ("fp32", 2), ("bf16", 2)]
    assert record["rows"][0]["finished"] == 2
    assert record["rows"][0]["problems"] == ["seed 2 failed: RuntimeError: not in this test"]


def test_another_comparison_in_the_folder_is_refused(
    finished: Any, no_training: list[tuple[str, int]]
) -> None:
    config, _ = finished
    before = (config.out / "comparison.json").read_bytes()
    with pytest.raises(UserError, match="another comparison: epochs is 1 there, 3 asked"):
        compare(replace(config, base=replace(BASE, epochs=3)))
    assert (config.out / "comparison.json").read_bytes() == before
    assert no_training == []


def test_the_same_run_alone_gives_the_same_accuracy(finished: Any, tmp_path: Path) -> None:
    _, record = finished
    run = record["runs"][1]
    alone = loop.train(
        replace(BASE, recipe=run["recipe"], seed=run["seed"], out=str(tmp_path / "alone"))
    )
    assert 100 * alone["final"]["test_accuracy"] == run["metric"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"recipes": ("fp32", "sun2002")}, "sun2002"),
        ({"recipes": ("sun2020:colour=red",)}, "colour"),
        ({"base": replace(BASE, data="mnist5")}, "mnist5"),
        ({"base": replace(BASE, model="resnet9")}, "resnet9"),
        ({"base": replace(BASE, rules=(("nowhere", "none"),))}, "nowhere"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    config = CompareConfig(BASE, ("fp32", "sun2020"), (0,), tmp_path / "out")
    with pytest.raises(UserError, match=reason):
        compare(replace(config, **change))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"step_pairs": -1}, "step_pairs must be at least 0"),
        ({"seeds": ()}, "at least one"),
        ({"best_of": BEST}, "needs --select-seeds"),
        ({"best_of": BEST, "select_seeds": (5, 1)}, "seed 1 is in --seeds and in --select-seeds"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any], reason: str) -> None:
    config = CompareConfig(BASE, ("fp32",), (0, 1), Path("out"))
    with pytest.raises(UserError, match=reason):
        replace(config, **change)


def choice_of(
    values: dict[str, list[float | None]], monkeypatch: Any, higher: bool = True
) -> dict[str, Any]:
    from nybble.studies.outcome import Outcome

    def fake(configs: list[TrainConfig], **_: Any) -> list[Outcome]:
        found = []
        for c in configs:
            value = values[c.recipe][c.seed - 10]
            status = "failed" if value is None else "complete"
            found.append(Outcome(c.recipe, c.seed, status, "", value))
        return found

    monkeypatch.setattr(study, "run_all", fake)
    config = CompareConfig(
        BASE, ("fp32",), (0,), Path("o"), best_of=tuple(values), select_seeds=(10, 11)
    )
    return study.choose(config, higher, lambda line: None)


def test_choice_by_the_mean_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, list[float | None]] = {"a": [90.0, 80.0], "b": [86.0, 86.0], "c": [1.0, 2.0]}
    assert choice_of(values, monkeypatch)["winner"] == "b"
    assert choice_of(values, monkeypatch, higher=False)["winner"] == "c"


def test_a_setting_with_a_failed_run_cannot_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choice_of({"a": [99.0, None], "b": [50.0, 50.0]}, monkeypatch)["winner"] == "b"
    none = choice_of({"a": [None, 99.0]}, monkeypatch)
    assert none["winner"] is None
    assert none["candidates"] == [{"recipe": "a", "values": [None, 99.0], "mean": 99.0}]


def test_of_equal_means_the_first_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, list[float | None]] = {"z": [50.0, 50.0], "a": [50.0, 50.0]}
    assert choice_of(values, monkeypatch)["winner"] == "z"


def test_the_command_repeats_the_comparison(finished: Any) -> None:
    import shlex

    from nybble.cli.app import COMMANDS
    from nybble.cli.compare import command

    config, record = finished
    words = shlex.split(record["command"])
    assert words[:3] == ["nybble", "compare", "vision"] and words[1] in COMMANDS
    given = dict(zip(words[3::2], words[4::2], strict=True))
    names = {f"--{name.replace('_', '-')}" for name in command.__annotations__}
    assert set(given) <= names
    assert given["--recipes"] == "fp32,sun2020" and given["--seeds"] == "0,1"
    assert given["--best-of"] == ",".join(BEST) and given["--limit-train"] == "96"
    assert str(config.out) not in record["command"]
