"""Recipes as data: every name, every switch, every rule."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from torch import nn

import nybble
from nybble.formats import get_format
from nybble.ops.spec import SLOTS, LayerSpec, parse_spec
from nybble.quantizers import PACT, AbsMax, GradScale, Quantizer, get_quantizer
from nybble.recipes import RECIPES, LayerFacts, Recipe, Rule, get_recipe
from nybble.recipes.sun2020 import SWITCHES


def facts(name="layer", types=("conv",), position=(), family=()):
    return LayerFacts(name, frozenset(types), frozenset(position), frozenset(family))


@pytest.mark.parametrize("name", RECIPES)
def test_every_printed_quantizer_is_a_name(name):
    recipe = get_recipe(name)
    for spec in (recipe.spec, *(rule.spec for rule in recipe.rules)):
        for slot in (spec.slot(s) for s in SLOTS) if spec else ():
            if slot is None:
                continue
            # What only a Gemm knows has no meaning for a tensor alone.
            scale = slot.scale
            if getattr(scale, "granularity", "") == "free":
                scale = dataclasses.replace(scale, granularity="row")
            bare = dataclasses.replace(slot, scale=scale, transform=None)
            assert get_quantizer(bare.short.replace("·", ":")) == bare


@pytest.mark.parametrize("name", RECIPES)
def test_candidates_are_settings_of_the_recipe(name):
    for setting in get_recipe(name).candidates:
        assert get_recipe(f"{name}:{setting}") != get_recipe(name)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_frozen_named_sourced_and_serialisable(name):
    recipe = get_recipe(name)
    assert recipe.name == name and recipe.source and recipe.title
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.name = "other"
    json.dumps(recipe.to_dict())
    assert LayerSpec.from_dict(json.loads(recipe.spec.key)) == recipe.spec
    assert parse_spec(recipe.spec.key) == recipe.spec
    assert recipe == get_recipe(name) and get_recipe(recipe) is recipe
    assert recipe.loss_scale == 2.0 ** round(torch.tensor(recipe.loss_scale).log2().item())


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("fp32", [None] * 6),
        ("bf16", ["bf16"] * 6),
        ("fp16", ["fp16"] * 6),
        ("hfp8", ["fp8_143", "fp8_143", "fp8_152", "fp8_143", "fp8_152", "fp8_143"]),
        (
            "sun2020",
            ["uint4", "int4_sym", "fp4_radix4", "int4_sym", "fp4_radix4_odd", "uint4"],
        ),
    ],
)
def test_six_slots(recipe, expected):
    spec = get_recipe(recipe).spec
    found = [spec.slot(name) for name in SLOTS]
    assert [None if q is None else q.format.name for q in found] == expected


def test_every_switch_has_its_default_among_its_choices_and_a_reason():
    for name in RECIPES:
        for switch in get_recipe(name).switches:
            assert switch.default in switch.choices and len(switch.choices) > 1 and switch.why
            assert dict(get_recipe(name).settings)[switch.name] == switch.default


@pytest.mark.parametrize("setting", [f"{s.name}={c}" for s in SWITCHES for c in s.choices], ids=str)
def test_every_setting_of_sun2020_trains_a_step(setting):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(64, 8),
        nn.Tanh(), nn.Linear(8, 2),
    )  # fmt: skip
    nybble.convert(model, f"sun2020:{setting}")
    model(torch.randn(4, 2, 6, 6)).square().sum().backward()
    for name, layer in nybble.quantized_layers(model):
        assert layer.weight.grad.isfinite().all() and layer.weight.grad.any(), name


def test_every_setting_but_the_default_changes_the_recipe():
    default = get_recipe("sun2020")
    for switch in SWITCHES:
        for choice in switch.choices:
            other = get_recipe(f"sun2020:{switch.name}={choice}")
            same = (other.spec, other.rules) == (default.spec, default.rules)
            assert same == (choice == switch.default), (switch.name, choice)


def test_settings_are_parsed_with_their_signs():
    recipe = get_recipe("sun2020:odd_offset=+1+factor=1.848")
    assert dict(recipe.settings)["odd_offset"] == "+1"
    assert recipe.spec.grad_weight_grad.format.name == "fp4_radix4_odd_up"
    assert get_recipe("sun2020:odd_offset=-1") == get_recipe("sun2020")


def test_phases_choose_the_grids():
    def grids(phases):
        spec = get_recipe(f"sun2020:phases={phases}").spec
        return spec.grad_input_grad.format.phase, spec.grad_weight_grad.format.phase

    for phases in ("even-odd", "odd-even", "even-even", "odd-odd"):
        assert grids(phases) == tuple(phases.split("-"))


def test_rules_are_tried_in_order():
    recipe = get_recipe("sun2020")
    spec, rule = recipe.resolve(facts(position=("first",)))
    assert spec.output_weight.format.name == "fp16" and rule.position == "first"
    spec, rule = recipe.resolve(facts())
    assert spec == recipe.spec and rule is None
    spec, rule = recipe.resolve(facts(types=("conv", "conv1x1"), family=("bottleneck",)))
    assert spec.output_weight.format.name == "fp8_143"
    spec, rule = recipe.resolve(facts(types=("conv", "conv1x1")))
    assert rule is None


def test_strict_has_no_exempt_layer_and_an_affine_image():
    recipe = get_recipe("sun2020-strict")
    for position in ((), ("first",), ("last",), ("first", "last")):
        spec, _ = recipe.resolve(facts(position=position))
        for name in SLOTS:
            assert spec.slot(name).format.bits == 4
    image = recipe.resolve(facts(position=("first",)))[0].output_input
    assert image.format.name == "int4" and image.scale.short.startswith("minmax")


def test_strict_image_takes_the_article_s_codes():
    """0 becomes -8, 1 becomes 7, and 0.3 becomes -3.5 and then -4."""
    image = get_recipe("sun2020-strict").resolve(facts(position=("first",)))[0].output_input
    q = nybble.quantize(torch.tensor([0.0, 1.0, 0.3]), image)
    codes = q.codes().to(torch.int32)
    assert torch.where(codes > 7, codes - 16, codes).tolist() == [-8, 7, -4]


def test_a_ten_line_recipe_of_your_own():
    spec = get_recipe("sun2020").spec
    mine = Recipe(
        "mine",
        "forward only",
        "here",
        dataclasses.replace(spec, grad_input_grad=None, grad_weight_grad=None),
        rules=(Rule(None, type="linear", why="the head stays"),),
    )
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    plain = copy.deepcopy(model)
    nybble.convert(model, mine)
    assert type(model[2]) is nn.Linear
    x = torch.rand(2, 1, 4, 4)
    model(x).sum().backward()
    plain(x).sum().backward()
    assert torch.equal(model[2].bias.grad, plain[2].bias.grad)


def test_rule_descriptions_and_patterns():
    assert Rule(None, type="conv1x1", family="bottleneck").describe() == (
        "conv1x1 layer of a bottleneck network"
    )
    assert Rule(None, name="re:^a").matches(facts("abc"))
    assert not Rule(None, name="a").matches(facts("abc"))
    assert not Rule(None, type="linear").matches(facts())


@pytest.mark.parametrize(
    ("slot", "value", "message"),
    [
        ("output_input", "same", "takes a Quantizer"),
        ("output_weight", Quantizer(get_format("fp4_radix4"), GradScale()), "for gradients"),
        ("grad_input_grad", Quantizer(get_format("fp16"), GradScale()), "integers"),
        ("output_weight", Quantizer(get_format("uint4"), PACT()), "inputs"),
    ],
)
def test_slots_refuse_scales_that_have_no_use_there(slot, value, message):
    with pytest.raises(nybble.UserError, match=message):
        LayerSpec(**{slot: value})


def test_slots_of_other_granularity_and_backward_quantizers_of_their_own():
    """Row scales on inputs, channel scales on gradients, and operands quantised anew for backward:
    results stay near float32's, whichever multipliers can leave the sum."""
    eight = get_format("int8")
    spec = LayerSpec(
        output_input=Quantizer(eight, AbsMax("row")),
        output_weight=Quantizer(eight, AbsMax("channel", axis=0)),
        grad_input_grad=Quantizer(eight, AbsMax("row")),
        grad_input_weight=Quantizer(eight, AbsMax("channel", axis=1)),
        grad_weight_grad=Quantizer(eight, AbsMax("channel", axis=1)),
        grad_weight_input=Quantizer(eight, AbsMax("channel", axis=1)),
    )
    recipe = Recipe("rows", "8-bit rows and channels", "here", spec)
    torch.manual_seed(0)
    plain = nn.Linear(32, 16)
    x = torch.randn(24, 32, requires_grad=True)
    y = plain(x)
    y.square().sum().backward()
    for accumulate in ("fast", "exact"):
        layer = nybble.convert(copy.deepcopy(plain), recipe, accumulate=accumulate)
        layer.zero_grad()
        x2 = x.detach().clone().requires_grad_()
        z = layer(x2)
        z.square().sum().backward()
        for ours, theirs in ((z, y), (x2.grad, x.grad), (layer.weight.grad, plain.weight.grad)):
            assert (ours - theirs).norm() < 0.03 * theirs.norm()


def test_specs_refuse_what_they_do_not_know():
    with pytest.raises(nybble.UserError, match="no field wrong"):
        LayerSpec.from_dict({"wrong": 1})


@pytest.mark.parametrize(
    "name",
    [
        "sun2020:",
        "sun2020:+factor=1.6",
        "sun2020:factor=1.6+",
        "sun2020:factor=1.6++phases=average",
    ],
)
def test_an_empty_switch_is_refused(name: str) -> None:
    with pytest.raises(nybble.UserError, match="an empty switch"):
        get_recipe(name)
    assert dict(get_recipe("sun2020:odd_offset=+1").settings)["odd_offset"] == "+1"
