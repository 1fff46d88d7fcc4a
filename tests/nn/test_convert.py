"""convert and revert: in place, by name, by rule, and what they refuse."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import nybble
from nybble.convert import convertible_layers
from nybble.nn import Conv2d, Linear, QuantizedLayer
from nybble.nn.function import LayerCall
from nybble.ops import native
from nybble.ops.geometry import Geometry


def net(channels: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(channels * 36, 10),
    )


def image(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def slots(model: nn.Module) -> dict[str, str]:
    return {
        name: layer.nybble_spec.output_weight.format.name
        for name, layer in nybble.quantized_layers(model)
    }


def test_convert_changes_classes_in_place_and_keeps_identity():
    model = net()
    before = dict(model.named_parameters())
    layer = model[2]
    assert nybble.convert(model, "sun2020") is model
    assert model[2] is layer and isinstance(layer, Conv2d) and isinstance(layer, nn.Conv2d)
    assert isinstance(model[7], Linear) and isinstance(model[7], nn.Linear)
    for name, parameter in before.items():
        assert dict(model.named_parameters())[name] is parameter


def test_first_and_last_are_fp16_and_the_rest_4_bit():
    assert slots(nybble.convert(net(), "sun2020")) == {
        "0": "fp16",
        "2": "int4_sym",
        "4": "int4_sym",
        "7": "fp16",
    }
    strict = slots(nybble.convert(net(), "sun2020-strict"))
    assert set(strict.values()) == {"int4_sym"}


def test_user_rules_go_first_in_order():
    model = nybble.convert(net(), "sun2020", rules={"2": "hfp8", "re:[24]": None})
    assert slots(model) == {"0": "fp16", "2": "fp8_143", "7": "fp16"}


def test_bottleneck_networks_run_1x1_convolutions_in_fp8():
    def block(c):
        return [nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, c, 1)]

    model = nn.Sequential(nn.Conv2d(3, 4, 3), *block(4), *block(4), nn.Flatten(), nn.Linear(4, 2))
    formats = slots(nybble.convert(copy.deepcopy(model), "sun2020"))
    assert [formats[str(i)] for i in (1, 2, 3)] == ["fp8_143", "int4_sym", "fp8_143"]
    formats = slots(nybble.convert(model, "sun2020:one_by_one=int4"))
    assert [formats[str(i)] for i in (1, 2, 3)] == ["int4_sym"] * 3


def test_depthwise_networks_update_from_fp8_gradients():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1)
    )
    nybble.convert(model, "sun2020")
    spec = model[2].nybble_spec
    assert spec.grad_weight_grad.format.name == "fp8_152"
    assert spec.grad_input_grad.format.name == "fp4_radix4"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "sun2002"}, "Did you mean 'sun2020'"),
        ({"recipe": "sun2020:facto=1.6"}, "Did you mean 'factor'"),
        ({"recipe": "sun2020:factor=2"}, "1.6 | 1.848"),
        ({"recipe": "sun2020:factor"}, "switch=value"),
        ({"recipe": "sun2020", "rules": {"head": None}}, "matches no layer"),
        ({"recipe": "sun2020", "rules": {"re:(": None}}, "regular expression"),
        ({"recipe": "sun2020", "backend": "cuda"}, "unknown backend"),
        ({"recipe": "sun2020", "accumulate": "slow"}, "fast"),
        ({"recipe": "sun2020", "inputs": "both"}, "unsigned"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_converted(arguments, message):
    model = net()
    with pytest.raises(nybble.UserError, match=None) as error:
        nybble.convert(model, **arguments)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(nybble.quantized_layers(model))


def test_native_without_the_compiled_module_is_refused(monkeypatch):
    monkeypatch.setattr("nybble.ops.native.core", lambda: (None, "no compiler was found"))
    with pytest.raises(nybble.UserError, match="no compiler was found"):
        nybble.convert(net(), "sun2020", backend="native")
    model = net()
    with pytest.raises(nybble.UserError, match="strict=True"):
        nybble.convert(model, "sun2020", strict=True)
    assert not list(nybble.quantized_layers(model))
    nybble.convert(model, "sun2020")  # auto is the reference backend then


def test_native_refuses_another_device_by_name():
    layer = nybble.convert(nn.Linear(4, 4).to("meta"), "sun2020", backend="reference")
    with pytest.raises(nybble.UserError, match="the tensor is on meta"):
        torch.ops.nybble.layer_forward(
            torch.empty(2, 4, device="meta"),
            layer.weight,
            None,
            None,
            *LayerCall(
                layer.nybble_spec, Geometry("linear"), "exact", "native", 0, 0, 0
            ).arguments(),
            False,
        )


@pytest.mark.skipif(not native.available(), reason="needs the compiled module")
def test_strict_refuses_a_gemm_that_falls_back_and_changes_nothing():
    model = net()
    with pytest.raises(nybble.UserError, match=r"grad_input.*varies along the sum"):
        nybble.convert(model, "sun2020:sawb_channel=yes", strict=True, backend="native")
    assert not list(nybble.quantized_layers(model))
    nybble.convert(net(), "sun2020", strict=True, backend="native")


def test_converting_twice_is_refused():
    model = nybble.convert(net(), "sun2020")
    with pytest.raises(nybble.UserError, match="already"):
        nybble.convert(model, "fp16")


class Own(nn.Module):
    """A module with a weight of its own, of which nybble knows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        return x @ self.weight


def test_strict_names_layers_that_cannot_be_converted():
    model = nn.Sequential(nn.Linear(4, 4), Own())
    with pytest.raises(nybble.UserError, match=r"1 \(Own\)"):
        nybble.convert(model, "sun2020", strict=True)
    assert not list(nybble.quantized_layers(model))
    with pytest.raises(nybble.UserError, match="has no converted class"):
        nybble.convert(model, "sun2020", {"1": "hfp8"}, strict=True)
    nybble.convert(model, "sun2020", {"1": None}, strict=True)
    assert [name for name, _ in nybble.quantized_layers(model)] == ["0"]


def test_subclasses_with_their_own_forward_are_left_alone():
    class Scaled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    model = nn.Sequential(Scaled(4, 4), nn.Linear(4, 4))
    nybble.convert(model, "bf16")
    assert type(model[0]) is Scaled
    assert ("0", "Scaled") in nybble.summary(model, torch.ones(2, 4)).unconverted


def test_fp32_converts_nothing():
    model = nybble.convert(net(), "fp32")
    assert not list(nybble.quantized_layers(model))


def test_revert_restores_classes_weights_and_state_dict():
    model = net()
    keys = list(model.state_dict())
    nybble.convert(model, "sun2020")
    model(image()).sum().backward()
    weight = model[2].weight.detach().clone()
    nybble.revert(model)
    assert type(model[2]) is nn.Conv2d and type(model[7]) is nn.Linear
    assert list(model.state_dict()) == keys
    assert torch.equal(model[2].weight, weight)
    assert not [name for name in model[2].__dict__ if "nybble" in name]
    assert torch.equal(model(image()), copy.deepcopy(model)(image()))
    nybble.convert(model, "fp16")  # and again


def test_hooks_survive():
    model, seen = net(), []
    model[2].register_forward_hook(lambda *_: seen.append("forward"))
    nybble.convert(model, "sun2020")
    model(image())
    assert seen == ["forward"]


def test_transformers_conv1d():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), conv1d(5, 8), nn.Linear(5, 2))
    nybble.convert(model, "sun2020")
    assert isinstance(model[1], QuantizedLayer) and isinstance(model[1], conv1d)
    y = model(torch.randn(3, 4, 6))
    y.sum().backward()
    assert y.shape == (3, 4, 2) and model[1].weight.grad.shape == (8, 5)
    assert model[1].weight.grad.abs().sum() > 0
    twin = nn.Linear(8, 5)
    twin.load_state_dict({"weight": model[1].weight.detach().t(), "bias": model[1].bias.detach()})
    nybble.convert(twin, "sun2020:first_last=int4")
    x = torch.randn(3, 4, 8)
    twin.load_state_dict(
        {k: v if "nybble" in k else twin.state_dict()[k] for k, v in model[1].state_dict().items()},
        strict=False,
    )
    assert torch.equal(twin(x), model[1](x))
    nybble.revert(model)
    assert type(model[1]) is conv1d


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same"},
        {"padding": "same", "kernel_size": 4},
        {"padding": "valid"},
        {"padding": 2, "padding_mode": "reflect"},
        {"padding": 1, "padding_mode": "circular", "stride": 2},
        {"padding": (2, 1), "dilation": 2, "groups": 2},
        {"groups": 4, "bias": False},
    ],
)
def test_conv2d_options_agree_with_torch_in_a_wide_format(options):
    """bf16 rounds, so outputs agree to its precision: the geometry must be torch's."""
    torch.manual_seed(0)
    options = {"kernel_size": 3, **options}
    layer = nn.Conv2d(4, 8, **options)
    x = torch.randn(2, 4, 9, 11, requires_grad=True)
    x2 = x.detach().clone().requires_grad_()
    expected = layer(x)
    expected.square().sum().backward()
    weight_grad = layer.weight.grad.clone()
    layer.zero_grad()
    nybble.convert(layer, "bf16")
    y = layer(x2)
    y.square().sum().backward()
    torch.testing.assert_close(y, expected, rtol=0.02, atol=0.03)
    torch.testing.assert_close(x2.grad, x.grad, rtol=0.05, atol=0.15)
    # A sum of hundreds of products whose signs differ: the error is judged against the largest.
    error = (layer.weight.grad - weight_grad).abs().max() / weight_grad.abs().max()
    assert error < 0.02
    assert layer(x[0]).shape == expected[0].shape


def test_layer_positions():
    facts = [facts for facts, _ in convertible_layers(net())]
    assert [sorted(f.position) for f in facts] == [["first"], [], [], ["last"]]
    only = convertible_layers(nn.Linear(2, 2))
    assert only[0][0].position == {"first", "last"} and only[0][0].name == ""


def test_wrong_input_width_is_one_clear_line():
    model = nybble.convert(nn.Sequential(nn.Linear(4, 4)), "sun2020")
    with pytest.raises(nybble.UserError, match="last dimension must be 4"):
        model(torch.ones(2, 5))


def test_a_model_without_convertible_layers_is_reported():
    with pytest.warns(UserWarning, match="found no layer that sun2020 could convert in Embedding"):
        nybble.convert(nn.Embedding(3, 3), "sun2020")
