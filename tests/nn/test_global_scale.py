"""One gradient scale for all layers: a number that is the same everywhere and moves once."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import nybble
from nybble.errors import UserError
from nybble.quantizers import GradScale

RECIPE = "sun2020:scope=global+first_last=int4"


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))


def scales(model: nn.Module) -> list[float]:
    return [layer.nybble_grad_scale.item() for _, layer in nybble.quantized_layers(model)]


def largest(model: nn.Module) -> list[float]:
    return [layer.nybble_grad_amax.item() for _, layer in nybble.quantized_layers(model)]


def step(model: nn.Module, factor: float) -> None:
    torch.manual_seed(1)
    (factor * model(torch.randn(16, 4)).square().sum()).backward()


def test_all_layers_have_one_scale_and_it_moves_by_the_largest() -> None:
    model = nybble.convert(build(), RECIPE)
    step(model, 1.0)
    start = scales(model)
    assert len(set(start)) == 1 and start[0] > 0
    for factor in (1.0, 64.0, 64.0, 1e-3, 1e-3, 1e-3):
        s, top = scales(model)[0], max(largest(model))
        step(model, factor)
        expected = float(GradScale.update(torch.tensor(s), torch.tensor(top * s), 64.0))
        assert scales(model) == [expected] * 3
    assert len(set(largest(model))) == 3


def test_the_first_forward_of_an_iteration_moves_all_of_them() -> None:
    model = nybble.convert(build(), RECIPE)
    step(model, 1.0)
    step(model, 64.0)
    s = scales(model)[0]
    model[0](torch.randn(3, 4))
    assert scales(model) == [s / 2] * 3 and largest(model) == [0.0] * 3
    model[2](torch.randn(3, 8))
    assert scales(model) == [s / 2] * 3


def test_layers_of_their_own_differ() -> None:
    model = nybble.convert(build(), "sun2020:first_last=int4")
    step(model, 1.0)
    assert len(set(scales(model))) > 1


def test_copies_and_files_keep_their_own_group(tmp_path: Path) -> None:
    model = nybble.convert(build(), RECIPE)
    step(model, 1.0)
    twin = copy.deepcopy(model)
    nybble.save(model, tmp_path / "m.safetensors")
    loaded = nybble.load(build(), tmp_path / "m.safetensors")
    before = scales(model)
    for other in (twin, loaded):
        step(other, 1e-6)
        step(other, 1e-6)
        assert len(set(scales(other))) == 1 and scales(other) != before
    assert scales(model) == before


def test_it_goes_with_a_delayed_scale_only() -> None:
    with pytest.raises(UserError, match="scope='global'"):
        nybble.get_recipe("sun2020:scope=global+gradscale=fit")
