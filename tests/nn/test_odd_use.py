"""Unusual but legal use of converted layers, and what must be refused in one clear line."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import nybble
from nybble.errors import UserError

FOUR_BIT = "sun2020:first_last=int4"

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


def both_gradients(layer, x):
    x = x.detach().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    clip = layer.nybble_alpha.grad.clone()
    return [y.detach(), x.grad.clone(), layer.weight.grad.clone(), clip]


@pytest.mark.parametrize(
    "cut",
    [
        lambda x: x[:, :, ::2, ::2],
        lambda x: x[:, :, 1:9, 2:10],
        lambda x: x[:, 4:12],
        lambda x: x[::2],
        lambda x: x[:1].expand(3, -1, -1, -1),
        lambda x: x.permute(0, 1, 3, 2),
        lambda x: x.permute(0, 3, 2, 1),
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_slices_of_either_memory_format_have_the_gradients_of_a_copy(cut, last):
    torch.manual_seed(0)
    whole = torch.randn(4, 16, 16, 16)
    if last:
        whole = whole.to(memory_format=torch.channels_last)
    x = cut(whole)
    layer = nn.Conv2d(x.shape[1], 5, 3, padding=1)
    twin = copy.deepcopy(layer)
    for module in (layer, twin):
        nybble.convert(module, "sun2020:first_last=int4", accumulate="exact")
    ours, expected = both_gradients(layer, x), both_gradients(twin, x.contiguous())
    for one, two in zip(ours[:3], expected[:3], strict=True):
        assert torch.equal(one, two)
    # The clip's sum runs in memory order.
    torch.testing.assert_close(ours[3], expected[3], rtol=1e-4, atol=1e-4)


def test_a_copy_made_before_the_first_batch_learns_from_copied_buffers():
    """An average of weights is such a copy: its buffers and parameters are written into it."""
    model = nybble.convert(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)), FOUR_BIT)
    average = copy.deepcopy(model)
    model(torch.randn(16, 6))
    with torch.no_grad():
        for mine, theirs in zip(average.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs)
        for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
        x = torch.rand(16, 6)
        assert torch.equal(average.eval()(x), model.eval()(x))
    assert average[0].nybble_input_kind.item() == 2


def test_weights_of_a_float_model_start_the_layer_afresh():
    plain = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    weights = copy.deepcopy(plain.state_dict())
    model = nybble.convert(plain, f"{FOUR_BIT}+signed=symmetric")
    model(torch.randn(16, 6)).sum().backward()
    assert model[1].nybble_grad_scale.item() > 0
    state = ("nybble_alpha", "nybble_input_kind", "nybble_grad_scale", "nybble_calls")
    model.load_state_dict({"0.bias": torch.zeros(6)}, strict=False)
    assert all(getattr(model[0], name).item() != 0 for name in state)  # not its weights
    model.load_state_dict(weights, strict=True)
    for layer in model:
        assert all(getattr(layer, name).item() == 0 for name in state)
    with torch.device("meta"):
        empty = nybble.convert(nn.Linear(6, 6), FOUR_BIT, inputs="unsigned")
    empty.to_empty(device="cpu").load_state_dict({k[2:]: v for k, v in list(weights.items())[:2]})
    assert empty.nybble_alpha.item() == 0 and empty.nybble_input_kind.item() == 1


def test_a_double_default_dtype_changes_nothing():
    results = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            layer = nn.Conv2d(3, 4, 3, dtype=torch.float32)
            with torch.no_grad():
                layer.weight.copy_(torch.arange(108).view(4, 3, 3, 3) / 54 - 1)
                layer.bias.zero_()
            nybble.convert(layer, FOUR_BIT)
            x = (torch.arange(300, dtype=torch.float32) / 50).view(1, 3, 10, 10)
            for _ in range(3):
                results.append(both_gradients(layer, x))
        finally:
            torch.set_default_dtype(torch.float32)
    for one, two in zip(results[:3], results[3:], strict=True):
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("change", [lambda x: x, lambda x: x.flip(0), lambda x: x + 1])
def test_checkpointed_uses_of_one_layer_repeat_their_own_random_bits(reentrant, change):
    results = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        layer = nybble.convert(nn.Linear(6, 6), f"{FOUR_BIT}+factor=stochastic")

        def f(x, layer=layer, checkpointed=checkpointed):
            return checkpoint(layer, x, use_reentrant=reentrant) if checkpointed else layer(x)

        x = torch.randn(32, 6, requires_grad=True)
        (f(x).sum() + 2 * (f(change(x)) ** 2).sum()).backward()
        results.append([x.grad, layer.weight.grad])
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_revert_refuses_what_was_changed_since_and_changes_nothing():
    model = nybble.convert(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), FOUR_BIT)
    nn.utils.parametrizations.weight_norm(model[1])
    with pytest.raises(nybble.UserError, match="revert: layer '1' was changed"):
        nybble.revert(model)
    assert len(list(nybble.quantized_layers(model))) == 2


@pytest.mark.parametrize("recipe", ["bf16", "sun2020:first_last=int4", "nybble4:first_last=same"])
def test_second_derivatives_are_refused_and_never_left_out(recipe: str) -> None:
    net = nybble.convert(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), recipe)
    x = torch.randn(5, 4, requires_grad=True)
    for wanted in (list(net.parameters())[:4], [x]):
        with pytest.raises(UserError, match=r"create_graph=True.*second derivatives"):
            torch.autograd.grad(net(x).sum(), wanted, create_graph=True, allow_unused=True)
    with pytest.raises(UserError, match="create_graph=True"):
        net(x).sum().backward(create_graph=True)
    net(x).sum().backward()
    assert x.grad is not None
