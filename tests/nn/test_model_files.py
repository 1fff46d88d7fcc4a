"""Model files: what cannot be written, what is damaged, and that a refused file changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import nybble
from nybble.quantizers.storage import digest


def mlp(outputs: int = 2) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, outputs)
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = nybble.convert(mlp(), "sun2020")
    model(torch.randn(3, 4)).sum().backward()
    nybble.save(model, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def test_a_refused_file_leaves_the_model_as_it_was(saved: Path) -> None:
    model = mlp(outputs=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(nybble.UserError, match=r"4\.\w+ has the shape"):
        nybble.load(model, saved)
    assert not list(nybble.quantized_layers(model))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_one_altered_bit_is_noticed(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-5] ^= 1
    saved.write_bytes(data)
    with pytest.raises(nybble.UserError, match=r"m\.safetensors: the checksum does not match"):
        nybble.load(mlp(), saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda layers: layers["0"].pop("spec"),
        lambda layers: layers.update({"0": 5}),
        lambda layers: layers["0"].update(seed="x"),
        lambda layers: layers["0"].update(accumulate="slow"),
        lambda layers: layers["0"]["spec"].update(accumulator={"x": 1}),
        lambda layers: layers["0"]["spec"].update(output_input=[1]),
    ],
)
def test_wrong_descriptions_are_refused(change, saved: Path) -> None:
    with safe_open(saved, "pt") as file:
        header = json.loads(file.metadata()["nybble"])
    tensors = load_file(saved)
    del header["sha256"]
    change(header["layers"])
    header["sha256"] = digest(header, tensors)
    save_file(tensors, saved, metadata={"nybble": json.dumps(header)})
    model = mlp()
    with pytest.raises(nybble.UserError, match="describes its layers wrongly"):
        nybble.load(model, saved)
    assert not list(nybble.quantized_layers(model))


@pytest.mark.parametrize("name", ["folder", "x" * 300])
def test_what_cannot_be_written_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(nybble.UserError, match=r"is a folder|cannot be written"):
        nybble.save(mlp(), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


class Views(nn.Module):
    """Buffers that look at other tensors' memory."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("turned", self.layer.weight.detach().t())
        self.register_buffer("whole", torch.arange(4.0))
        self.register_buffer("part", self.whole[1:3])


def test_views_are_saved_as_what_they_show(tmp_path: Path) -> None:
    model, twin = nybble.convert(Views(), "bf16"), Views()
    nybble.save(model, tmp_path / "m")
    twin.turned, twin.part = torch.zeros(4, 4), torch.zeros(2)
    nybble.load(twin, tmp_path / "m")
    assert torch.equal(twin.turned, model.turned) and torch.equal(twin.part, model.part)


def test_arguments_in_the_wrong_order_are_one_clear_line(tmp_path):
    model = nn.Linear(2, 2)
    for function in (nybble.save, nybble.load):
        with pytest.raises(nybble.UserError, match="takes a model and the path of a file"):
            function(str(tmp_path / "f"), model)


def test_a_plain_model_that_is_loaded_into_lies_as_the_saved_one(tmp_path: Path) -> None:
    """The layout decides the order of sums: training goes on with the same bits."""

    def plain() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten())

    saved = nybble.convert(plain(), "sun2020")
    x = torch.randn(2, 6, 8, 8)
    saved(x)
    nybble.save(saved, tmp_path / "m.safetensors")
    loaded = plain()
    nybble.load(loaded, tmp_path / "m.safetensors")
    for a, b in zip(saved.parameters(), loaded.parameters(), strict=True):
        assert a.stride() == b.stride()
    for model in (saved, loaded):
        model(x).square().sum().backward()
    for a, b in zip(saved.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
