"""Unusual but legal use of converted layers, and what must be refused in one clear line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nybble

ALL = {"re:.*": nybble.recipes.get_recipe("sun2020")}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize("recipe", ["bf16", "fp16", "hfp8", "sun2020", "sun2020-strict"])
def test_only_biases_learn(recipe):
    models = [mlp(), nybble.convert(mlp(), recipe)]
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    for model in models:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))
        model(x).sum().backward()
    assert torch.equal(models[0][2].bias.grad, models[1][2].bias.grad)
    assert models[1][0].bias.grad is not None and models[1][2].weight.grad is None


@pytest.mark.parametrize("whole", [False, True])
def test_transformer_encoders_do_not_bypass_converted_layers_in_inference(whole):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2) if whole else layer
    x = torch.randn(2, 5, 16)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        plain = model.eval()(x, src_key_padding_mask=mask)
        nybble.convert(model.train(), "sun2020", ALL)(x, src_key_padding_mask=mask)
        model.eval()
        fused = model(x, src_key_padding_mask=mask)
    asked = model(x, src_key_padding_mask=mask)
    assert fused.shape == asked.shape and not torch.equal(fused, plain)
    # rows that are padding hold anything
    assert torch.equal(fused[~mask], asked.detach()[~mask])
    nybble.revert(model)
    with torch.no_grad():
        assert torch.equal(model(x, src_key_padding_mask=mask), plain)


@pytest.mark.parametrize(
    "use",
    [
        lambda model, x: torch.func.vmap(model)(x.unsqueeze(1)),
        lambda model, x: torch.func.grad(lambda z: model(z).sum())(x),
        lambda model, x: torch.func.jvp(model, (x,), (x,)),
    ],
)
def test_functional_transforms_are_refused(use):
    model = nybble.convert(mlp(), "sun2020", ALL)
    with pytest.raises(nybble.UserError, match=r"torch\.func transforms"):
        use(model, torch.randn(3, 4))


def test_second_derivatives_are_refused_and_not_zero():
    model = nybble.convert(mlp(), "sun2020", ALL)
    x = torch.randn(3, 4, requires_grad=True)
    y = model(x)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        (y.sum() + grad.square().sum()).backward()


@pytest.mark.parametrize("shape", [(4, 4), (1, 2, 4, 9, 9), (2, 5, 9, 9), (5, 9, 9)])
def test_wrong_image_shapes_are_one_clear_line(shape):
    model = nybble.convert(nn.Sequential(nn.Conv2d(4, 8, 3)), "sun2020")
    with pytest.raises(nybble.UserError, match=r"must be \[N, 4, H, W\] or \[4, H, W\]"):
        model(torch.randn(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": None}, "a recipe is a name"),
        ({"recipe": "sun2020:factor=1.6+factor=1.848"}, "given twice"),
        ({"rules": ["0"]}, "use a dict"),
        ({"rules": {"0": 5}}, "a LayerSpec, or None"),
        ({"rules": {0: None}}, "a layer's name is a string"),
        ({"seed": 2**63}, "2\\*\\*63 - 1"),
        ({"seed": -1}, "2\\*\\*63 - 1"),
        ({"seed": "1"}, "2\\*\\*63 - 1"),
        ({"backend": None}, "unknown backend"),
        ({"model": None}, "takes a torch.nn.Module"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(arguments, message):
    given = {"model": mlp(), "recipe": "sun2020", **arguments}
    with pytest.raises(nybble.UserError, match=message):
        nybble.convert(**given)
