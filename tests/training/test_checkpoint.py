"""Checkpoints: exact, atomic, checked; nothing that is damaged is ever used."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nybble.errors import UserError
from nybble.training.checkpoint import _digest, available, load_checkpoint, save_checkpoint
from nybble.training.config import TrainConfig
from nybble.training.files import write_atomic
from nybble.training.flatten import flatten, unflatten
from nybble.training.loop import train


def content(value: float) -> dict[str, Any]:
    return {"weight": torch.full((3,), value), "n": [1, {"x": float(value)}]}


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    view = torch.arange(12.0).view(3, 4)
    nested = {
        "a": view[:, 1],  # not contiguous, part of a larger storage
        "tied": view,
        "tied again": view,
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(7),
        "bits": torch.tensor([True, False]),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "nan": torch.tensor([math.nan, -0.0]),
        3: (None, True, 2**70, "text", 0.1),
        "3": [math.inf, -math.inf, -0.0],
        "dots.in.keys": {"in.keys": torch.tensor([1.0])},
        "dots": {"in.keys": {"in": {"keys": torch.tensor([2.0])}}},
    }
    save_checkpoint(tmp_path, 5, nested)
    found = load_checkpoint(tmp_path)
    assert found is not None and found.step == 5
    loaded = found.content
    assert list(loaded) == list(nested)
    for key in ("a", "tied", "tied again", "empty", "scalar", "bits", "half"):
        assert loaded[key].dtype == nested[key].dtype
        assert torch.equal(loaded[key], nested[key])
    assert loaded["nan"].numpy().tobytes() == nested["nan"].numpy().tobytes()
    assert loaded[3] == nested[3]
    assert loaded["3"] == nested["3"] and math.copysign(1, loaded["3"][2]) == -1
    assert loaded["dots.in.keys"]["in.keys"].item() == 1
    assert loaded["dots"]["in.keys"]["in"]["keys"].item() == 2


def test_a_nan_survives_the_structure() -> None:
    assert math.isnan(unflatten(*flatten({"x": math.nan}))["x"])


@pytest.mark.parametrize("value", [object(), {1.5: 2}, {"x": {4, 5}}, torch.eye(2).to_sparse()])
def test_what_cannot_be_saved_is_named(value: Any) -> None:
    with pytest.raises(UserError, match=r"top\.deep.* cannot be saved"):
        flatten({"deep": value}, "top")


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "LBFGS"])
def test_every_kind_of_optimizer_state(name: str, tmp_path: Path) -> None:
    def make() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 2)
        options = {"momentum": 0.9} if name == "SGD" else {}
        return model, getattr(torch.optim, name)(model.parameters(), lr=0.01, **options)

    def steps(model: torch.nn.Linear, optimizer: torch.optim.Optimizer, count: int) -> None:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (model(torch.ones(3, 4)) ** 2).sum()
            loss.backward()
            return loss

        for _ in range(count):
            optimizer.step(closure)

    model, optimizer = make()
    steps(model, optimizer, 3)
    save_checkpoint(tmp_path, 3, {"m": model.state_dict(), "o": optimizer.state_dict()})
    steps(model, optimizer, 2)
    found = load_checkpoint(tmp_path)
    assert found is not None
    other, other_optimizer = make()
    other.load_state_dict(found.content["m"])
    other_optimizer.load_state_dict(found.content["o"])
    steps(other, other_optimizer, 2)
    assert torch.equal(other.weight, model.weight)


def test_the_newest_and_the_one_before_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save_checkpoint(tmp_path, step, content(step))
    (tmp_path / ".step-000000004.json.tmp").write_text("left by a killed process")
    save_checkpoint(tmp_path, 11, content(11))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000010.json",
        "step-000000010.safetensors",
        "step-000000011.json",
        "step-000000011.safetensors",
    ]


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def damage_flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_remove(path: Path) -> None:
    path.unlink()


def damage_number(path: Path) -> None:
    path.write_text(path.read_text().replace('"x", 2.0', '"x", 3.0'))


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".safetensors", damage_truncate),
        (".safetensors", damage_flip),
        (".safetensors", damage_empty),
        (".safetensors", damage_remove),
        (".json", damage_truncate),
        (".json", damage_flip),
        (".json", damage_empty),
        (".json", damage_number),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_previous_used(
    suffix: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, 1, content(1))
    path = save_checkpoint(tmp_path, 2, content(2)).with_suffix(suffix)
    before = path.read_bytes()
    damage(path)
    assert not path.exists() or path.read_bytes() != before
    found = load_checkpoint(tmp_path)
    assert found is not None and found.step == 1
    assert found.content["n"][1]["x"] == 1.0
    assert len(found.problems) == 1 and "step-000000002.json cannot be used" in found.problems[0]
    # going on replaces the damaged one; it does not push out the whole one
    save_checkpoint(tmp_path, 2, content(2.5))
    found = load_checkpoint(tmp_path)
    assert found is not None and found.problems == () and found.content["n"][1]["x"] == 2.5
    assert [step for step, _ in available(tmp_path)] == [2, 1]


def test_a_damaged_later_checkpoint_is_not_counted_as_one_to_keep(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 10, content(10))
    damage_flip(save_checkpoint(tmp_path, 20, content(20)))
    save_checkpoint(tmp_path, 12, content(12))
    assert [step for step, _ in available(tmp_path)] == [12, 10]


def test_all_damaged_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    damage_flip(save_checkpoint(tmp_path, 1, content(1)))
    damage_truncate(save_checkpoint(tmp_path, 2, content(2)))
    with pytest.raises(UserError, match=r"No checkpoint in .* used: .*000002.*000001.*Delete"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"tensors": None}, {"tensors": {}}, {"content": None}, {"content": [1]}, {"content": "x"}],
)
def test_wrong_content_under_a_right_checksum_is_damage(
    change: dict[str, Any], tmp_path: Path
) -> None:
    path = save_checkpoint(tmp_path, 1, content(1))
    record = {**json.loads(path.read_text()), **change}
    record["sha256"] = _digest(record)
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"No checkpoint .* cannot be used: .*its content is"):
        load_checkpoint(tmp_path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, content(1))
    record = json.loads(path.read_text())
    record["schema_version"] = 99
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="schema version is 99"):
        load_checkpoint(tmp_path)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "nowhere") is None


def full_disk(monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    """Let `allowed` files be synced; then the disk is full."""
    original = os.fsync
    count = {"left": allowed}

    def fsync(handle: int) -> None:
        count["left"] -= 1
        if count["left"] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("allowed", [0, 1, 2, 3])
def test_a_full_disk_leaves_the_previous_checkpoint(
    allowed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 1, content(1))
    with monkeypatch.context() as patch:
        full_disk(patch, allowed)
        with pytest.raises(UserError, match=r"step 2 .* the disk is full.*\(step 1\) is intact"):
            save_checkpoint(tmp_path, 2, content(2))
    found = load_checkpoint(tmp_path)
    assert found is not None
    # when only the last sync (of the folder) failed, the files themselves are whole
    assert found.step == (2 if allowed == 3 else 1) and found.problems == ()
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_full_disk_during_training_is_one_error_and_resumes(
    tiny: Callable[..., TrainConfig],
    tmp_path: Path,
    final_state: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny(checkpoint_every=2)
    train(config)
    stopped = replace(config, out=str(tmp_path / "full"))
    with monkeypatch.context() as patch:
        full_disk(patch, 16)
        with pytest.raises(UserError, match=r"the disk is full.*\(step [2468]\) is intact"):
            train(stopped)
    train(replace(stopped, resume=True))
    assert final_state(stopped) == final_state(config)


def test_an_atomic_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    full_disk(monkeypatch, 0)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_an_atomic_write_syncs_renames_and_syncs_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    events: list[str] = []
    fsync, rename = os.fsync, os.replace

    def watched_fsync(handle: int) -> None:
        events.append("sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")
        fsync(handle)

    def watched_rename(source: Path, target: Path) -> None:
        assert Path(source).read_bytes() == b"new" and path.read_bytes() == b"old"
        assert Path(source).parent == tmp_path and target == path
        events.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_rename)
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert events == ["sync file", "rename", "sync folder"]
