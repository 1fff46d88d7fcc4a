"""Models that can be measured: the built-in ones, and a user's own in each form it may take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nybble.errors import UserError
from nybble.studies.speed.forms import (
    CHANNELS_LAST,
    backends_of,
    float32_side,
    four_bit_model,
    four_bit_side,
)
from nybble.studies.speed.workload import at_batch, check_name, make_workload

USERS = """
import torch
from torch import nn

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x, bias=None):
        y = self.b(torch.relu(self.a(x)))
        return {"logits": y if bias is None else y + bias}

def only_model(num_classes, in_channels, batch):
    assert batch == 6
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 16, num_classes))

def with_tensor():
    return Pair(), torch.randn(6, 8)

def with_keywords(batch):
    return Pair(), {"x": torch.randn(batch, 8), "bias": torch.ones(4)}

def with_tuple():
    return Pair(), (torch.randn(6, 8), torch.ones(4))

def with_loss():
    return Pair(), torch.randn(6, 8), lambda output: output["logits"].abs().sum()

def nothing():
    return None

def bad_loss():
    return Pair(), torch.randn(6, 8), 3

def no_tensor():
    class Empty(nn.Module):
        def forward(self, x):
            return "text"
    return Empty(), torch.randn(6, 8)
"""


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_bench_models.py").write_text(USERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_bench_models"


@pytest.mark.parametrize(
    "function", ["only_model", "with_tensor", "with_keywords", "with_tuple", "with_loss"]
)
def test_a_users_model_is_stepped_on_both_sides(users: str, function: str) -> None:
    made = make_workload(f"{users}:{function}", batch=6, size=4, channels=1)
    float32_side(made, "contiguous").step()
    four_bit_side(made, "sun2020:first_last=int4", "reference", "none").step()
    assert made.run(made.model).requires_grad


@pytest.mark.parametrize(
    ("function", "says"),
    [("nothing", "it returned NoneType"), ("bad_loss", "not int"), ("gone", "no function 'gone'")],
)
def test_what_a_users_function_may_not_return(users: str, function: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_workload(f"{users}:{function}", batch=6)


def test_an_output_without_a_tensor_is_one_clear_line(users: str) -> None:
    made = make_workload(f"{users}:no_tensor", batch=6)
    with pytest.raises(UserError, match="no floating-point tensor"):
        made.run(made.model)


def test_the_same_batch_and_weights_every_time_and_the_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b = (make_workload("resnet8", batch=2, size=16) for _ in range(2))
    assert torch.equal(a.args[0], b.args[0])
    assert torch.equal(a.model.fc.weight, b.model.fc.weight)  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_side_copies_the_model_and_lays_it_out() -> None:
    made = make_workload("cnn", batch=2, size=16)
    weight = next(made.model.parameters()).detach().clone()
    side = float32_side(made, CHANNELS_LAST)
    side.step()
    four_bit_side(made, "sun2020", "reference", "none").step()
    assert torch.equal(next(made.model.parameters()), weight)
    first = next(p for p in side.model.parameters() if p.dim() == 4 and p.shape[1] > 1)
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_the_transformer_is_4_bit_in_its_blocks_and_float32_in_its_head() -> None:
    made = make_workload("transformer", batch=1)
    assert made.input == "int64 [1, 128]" and not made.has_images
    side = four_bit_side(made, "sun2020:gradients=radix2", "reference", "none")
    from nybble.nn.registry import quantized_layers

    layers = dict(quantized_layers(side.model))
    assert len(layers) == 16 and "head" not in layers
    formats = {layer.nybble_spec.slot("grad_input_grad").format.name for layer in layers.values()}  # type: ignore[union-attr]
    assert formats == {"fp4_radix2"}


def test_a_smaller_batch_of_the_same_example(users: str) -> None:
    made = make_workload(f"{users}:with_tensor", batch=6)
    smaller = at_batch(made, 3)
    assert smaller is not None and smaller.input == "float32 [3, 8]"
    assert at_batch(made, 6) is None
    assert at_batch(make_workload(f"{users}:with_keywords", batch=6), 3) is None  # 6 and 4


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'transformer'"):
        check_name("transfomer")


def test_no_gemm_of_the_lstm_is_wider_than_4_bits() -> None:
    made = make_workload("lstm", batch=2)
    assert made.input == "float32 [2, 64, 512]"
    model, _ = four_bit_model(made, "sun2020", "reference", "none")
    assert backends_of(model) == {"reference": 12}
    assert made.run(model).isfinite()
