"""Interleaved timing: order, what is counted, and that a slow stretch does not move the ratio."""

from __future__ import annotations

import pytest
import torch

from nybble.errors import UserError
from nybble.studies import steptime
from nybble.studies.steptime import Sample, interleave, ratios, training_step


class Clock:
    """A clock that only steps move; its CPU time runs at half the speed."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / 2


def test_every_round_takes_every_step_once_in_alternating_order() -> None:
    order: list[str] = []
    steps = {name: (lambda name=name: order.append(name)) for name in "abc"}
    done: list[tuple[int, int]] = []
    samples = interleave(steps, pairs=3, warmup=1, progress=lambda a, b: done.append((a, b)))
    assert "".join(order) == "abccbaabccba"
    assert {len(s) for s in samples.values()} == {3}
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_slow_stretch_of_the_machine_does_not_move_the_ratio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, turns = Clock(), {"a": 0, "b": 0}
    monkeypatch.setattr(steptime, "time", clock)

    def step(name: str, cost: float) -> None:
        turns[name] += 1
        clock.now += cost * (4 if turns[name] > 3 else 1)

    steps = {"a": lambda: step("a", 2.0), "b": lambda: step("b", 5.0)}
    samples = interleave(steps, pairs=7, warmup=1)
    assert [s.wall for s in samples["a"]] == [2.0, 2.0, 8.0, 8.0, 8.0, 8.0, 8.0]
    found = ratios(samples, "a")
    assert found["b"]["wall"]["median"] == found["b"]["cpu"]["median"] == 2.5
    assert found["b"]["wall"]["min"] == found["b"]["wall"]["max"] == 2.5
    assert found["a"]["wall"]["median"] == 1.0
    assert (found["a"]["wall_ms"], found["a"]["cpu_ms"]) == (8000.0, 4000.0)


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
