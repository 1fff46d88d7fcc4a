"""What a run computes and records."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nybble.training import machine
from nybble.training.config import TrainConfig
from nybble.training.loop import Run, train
from nybble.training.optimizers import build_optimizer
from nybble.training.result import read_result
from nybble.training.schedule import factor
from nybble.training.signals import Interrupted
from nybble.training.tasks import vision
from nybble.training.tasks.vision import VisionTask

Make = Callable[..., TrainConfig]


def test_the_loop_is_plain_sgd(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights and numbers as a loop written out by hand."""
    monkeypatch.setattr(vision, "TEST_BATCH", 8)  # 20 images: the last batch is smaller
    config = tiny(weight_decay=0.01, schedule="cosine", warmup=0.25)
    run = Run(config)
    model = Run(config).model
    run.train()
    task = VisionTask(config)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    other = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 0.01}, {"params": other}],
        lr=1.0,
        momentum=0.9,
        nesterov=True,
    )
    losses = []
    for step in range(12):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * factor("cosine", step, 12, 0.25)
        x, y = task.batch(step // 4, step % 4)
        loss = F.cross_entropy(model.train()(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    expected = model.state_dict()
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, expected[name])
    record = read_result(config.run_folder())
    assert record is not None
    assert record["epochs"][2]["train_loss"] == pytest.approx(sum(losses[8:]) / 4, rel=1e-12)
    model.eval()
    correct = sum((model(x).argmax(1) == y).sum().item() for x, y in task.test_batches())
    assert record["final"]["test_accuracy"] == correct / 20
    x, y = task.batches.test_batch(0, 20)
    with torch.no_grad():
        expected_loss = F.cross_entropy(model(x), y).item()
    assert record["final"]["test_loss"] == pytest.approx(expected_loss, rel=1e-5)


@pytest.mark.parametrize("recipe", ["sun2020", "hfp8"])
def test_every_recipe_sees_the_same_weights_and_batches(
    recipe: str, tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Any]] = {}

    def watch(name: str) -> None:
        config = tiny(recipe=name, seed=5, epochs=2, out=str(tmp_path / name))
        run = Run(config)
        original = run.task.batch
        entries = seen.setdefault(name, [])
        entries += [p.detach().clone() for n, p in run.model.named_parameters() if "weight" in n]

        def batch(epoch: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
            x, y = original(epoch, step)
            entries.extend([x.clone(), y.clone()])
            return x, y

        monkeypatch.setattr(run.task, "batch", batch)
        run.train()

    torch.manual_seed(1)
    watch("fp32")
    torch.manual_seed(2)
    watch(recipe)
    assert len(seen["fp32"]) > 20
    for one, two in zip(seen["fp32"], seen[recipe], strict=True):
        assert torch.equal(one, two)


def test_seeds_change_weights_and_the_caller_keeps_its_generators(tiny: Make) -> None:
    torch.manual_seed(3)
    np.random.seed(4)
    random.seed(5)
    expected = torch.rand(3), np.random.rand(), random.random()
    torch.manual_seed(3)
    np.random.seed(4)
    random.seed(5)
    one = train(tiny())
    found = torch.rand(3), np.random.rand(), random.random()
    assert torch.equal(expected[0], found[0]) and expected[1:] == found[1:]
    config = tiny(seed=1)
    two = train(replace(config, out=f"{config.out}-2"))
    assert one["epochs"][0]["train_loss"] != two["epochs"][0]["train_loss"]


def test_it_learns(tiny: Make) -> None:
    record = train(tiny(epochs=40, augmentation="none"))
    assert record["epochs"][-1]["train_loss"] < 0.5 * record["epochs"][0]["train_loss"]


def test_a_loss_scale_does_not_change_the_weights(tiny: Make, tmp_path: Path) -> None:
    plain = Run(tiny())
    scaled = Run(tiny(loss_scale=1024.0, out=str(tmp_path / "scaled")))
    plain.train()
    scaled.train()
    for one, two in zip(plain.model.parameters(), scaled.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_an_overflow_under_a_loss_scale_skips_the_step_and_halves_the_scale(
    tiny: Make, tmp_path: Path, final_state: Any
) -> None:
    """FP16 ends at 65504, so 2^24 is too much at first; training then goes on, resumed or not."""
    config = tiny(recipe="fp16", loss_scale=2.0**24, epochs=10, checkpoint_every=1)
    run = Run(config)
    record = run.train()
    skipped = record["skipped_steps"]
    assert 2 < skipped < 30
    assert record["loss_scale"] == 2.0 ** (24 - skipped)
    assert record["warnings"][0].startswith("step 1 was skipped: a gradient is not finite")
    assert len(record["warnings"]) == skipped
    assert record["final"]["train_loss"] < record["epochs"][0]["train_loss"]
    assert all(bool(torch.isfinite(p).all()) for p in run.model.parameters())

    stopped = replace(config, out=str(tmp_path / "stopped"))
    other = Run(stopped)
    real = other.skip

    def stop_after_the_second() -> None:
        real()
        if other.state.skipped == 2:
            other.stop.signum = signal.SIGTERM

    other.skip = stop_after_the_second  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        other.train()
    train(replace(stopped, resume=True))
    assert final_state(stopped) == final_state(config)


def test_record(tiny: Make) -> None:
    config = tiny(threads=1)
    returned = train(config)
    record = read_result(config.run_folder())
    assert record == returned
    assert record["schema"] == "nybble.run" and record["schema_version"] == 1
    assert record["status"] == "complete" and record["error"] is None
    assert record["steps"] == record["total_steps"] == 12
    assert record["config"]["seed"] == record["seed"] == 0 and record["config"]["lr"] == 0.05
    assert record["data"]["train"] == 48 and record["data"]["augmentation"] == "crop-flip"
    assert record["model"]["parameters"] == 24_058
    assert record["machine"]["threads"] == 1
    assert set(record["machine"]) == {
        "cpu",
        "cores",
        "threads",
        "instructions",
        "system",
        "architecture",
    }
    assert record["versions"]["torch"] == torch.__version__
    assert record["commit"] == machine.commit()
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2, 3]
    for epoch in record["epochs"]:
        assert epoch["seconds"] > 0 and epoch["cpu_seconds"] > 0 and epoch["step_ms"] > 0
        assert 0 <= epoch["test_accuracy"] <= 1 and 0 <= epoch["train_accuracy"] <= 1
        assert epoch["gradients"]["dead"] == []
        assert epoch["gradients"]["nonzero"]["classifier.weight"] > 0.5
    elapsed = [epoch["elapsed_seconds"] for epoch in record["epochs"]]
    assert elapsed[2] == pytest.approx(sum(epoch["seconds"] for epoch in record["epochs"]))
    assert record["epochs"][2]["lr"] == pytest.approx(0.05 * factor("onecycle", 11, 12, 0.2))
    assert record["final"]["test_loss"] == record["epochs"][2]["test_loss"]
    log = (config.run_folder() / "log.txt").read_text()
    assert "tiny" in log or "fashion-mnist (48 train, 20 test)" in log
    assert "epoch 3/3" in log and "epoch 1/3 step 1/4" in log


def test_record_of_a_recipe(tiny: Make, tmp_path: Path) -> None:
    plain = train(tiny(model="resnet8", epochs=1))
    packed = train(tiny(model="resnet8", epochs=1, recipe="sun2020", out=str(tmp_path / "q")))
    assert plain["recipe"] == {"name": "fp32", "record": None}
    assert packed["recipe"]["name"] == packed["recipe"]["record"]["name"] == "sun2020"
    assert packed["dead_layers"] == []
    assert packed["saved_bytes"] not in (0, plain["saved_bytes"])


def test_weight_decay_groups() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    decayed, free = build_optimizer(model, TrainConfig(weight_decay=0.1, lr=0.5)).param_groups
    assert decayed["weight_decay"] == 0.1 and free["weight_decay"] == 0
    assert decayed["peak_lr"] == free["peak_lr"] == 0.5
    assert decayed["params"] == [model[0].weight]
    assert len(free["params"]) == 3


@pytest.mark.parametrize("name", ["onecycle", "cosine", "step", "constant"])
def test_schedules_rise_to_one_and_fall(name: str) -> None:
    values = [factor(name, step, 100, 0.2) for step in range(100)]
    assert all(0 < value <= 1 for value in values)
    assert max(values) == pytest.approx(1)
    assert values[0] < 0.06 and values.index(max(values)) <= 20
    tail = values[20:]
    assert tail == sorted(tail, reverse=True)
    last = {"onecycle": 0.0125, "cosine": 0.0004, "step": 0.01, "constant": 1.0}
    assert values[-1] == pytest.approx(last[name], abs=1e-4)
    assert factor(name, 0, 1, 0.0) > 0
    # a warm-up that ends between two steps does not overshoot
    assert max(factor(name, step, 12, 0.2) for step in range(12)) <= 1


def test_limits_choose_the_same_images_for_every_run(tiny: Make) -> None:
    one = VisionTask(tiny(limit_train=20, limit_test=5, seed=0)).data
    two = VisionTask(tiny(limit_train=20, limit_test=5, seed=9)).data
    assert len(one.train_x) == 20 and len(one.test_y) == 5
    assert torch.equal(one.train_x, two.train_x) and torch.equal(one.test_x, two.test_x)
