"""Peers: measured where they are, listed where they are not, and their failures are their own."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from nybble.errors import UserError
from nybble.reports.speed import markdown, plain
from nybble.studies.speed.peer_models import PEERS, Peer, hidden_layers, torch_ao
from nybble.studies.speed.peers import PeersConfig, installed, measure_peers

TINY = PeersConfig(models=("cnn",), batch=2, backend="reference", rounds=1, seconds=1)


def fails(model: nn.Module) -> nn.Module:
    raise ValueError("no such thing\nand more")


def takes_an_example(model: nn.Module, example: torch.Tensor) -> nn.Module:
    assert example.shape[0] == 2
    return model


def test_the_record_of_peers() -> None:
    peers = (
        Peer("fake", "torch.ao.quantization", "in torch", "no", torch_ao),
        Peer("absent", "no_such_package", "pip install it", "4 bits", fails),
        Peer("broken", "torch", "in torch", "no", fails),
        Peer("text only", "torch", "in torch", "no", fails, models=("transformer",)),
        Peer("same", "torch", "in torch", "no", takes_an_example, wants_example=True),
    )
    found = measure_peers(TINY, peers=peers)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    rows: dict[str, Any] = {m["name"]: m for m in found["measurements"]}
    assert list(rows) == ["nybble", "fake", "absent", "broken", "text only", "same"]
    assert rows["absent"]["note"] == "not installed: pip install it"
    assert rows["broken"]["note"] == "fails: ValueError: no such thing"
    assert rows["text only"]["note"] == "has no layers for this model"
    for name in ("nybble", "fake", "same"):
        assert rows[name]["note"] is None and rows[name]["speedup"] > 0
    assert rows["same"]["saved_bytes"] == rows["same"]["float32_saved_bytes"]
    assert rows["fake"]["saved_bytes"] > rows["fake"]["float32_saved_bytes"]
    for text in (plain(found), markdown(found)):
        assert "not installed: pip install it" in text and "(1.00x)" in text


def test_first_and_last_stay_as_they_are() -> None:
    images = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Linear(2, 2))
    assert hidden_layers(images) == {images[1]}
    text = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    assert hidden_layers(text) == {text[0], text[1]}


@pytest.mark.parametrize("peer", [p for p in PEERS if installed(p.package)], ids=lambda p: p.name)
def test_installed_peers_make_a_model(peer: Peer) -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 32))
    example = torch.randn(4, 32)
    if peer.package not in ("torch", "torch.ao.quantization"):
        pytest.skip("measured by bench peers; other packages change under a test")
    made = peer.make(model.train())
    assert made(example).shape == (4, 32)


def test_bad_options() -> None:
    with pytest.raises(UserError, match="built-in models"):
        PeersConfig(models=("module:function",))
    with pytest.raises(UserError, match="seconds must be"):
        PeersConfig(seconds=0)
