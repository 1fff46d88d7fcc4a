"""Worse training labels: how many, which, the same for every recipe; the test set stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nybble.errors import UserError
from nybble.training.config import TrainConfig
from nybble.training.loop import train
from nybble.training.tasks import make_task
from nybble.training.tasks.labels import long_tail, with_noise, worsened

Make = Callable[..., TrainConfig]


def test_so_many_labels_are_wrong_and_none_stays_what_it_was() -> None:
    labels = torch.arange(5).repeat(400)
    noisy = with_noise(labels, 5, 0.25, seed=3)
    changed = noisy != labels
    assert int(changed.sum()) == 500
    counts = torch.bincount(5 * labels[changed] + noisy[changed], minlength=25).view(5, 5)
    assert counts.diagonal().tolist() == [0] * 5
    assert int(counts.fill_diagonal_(25).min()) > 8  # 25 on average
    assert torch.equal(noisy, with_noise(labels, 5, 0.25, seed=3))
    assert not torch.equal(noisy, with_noise(labels, 5, 0.25, seed=4))
    assert torch.equal(with_noise(labels, 5, 1.0, 0) == labels, torch.zeros(2000, dtype=torch.bool))


def test_the_tail_falls_exponentially() -> None:
    labels = torch.arange(5).repeat(1000)[torch.randperm(5000)]
    kept = long_tail(labels, 5, 100.0, seed=0)
    assert torch.bincount(labels[kept]).tolist() == [1000, 316, 100, 32, 10]
    assert torch.equal(kept, kept.sort().values)
    assert torch.equal(kept, long_tail(labels, 5, 100.0, seed=0))
    assert not torch.equal(kept, long_tail(labels, 5, 100.0, seed=1))
    assert torch.bincount(labels[long_tail(labels, 5, 1e6, seed=0)])[-1] == 1


def test_a_small_class_keeps_what_it_has() -> None:
    labels = torch.tensor([0] * 100 + [1] * 4 + [2] * 60)
    kept = long_tail(labels, 3, 10.0, seed=0)
    assert torch.bincount(labels[kept]).tolist() == [100, 4, 10]


def test_both_together_and_neither() -> None:
    labels = torch.arange(2).repeat(100)
    values: dict[str, Any] = {"label_noise": 0.5, "imbalance": 10.0}
    found = worsened(labels, 2, 0, values, "x")
    assert found is not None
    assert len(found.kept) == 110
    assert int((found.labels != labels[found.kept]).sum()) == 55
    assert found.notes == (
        "imbalance 10: training items by class [100, 10]",
        "label noise 0.5: 55 training labels are wrong",
    )
    for nothing in ({}, {"label_noise": None, "imbalance": None}, {"label_noise": 0.0}):
        assert worsened(labels, 2, 0, nothing, "x") is None
    with pytest.raises(UserError, match="need at least two classes"):
        worsened(labels, 1, 0, values, "x")


def options(**values: object) -> tuple[tuple[str, str], ...]:
    return tuple((key, str(value)) for key, value in values.items())


def test_vision_trains_on_them_and_tests_on_clean_ones(tiny: Make) -> None:
    clean = make_task(tiny())
    worse = make_task(tiny(task_options=options(label_noise=0.5, imbalance=4), batch_size=4))
    other = make_task(
        tiny(task_options=options(label_noise=0.5, imbalance=4), batch_size=4, recipe="sun2020")
    )
    data: list[Any] = [task.data for task in (clean, worse, other)]  # type: ignore[attr-defined]
    assert torch.equal(data[0].test_y, data[1].test_y)
    assert torch.equal(data[0].test_x, data[1].test_x)
    assert len(data[1].train_y) < len(data[0].train_y)
    assert torch.equal(data[1].train_y, data[2].train_y)
    assert data[1].mean == data[0].mean
    # The pictures that stayed are those of the clean set, half of them under another label.
    place = [int((data[0].train_x == x).all((1, 2, 3)).nonzero()[0]) for x in data[1].train_x]
    wrong = data[0].train_y[place] != data[1].train_y
    assert int(wrong.sum()) == round(len(wrong) / 2)
    assert worse.describe()["sha256"] != clean.describe()["sha256"]
    assert len(worse.describe()["notes"]) == len(clean.describe()["notes"]) + 2
    _, target = worse.batch(0, 0)
    assert len(target) == 4
    record = train(tiny(task_options=options(label_noise=0.5), epochs=1))
    assert "label noise 0.5" in record["data"]["notes"][-1]


def test_a_run_without_the_options_is_the_run_it_was(tiny: Make) -> None:
    """They do not appear in its configuration, so older runs are resumed and their keys stay."""
    assert tiny().resolved().task_options == ()
    assert tiny().identity() == replace(tiny(), task_options=()).identity()


def test_texts(tmp_path: Path) -> None:
    rows = [{"text": f"word{i}", "label": "ab"[i % 2]} for i in range(80)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = TrainConfig(task="text", data=f"table:{tmp_path / 't.jsonl'}", batch_size=4)
    clean: Any = make_task(config)
    worse: Any = make_task(replace(config, task_options=options(label_noise=0.25, imbalance=2)))
    assert [label for _, label in worse.test] == [label for _, label in clean.test]
    assert len(worse.train) == 32 + 16
    before = dict(clean.train)
    assert sum(before[text] != label for text, label in worse.train) == 12
    assert len(worse.describe()["notes"]) == len(clean.describe()["notes"]) + 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"label_noise": "1.5"}, "label_noise=1.5: it must be at most 1"),
        ({"imbalance": "0.5"}, "imbalance=0.5: it must be at least 1"),
        ({"label_nose": "0.5"}, "label_noise"),
    ],
)
def test_bad_values(tiny: Make, given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_task(tiny(task_options=options(**given)))
