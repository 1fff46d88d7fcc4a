"""A run whose numbers stop being finite says where, and dead layers are noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nybble.training import diagnose
from nybble.training.config import TrainConfig
from nybble.training.loop import NonFiniteError, train
from nybble.training.saved import measure_saved_bytes
from nybble.training.watch import GradientWatch

Make = Callable[..., TrainConfig]

SOURCE = """
import torch
from torch import nn

class Forward(nn.Module):
    "An infinity in the forward pass of the fifth training step."
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.scale = nn.Parameter(torch.ones(()))
    def forward(self, x):
        if self.training:
            self.calls += 1
        return x * self.scale / (0 if self.calls == 5 else 1)

class Root(torch.autograd.Function):
    "Forward the identity; backward NaN."
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, g): return g * float("nan")

class Backward(nn.Module):
    def forward(self, x):
        return Root.apply(x)

class Weight(nn.Linear):
    "The gradient of the weight is infinite, the one of the input is finite."
    def forward(self, x):
        return super().forward(x) + (self.weight.sum() - self.weight.sum().detach()) * 1e38 * 1e38

class Dead(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 0 + x[:, :8]

def net(middle, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Sequential(nn.ReLU(), middle),
                         nn.Linear(8, num_classes))
def forward(num_classes): return net(Forward(), num_classes)
def backward(num_classes): return net(Backward(), num_classes)
def weight(num_classes): return net(Weight(8, 8), num_classes)
def dead(num_classes): return net(Dead(8, 8), num_classes)
"""


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "faulty_networks.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "faulty_networks", raising=False)
    return "faulty_networks"


@pytest.mark.parametrize(
    ("name", "step", "what", "place"),
    [
        (
            "forward",
            r"step 5 \(epoch 2, step 1\)",
            "the loss is (nan|inf)",
            r"in the forward pass: the output of layer '2\.1' \(Forward\)",
        ),
        (
            "backward",
            r"step 1 \(epoch 1, step 1\)",
            "a gradient is not finite",
            r"in the backward pass: the gradient that layer '2\.1' \(Backward\) gave its input",
        ),
        (
            "weight",
            r"step 1 \(epoch 1, step 1\)",
            "(the loss is nan|a gradient is not finite)",
            r"(the gradient of parameter '2\.1\.weight'|the output of layer '2\.1')",
        ),
    ],
)
def test_the_place_is_named(
    name: str, step: str, what: str, place: str, faulty: str, tiny: Make
) -> None:
    config = tiny(model=f"{faulty}:{name}", checkpoint_every=2)
    with pytest.raises(
        NonFiniteError, match=f"stopped at {step}: {what}.*arose .*{place}"
    ) as caught:
        train(config)
    assert "\n" not in str(caught.value)
    record = json.loads((config.run_folder() / "result.json").read_text())
    assert record["status"] == "failed" and record["error"] == str(caught.value)
    assert "failed: Training stopped" in (config.run_folder() / "log.txt").read_text()


def test_a_rate_that_is_too_high_is_found_in_some_layer(tiny: Make) -> None:
    with pytest.raises(NonFiniteError, match=r"Training stopped at step \d+ .* arose in the"):
        train(tiny(lr=1e30, warmup=0.0, schedule="constant", epochs=20))


def test_locate_names_weights_inputs_and_the_loss() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    x = torch.ones(1, 2)

    def loss(scale: float) -> Callable[[], Tensor]:
        return lambda: model(x).sum() * scale

    assert "nowhere" in diagnose.locate(model, loss(1.0), x)
    assert "in the loss" in diagnose.locate(model, loss(float("inf")), x)
    assert "in the input" in diagnose.locate(model, loss(1.0), x * float("nan"))
    with torch.no_grad():
        model[1].bias[0] = float("inf")
    assert "parameter '1.bias' was not finite" in diagnose.locate(model, loss(1.0), x)


def test_finite_gradients_whose_norm_overflows_are_finite() -> None:
    model = nn.Linear(2, 1)
    model.weight.grad = torch.tensor([[3e38, 3e38]])
    assert diagnose.gradients_finite(model)
    model.bias.grad = torch.tensor([float("nan")])
    assert not diagnose.gradients_finite(model)


def test_a_dead_layer_is_reported(faulty: str, tiny: Make) -> None:
    record = train(tiny(model=f"{faulty}:dead"))
    assert record["dead_layers"] == ["2.1"]
    assert [epoch["gradients"]["dead"] for epoch in record["epochs"]] == [["2.1"]] * 3
    assert record["epochs"][0]["gradients"]["nonzero"]["2.1.weight"] == 0
    assert "layer '2.1' got no weight gradient in the whole of epoch 1" in record["warnings"]


def test_watch_notices_a_gradient_between_the_samples() -> None:
    model = nn.Linear(2, 1, bias=False)
    watch = GradientWatch(model, steps_per_epoch=160)  # looks at every tenth step
    for step in range(20):
        model.weight.grad = torch.tensor([[1.0 if step == 13 else 0.0, 0.0]])
        watch.observe(step)
    nonzero, dead = watch.report()
    assert dead == [] and nonzero == {"weight": 0.0}
    watch.reset()
    assert watch.report()[1] == []  # nothing was looked at: nothing is known
    model.weight.grad = torch.zeros(1, 2)
    watch.observe(0)
    assert watch.report() == ({"weight": 0.0}, ["weight"])
    watch.reset()
    model.weight.grad = torch.tensor([[1.0, 0.0]])
    watch.observe(0)
    assert watch.report() == ({"weight": 0.5}, [])
    model.weight.grad = None
    watch.observe(10)
    assert watch.report() == ({"weight": 0.25}, [])


def test_saved_bytes_count_every_storage_once() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.ones(3, 4)
    with measure_saved_bytes(model) as saved:
        model(x).sum()
    # the input, and the ReLU's output once: saved by the ReLU and by the second layer
    assert saved.total == 4 * (3 * 4 + 3 * 8)
    with measure_saved_bytes(model) as saved, torch.no_grad():
        model(x).sum()
    assert saved.total == 0


def test_saved_bytes_see_what_a_function_saves() -> None:
    class Packed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(torch.zeros(10, dtype=torch.uint8))
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient

    with measure_saved_bytes(nn.Module()) as saved:
        out = Packed.apply(torch.ones(5, requires_grad=True))
    assert saved.total == 10 and out.requires_grad
