"""Every vision model trains in 4 bits on the native backend: the loss falls, no layer is dead."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import nybble
from nybble.errors import UserError
from nybble.nn import quantized_layers
from nybble.studies.speed.forms import backends_of
from nybble.training import TrainConfig
from nybble.training.models import build_model
from nybble.training.models.imagenet import ImageNetResNet
from nybble.training.models.mobilenet import InvertedResidual, MobileNetV2
from nybble.training.models.registry import training_of
from nybble.training.models.vit import ViT, positions
from nybble.training.tasks.vision import logits_of

ZOO = ["mobilenetv2x05", "vgg11", "alexnet", "vit-tiny", "hf:resnet", "hf:mobilenetv2", "hf:vit"]


@pytest.mark.parametrize("name", ZOO)
def test_learns_in_four_bits(name: str) -> None:
    if name.startswith("hf:"):
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = build_model(name, 4, 1, size=24).train()
    nybble.convert(model, "sun2020", backend="native", seed=0)
    layers = dict(quantized_layers(model))
    labels = torch.arange(16) % 4
    images = torch.randn(16, 1, 24, 24) * 0.3
    images[:, 0, :12, :12] += labels.view(-1, 1, 1)
    optimizer = torch.optim.AdamW(nybble.param_groups(model, lr=2e-3), lr=2e-3)
    losses, moved = [], set()
    for _ in range(10):
        loss = F.cross_entropy(logits_of(model(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        for key, layer in layers.items():
            if layer.weight.grad is not None and layer.weight.grad.any():
                moved.add(key)
        optimizer.step()
        losses.append(loss.item())
    assert all(math.isfinite(value) for value in losses)
    assert min(losses[-3:]) < 0.9 * losses[0], losses
    assert moved == set(layers), set(layers) - moved
    assert backends_of(model).get("native", 0) > len(layers)


def test_mobilenet_follows_the_rule_of_its_family() -> None:
    """4-bit gradients backward, 8-bit ones in the update; the first and last layer wider."""
    model = nybble.convert(build_model("mobilenetv2x05", 10, 3), "sun2020")
    layers = dict(quantized_layers(model))
    inside = list(layers.values())[1:-1]
    assert {layer.nybble_spec.grad_weight_grad.format.name for layer in inside} == {"fp8_152"}
    assert len({layer.nybble_spec.grad_input_grad.format.name for layer in inside}) == 1
    assert len(inside) == 51


def test_bottleneck_networks_have_their_1x1_layers_in_eight_bits() -> None:
    model = nybble.convert(build_model("imagenet-resnet50", 10, 3), "sun2020")
    layers = dict(quantized_layers(model))
    bits = {
        kind: {
            layer.nybble_spec.output_weight.format.name
            for name, layer in layers.items()
            if name.endswith(kind) and name not in ("conv1", "fc")
        }
        for kind in ("conv1", "conv2", "conv3")
    }
    assert bits["conv1"] == bits["conv3"] and bits["conv1"].isdisjoint(bits["conv2"])


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("imagenet-resnet18", 11_689_512),
        ("imagenet-resnet50", 25_557_032),
        ("imagenet-mobilenetv2", 3_504_872),
        ("imagenet-alexnet", 61_100_840 - 1152 + 2 * 1152),
    ],
)
def test_full_size_networks_have_the_known_numbers_of_weights(name: str, weights: int) -> None:
    """AlexNet: 1152 biases of the convolutions gave way to as many means and scales of norms."""
    with torch.device("meta"):
        model = build_model(name, 1000, 3)
    assert sum(p.numel() for p in model.parameters()) == weights


def test_mobilenet_shapes() -> None:
    small, full = MobileNetV2(10, 3), MobileNetV2(10, 3, small=False)
    x = torch.zeros(2, 3, 32, 32)
    assert small.features(x).shape == (2, 1280, 2, 2)
    assert full.features(x).shape == (2, 1280, 1, 1)
    blocks = [m for m in small.modules() if isinstance(m, InvertedResidual)]
    assert len(blocks) == 17 and sum(block.adds for block in blocks) == 10


def test_zero_init_of_bottlenecks() -> None:
    model = build_model("imagenet-resnet50", 10, 3, zero_init=True)
    assert isinstance(model, ImageNetResNet)
    assert not model.get_submodule("stages.0.1.bn3").weight.any()  # type: ignore[operator]


def test_vit_positions_and_sizes() -> None:
    found = positions(16, 3, 5)
    assert torch.equal(found[0, :, 0, 0], torch.tensor([0.0, 1.0]).repeat_interleave(4).repeat(2))
    assert len({tuple(row.tolist()) for row in found[0].flatten(1).T}) == 15
    model = ViT(10, 1, layers=1, width=16, heads=2, hidden=16).eval()
    for size in (16, 28):
        assert model(torch.zeros(1, 1, size, size)).shape == (1, 10)


def test_training_defaults() -> None:
    assert training_of("mobilenetv2", None, None) == {
        "epochs": 4,
        "batch_size": 64,
        "optimizer": "sgd",
        "lr": 0.1,
    }
    vit = TrainConfig(model="vit-tiny").resolved()
    assert (vit.optimizer, vit.lr, vit.weight_decay, vit.clip_norm) == ("adamw", 1e-3, 0.05, 1.0)
    with_sgd = TrainConfig(model="vit-tiny", optimizer="sgd").resolved()
    assert (with_sgd.lr, with_sgd.weight_decay) == (0.1, 5e-4)
    with pytest.raises(UserError, match=r"Unknown model 'hf:resnett'.*Did you mean 'hf:resnet'"):
        build_model("hf:resnett", 10, 3)
