"""Interleaved timing: order, what is counted, and that a slow stretch does not move the ratio."""

from __future__ import annotations

import time

import pytest
import torch

from nybble.errors import UserError
from nybble.studies.steptime import Sample, interleave, ratios, training_step


def busy(milliseconds: float) -> None:
    end = time.perf_counter() + milliseconds / 1000
    while time.perf_counter() < end:
        pass


def test_every_round_takes_every_step_once_in_alternating_order() -> None:
    order: list[str] = []
    steps = {name: (lambda name=name: order.append(name)) for name in "abc"}
    done: list[tuple[int, int]] = []
    samples = interleave(steps, pairs=3, warmup=1, progress=lambda a, b: done.append((a, b)))
    assert "".join(order) == "abccbaabccba"
    assert {len(s) for s in samples.values()} == {3}
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_slow_stretch_of_the_machine_does_not_move_the_ratio() -> None:
    turn = {"a": 0, "b": 0}

    def step(name: str, cost: float) -> None:
        turn[name] += 1
        busy(cost * (4 if turn[name] > 3 else 1))

    steps = {"a": lambda: step("a", 2.0), "b": lambda: step("b", 4.0)}
    found = ratios(interleave(steps, pairs=7, warmup=0), "a")
    assert found["b"]["wall"]["median"] == pytest.approx(2.0, rel=0.2)
    assert found["a"]["wall"]["median"] == 1.0


def test_ratios_are_within_rounds() -> None:
    samples = {
        "a": [Sample(1.0, 1.0), Sample(10.0, 10.0), Sample(1.0, 1.0)],
        "b": [Sample(2.0, 3.0), Sample(20.0, 30.0), Sample(2.2, 3.3)],
    }
    found = ratios(samples, "a")["b"]
    assert found["wall"]["median"] == 2.0
    assert (found["cpu"]["min"], found["cpu"]["max"]) == (3.0, 3.3)
    assert found["wall_ms"] == 2200.0


def test_no_pairs_are_refused() -> None:
    with pytest.raises(UserError, match="0 pairs"):
        interleave({"a": lambda: None}, pairs=0)


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_training_step_is_sgd_and_the_loss_scale_cancels(scale: float) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    torch.nn.functional.cross_entropy(model(x), y).backward()
    want = model.weight.detach() - 0.5 * model.weight.grad
    training_step(model, torch.nn.functional.cross_entropy, x, y, scale, lr=0.5)()
    assert torch.allclose(model.weight, want, atol=1e-7)


def test_frozen_weights_stay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    step = training_step(
        model, torch.nn.functional.cross_entropy, torch.ones(1, 3), torch.tensor([0]), 2.0
    )
    step()
    assert torch.equal(model[0].weight, before)
