"""Models: sizes of the papers, shortcuts, initial weights, and models of the user's."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from nybble.errors import UserError
from nybble.training.models import MODELS, build_model
from nybble.training.models.resnet import BasicBlock, ResNet, resnet20
from nybble.training.tasks.vision import logits_of


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_shapes(name: str, channels: int, size: int) -> None:
    if name.startswith("hf:"):
        pytest.importorskip("transformers")
    if name.startswith("imagenet-"):
        size = 64  # AlexNet's stem leaves nothing of smaller images
    model = build_model(name, 7, channels, size=size).eval()
    with torch.no_grad():
        assert logits_of(model(torch.zeros(2, channels, size, size))).shape == (2, 7)


def test_numbers_of_weights() -> None:
    """ResNet-20 with option A has 0.27 million weights (He et al. 2016, table 6)."""
    model = resnet20(shortcut="pad")
    assert sum(p.numel() for p in model.parameters()) == 269_722
    model = build_model("resnet18", 10, 3)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    layers = [m for m in build_model("resnet14", 10, 1).modules() if isinstance(m, nn.Conv2d)]
    assert sum(1 for layer in layers if layer.kernel_size == (3, 3)) == 13
    assert sum(1 for layer in layers if layer.kernel_size == (1, 1)) == 2


def test_pad_shortcut_is_strided_and_zero_padded() -> None:
    block = BasicBlock(4, 8, 2, "pad")
    x = torch.randn(1, 4, 6, 6)
    out = block.shortcut(x)
    assert torch.equal(out[:, :4], x[:, :, ::2, ::2]) and not out[:, 4:].any()
    with pytest.raises(UserError, match="'projection' or 'pad'"):
        ResNet((1, 1, 1), shortcut="none")


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = build_model("resnet18", 10, 3)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert float(module.weight.detach().std()) == pytest.approx(
                math.sqrt(2 / fan_out), rel=0.05
            )
        if isinstance(module, nn.Linear):
            assert not module.bias.any()
            assert float(module.weight.detach().std()) == pytest.approx(
                math.sqrt(1 / 512), rel=0.05
            )


def test_zero_init_makes_blocks_the_identity() -> None:
    model = build_model("resnet14", 10, 1, zero_init=True)
    assert isinstance(model, ResNet)
    block = model.stages[0][1]
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(block(x), x)
    build_model("cnn", 10, 1, zero_init=True)  # has no blocks: nothing to do


SOURCE = """
import torch
class Net(torch.nn.Linear):
    pass
def both(num_classes, in_channels): return Net(in_channels, num_classes)
def classes(num_classes=3): return Net(1, num_classes)
def neither(): return Net(5, 5)
def anything(**options): return Net(options["in_channels"], options["num_classes"])
def wrong(): return "no module"
def fails(): raise RuntimeError("on purpose")
constant = 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_networks.py").write_text(SOURCE)
    (tmp_path / "broken_networks.py").write_text("import nothing_of_that_name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    monkeypatch.delitem(__import__("sys").modules, "my_networks", raising=False)
    return "my_networks"


@pytest.mark.parametrize(
    ("name", "shape"),
    [("both", (7, 2)), ("classes", (7, 1)), ("neither", (5, 5)), ("anything", (7, 2))],
)
def test_users_models(name: str, shape: tuple[int, int], user_module: str) -> None:
    model = build_model(f"{user_module}:{name}", 7, 2)
    assert isinstance(model, nn.Linear) and tuple(model.weight.shape) == shape


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet9", "Unknown model 'resnet9'.*Did you mean 'resnet8'"),
        ("my_networks:wrong", r"must return a torch.nn.Module; it returned str"),
        ("my_networks:fails", "called with no arguments, gave RuntimeError: on purpose"),
        ("my_networks:boht", "has no function 'boht'. Did you mean 'both'"),
        ("my_networks:constant", "has no function 'constant'"),
        ("no_such_module:f", "cannot be imported.*No module named 'no_such_module'"),
        ("broken_networks:f", "cannot be imported.*nothing_of_that_name"),
    ],
)
def test_users_mistakes(name: str, message: str, user_module: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(name, 7, 2)
