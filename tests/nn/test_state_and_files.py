"""state_dict, deepcopy, files: what a converted model carries, and what it refuses to load."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import nybble

FOUR_BIT = "sun2020:first_last=int4"


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def trained(steps: int = 2) -> nn.Sequential:
    model = nybble.convert(plain(), FOUR_BIT)
    for i in range(steps):
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(i))
        model(x).square().sum().backward()
    return model


def same_step(a: nn.Module, b: nn.Module) -> None:
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(9))
    for model in (a, b):
        model.zero_grad()
        model(x).square().sum().backward()
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name
    for (name, s), t in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(s, t), name


def test_plain_state_dict_loads_under_strict_and_back():
    model = trained()
    source = plain().state_dict()
    model.load_state_dict(source, strict=True)
    assert torch.equal(model[0].weight, source["0.weight"])
    twin = plain()
    twin.load_state_dict(nybble.float_state_dict(model), strict=True)
    twin.load_state_dict(nybble.revert(model).state_dict(), strict=True)


def test_a_truly_missing_key_is_still_an_error():
    state = plain().state_dict()
    del state["2.weight"]
    with pytest.raises(RuntimeError, match=r"2\.weight"):
        nybble.convert(plain(), FOUR_BIT).load_state_dict(state)


def test_state_dict_keys_and_plain_tensors():
    state = trained().state_dict()
    assert {k for k in state if "nybble" not in k} == set(plain().state_dict())
    assert all(isinstance(v, torch.Tensor) for v in state.values())
    assert state["0.nybble_calls"].item() == 2


def test_state_dict_round_trip_continues_bit_for_bit():
    model = trained()
    twin = nybble.convert(plain(), FOUR_BIT)
    twin.load_state_dict(model.state_dict())
    same_step(model, twin)


def test_deepcopy_continues_bit_for_bit_and_is_independent():
    model = trained()
    twin = copy.deepcopy(model)
    same_step(model, twin)
    twin(torch.randn(2, 6))
    assert twin[0].nybble_calls.item() == model[0].nybble_calls.item() + 1


@pytest.mark.parametrize("into", ["plain", "converted"])
def test_save_and_load(tmp_path, into):
    model = trained()
    nybble.save(model, tmp_path / "m.safetensors")
    twin = plain() if into == "plain" else nybble.convert(plain(), FOUR_BIT)
    assert nybble.load(twin, tmp_path / "m.safetensors") is twin
    same_step(model, twin)
    assert not list(tmp_path.glob("*.tmp"))


def test_tied_weights_survive_a_file(tmp_path):
    def tied():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        return model

    model = nybble.convert(tied(), FOUR_BIT)
    with torch.no_grad():
        model[0].weight.add_(1)
    nybble.save(model, tmp_path / "m.safetensors")
    twin = nybble.load(tied(), tmp_path / "m.safetensors")
    assert torch.equal(twin[1].weight, model[0].weight) and twin[1].weight is twin[0].weight


def test_load_refuses_what_does_not_fit(tmp_path):
    path = tmp_path / "m.safetensors"
    nybble.save(trained(), path)
    with pytest.raises(nybble.UserError, match="does not exist"):
        nybble.load(plain(), tmp_path / "none")
    with pytest.raises(nybble.UserError, match=r"does not fit|has none"):
        nybble.load(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), path)
    with pytest.raises(nybble.UserError, match="another recipe"):
        nybble.load(nybble.convert(plain(), FOUR_BIT + "+factor=1.848"), path)
    with pytest.raises(nybble.UserError, match="other layers"):
        nybble.load(nybble.convert(plain(), FOUR_BIT, rules={"2": None}), path)
    with pytest.raises(nybble.UserError, match="does not exist; make it"):
        nybble.save(trained(), tmp_path / "no" / "m.safetensors")


def test_load_refuses_damage_and_strangers(tmp_path):
    path = tmp_path / "m.safetensors"
    nybble.save(trained(), path)
    tensors = load_file(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(nybble.UserError, match=r"m\.safetensors"):
        nybble.load(plain(), path)
    save_file(tensors, path)
    with pytest.raises(nybble.UserError, match="not written by nybble"):
        nybble.load(plain(), path)
    save_file(tensors, path, metadata={"nybble": json.dumps({"version": 99, "layers": {}})})
    with pytest.raises(nybble.UserError, match="version 99"):
        nybble.load(plain(), path)
    assert not list(nybble.quantized_layers(plain()))
