"""Batch norm's sums by hand; two-phase rounding gives it what one phase gives it."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from nybble.errors import UserError
from nybble.formats import FP4_RADIX4
from nybble.nn.registry import quantized_layers
from nybble.studies.views import ViewConfig, measure_batch_norm
from nybble.studies.views.batch_norm import (
    CONDITIONS,
    changed,
    compared,
    left_over,
    looks,
    roundings,
    under,
    watched,
)
from nybble.studies.views.run import short_run

SMALL = ViewConfig(model="cnn", steps=3, batch_size=16)


def sums(model: nn.Module) -> list[torch.Tensor]:
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return [g.clone() for m in norms for g in (m.bias.grad, m.weight.grad)]


def test_float32_leaves_no_sums_and_hand_made_rounding_does() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    z = torch.randn(8, 3, 5, 5, requires_grad=True)
    y = norm(z)
    g = torch.randn_like(y)
    (y * g).sum().backward()
    dz = z.grad
    assert dz is not None
    exact = left_over(dz, dz, z.detach(), norm.eps)
    assert exact["beta"] < 1e-6 and exact["gamma"] < 1e-6
    shifted = dz + 0.5
    found = left_over(shifted, dz, z.detach(), norm.eps)
    per_channel = 0.5 * 200 / dz.double().abs().sum((0, 2, 3))
    assert found["beta"] == pytest.approx(float(per_channel.square().mean().sqrt()), rel=1e-4)
    assert found["gamma"] == pytest.approx(0.0, abs=1e-5)  # x^ has no mean


def test_a_channel_without_gradient_is_left_out() -> None:
    z, dz = torch.randn(4, 2, 3), torch.zeros(4, 2, 3)
    assert left_over(dz, dz, z, 1e-5) == {"beta": None, "gamma": None}
    dz[:, 0] = 1.0
    assert left_over(dz, dz, z, 1e-5)["beta"] == 1.0


def test_the_roundings_are_the_two_grids_and_their_mean() -> None:
    from nybble.recipes import get_recipe

    dz = torch.tensor([0.7, -2.0, 3.0]) / 8
    found = roundings(dz, get_recipe("sun2020").spec, 8.0)
    assert (found["even"] * 8).tolist() == [1.0, -1.0, 4.0]
    assert (found["odd"] * 8).tolist() == [0.5, -2.0, 2.0]
    assert (found["both"] * 8).tolist() == [0.75, -1.5, 3.0]
    assert torch.equal(found["float32"], dz.double())
    assert torch.equal(found["even"].float(), FP4_RADIX4.round(dz * 8) / 8)


def test_compared_by_hand() -> None:
    d, exact = torch.tensor([1.0, 3.0]), torch.tensor([3.0, 4.0])
    assert compared(d, exact) == {
        "mean": 2.0,
        "error": pytest.approx((5 / 25) ** 0.5, rel=1e-5),
        "shrinkage": 0.6,
    }
    assert compared(d, torch.zeros(2))["error"] is None


def test_two_phases_give_batch_norm_what_the_first_phase_gives() -> None:
    with short_run(SMALL) as run:
        run.forward_backward(0)
        run.update(0)
        run.model.zero_grad(set_to_none=True)
        own = copy.deepcopy(run.model)  # the recipe: even for grad_input, odd for grad_weight
        run.forward_backward(1, own)
        found = {}
        for condition in CONDITIONS:
            twin = under(run.model, condition)
            run.forward_backward(1, twin)
            found[condition] = sums(twin)
    for a, b in zip(sums(own), found["even"], strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(found["even"], found["odd"], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(found["even"], found["float32"], strict=True))
    # The last batch norm stands above every radix-4 layer: nothing has been rounded there.
    for condition in CONDITIONS:
        assert torch.equal(found[condition][-1], found["float32"][-1])


def test_looking_changes_nothing_in_the_run() -> None:
    with short_run(SMALL) as run:
        before = {name: t.clone() for name, t in run.model.state_dict().items()}
        twin = under(run.model, "both")
        with watched(twin) as seen:
            run.forward_backward(0, twin)
        for name, tensor in run.model.state_dict().items():
            assert torch.equal(tensor, before[name]), name
        assert seen.below == {"features.5": "features.4", "features.9": "features.8"}
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.modules())


def test_a_condition_changes_the_gradients_slots_alone() -> None:
    with short_run(SMALL) as run:
        spec = dict(quantized_layers(run.model))["features.4"].nybble_spec
    assert changed(spec, "float32").grad_input_grad is None
    assert changed(spec, "odd").grad_weight_grad == changed(spec, "odd").grad_input_grad
    assert changed(spec, "both").gradient_pair == "mean"
    assert changed(spec, "even").output_weight == spec.output_weight


def test_the_view() -> None:
    found = measure_batch_norm(SMALL)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == measure_batch_norm(SMALL)
    assert found["steps"] == [1, 2, 3] == [s + 1 for s in looks(3)]
    names = ["features.1", "features.5", "features.9"]
    assert [row["layer"] for row in found["received"]] == names
    for row in found["received"]:
        exact = row["conditions"]["float32"]
        assert exact["beta_error"] == exact["gamma_error"] == [0.0] * 3
        assert exact["gamma_shrinkage"] == [1.0] * 3
    assert found["received"][0]["conditions"]["even"]["beta_error"][0] > 0
    assert found["received"][-1]["conditions"]["even"]["beta_error"] == [0.0] * 3
    assert [(r["layer"], r["below"]) for r in found["passed_on"]] == [
        ("features.5", "features.4"),
        ("features.9", "features.8"),
    ]
    for row in found["passed_on"]:
        lists = row["conditions"]
        assert max(lists["float32"]["beta"]) < 1e-4 < min(lists["even"]["beta"])
        assert all(b < max(e, o) for b, e, o in zip(
            lists["both"]["beta"], lists["even"]["beta"], lists["odd"]["beta"], strict=True,
        ))  # fmt: skip


@pytest.mark.parametrize(
    ("model", "recipe", "message"),
    [
        ("cnn", "fp32", "no layer of cnn has radix-4 gradients"),
        ("cnn", "sun2020:gradients=radix2", "no layer of cnn has radix-4 gradients"),
        ("vit-tiny", "sun2020", "vit-tiny has no batch norm"),
    ],
)
def test_mistakes(model: str, recipe: str, message: str) -> None:
    config = ViewConfig(model=model, recipe=recipe, steps=1, batch_size=4)
    with pytest.raises(UserError, match=message):
        measure_batch_norm(config)
