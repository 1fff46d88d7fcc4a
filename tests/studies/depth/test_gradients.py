"""What is compared with what: gradients by hand, exact forwards, unbiased rounding, figures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from nybble.errors import UserError
from nybble.nn import quantized_layers
from nybble.studies.depth.chain import Chain, batch
from nybble.studies.depth.figures import FIGURES, compare
from nybble.studies.depth.gradients import arriving, converted, recipe_for

WIDTH = 16


def chain(kind: str = "plain", layers: str = "linear", depth: int = 3) -> Chain:
    torch.manual_seed(0)
    return Chain(kind, layers, depth, WIDTH)


def given(layers: str = "linear", number: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return batch(0, number, layers, WIDTH, 32)


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("layers", ["linear", "conv"])
def test_what_arrives_in_float32_is_autograds(kind: str, layers: str) -> None:
    model = chain(kind, layers)
    x, y = given(layers)
    found = arriving(model, x, y)
    nn.functional.cross_entropy(model(x), y).backward()
    for block, arrived in zip(model.blocks, found, strict=True):
        wanted = block.layer.weight.grad  # type: ignore[union-attr]
        assert torch.allclose(arrived.weight, wanted, atol=1e-7)
        assert torch.allclose(arrived.exact_weight, arrived.weight, atol=1e-7)
        assert torch.allclose(arrived.exact_input, arrived.input, atol=1e-7)
        if layers == "linear":
            by_hand = arrived.output @ block.layer.weight.detach()  # type: ignore[union-attr]
            assert torch.allclose(arrived.input, by_hand, atol=1e-6)


def test_a_pass_leaves_no_trace() -> None:
    model = chain()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first = arriving(model, *given())
    again = arriving(model, *given())
    assert torch.equal(first[0].weight, again[0].weight)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_only_blocks_have_few_bits_and_shortcuts_are_shortcuts() -> None:
    twin = converted(chain(), recipe_for("sun2020", "quantised"), 0)
    bits = {
        name: layer.nybble_spec.output_weight.format.bits  # type: ignore[union-attr]
        for name, layer in quantized_layers(twin)
    }
    assert bits == {"stem": 16, **{f"blocks.{i}.layer": 4 for i in range(3)}, "head": 16}
    model = chain("residual")
    with torch.no_grad():
        for block in model.blocks:
            block.layer.weight.zero_()  # type: ignore[union-attr, operator]
    x = torch.randn(4, WIDTH)
    assert torch.equal(model(x), model.head(model.stem(x)))


@pytest.mark.parametrize("recipe", ["sun2020", "luq", "nybble4", "wang2025"])
@pytest.mark.parametrize(("kind", "layers"), [("residual", "conv"), ("plain", "linear")])
def test_a_forward_pass_in_float32_is_exact(kind: str, layers: str, recipe: str) -> None:
    """Behind a ReLU, and of inputs with both signs, which have slots of their own."""
    model = chain(kind, layers)
    x, _ = given(layers)
    twin = converted(model, recipe_for(recipe, "float32"), 0)
    with torch.no_grad():
        assert torch.allclose(twin(x), model(x), atol=1e-4)
        other = converted(model, recipe_for(recipe, "quantised"), 0)(x)
        assert not torch.allclose(other, model(x), atol=1e-2)


def test_a_recipe_without_few_bits_has_no_error() -> None:
    model = chain()
    twin = converted(model, recipe_for("fp32", "quantised"), 0)
    for a, b in zip(arriving(twin, *given()), arriving(model, *given()), strict=True):
        found = compare(a.weight, a.weight, b.weight)
        assert found["error"] == found["bias"] == 0.0
        assert found["cosine"] == pytest.approx(1.0)


def test_a_loss_scale_is_divided_out() -> None:
    model = chain(depth=1)
    twin = converted(model, recipe_for("hfp8", "float32"), 0)
    (eight,), (exact,) = arriving(twin, *given()), arriving(model, *given())
    found = compare(eight.weight, eight.weight, exact.weight)
    assert found["norm_ratio"] == pytest.approx(1.0, abs=0.05)
    assert found["cosine"] > 0.99


def test_stochastic_rounding_of_one_layer_is_unbiased_and_the_nearest_is_not() -> None:
    """Of the even grid: the odd one ends at half the maximum, so that its top is clipped."""
    model = chain(depth=1)
    means = {}
    for recipe in ("sun2020:factor=stochastic", "sun2020"):
        chosen = recipe_for(recipe, "float32")
        draws = [arriving(converted(model, chosen, seed), *given())[0] for seed in range(60)]
        exact = draws[0].exact_input
        pairs = [
            compare(a.input, b.input, exact) for a, b in zip(draws[::2], draws[1::2], strict=True)
        ]
        means[recipe] = {n: sum(p[n] for p in pairs) / len(pairs) for n in FIGURES}
    random, nearest = means.values()
    assert random["shrinkage"] == pytest.approx(1.0, abs=0.03)
    assert abs(random["bias"]) < 0.25 * random["error"]
    assert nearest["bias"] == pytest.approx(nearest["error"])
    assert nearest["shrinkage"] < 0.95


@pytest.mark.parametrize("recipe", ["luq", "nvfp4", "tseng2025", "nybble4"])
def test_recipes_that_round_at_random_keep_the_length_of_both_gradients(recipe: str) -> None:
    """Of each layer's own products: a factor that one operand loses would be seen here."""
    torch.manual_seed(0)
    model = Chain("plain", "linear", 1, 64)
    x, y = batch(0, 0, "linear", 64, 64)
    chosen = recipe_for(recipe, "float32")
    draws = [arriving(converted(model, chosen, seed), x, y)[0] for seed in range(30)]
    for quantised, exact in (("input", "exact_input"), ("weight", "exact_weight")):
        mean = sum(getattr(draw, quantised) for draw in draws) / len(draws)
        found = compare(mean, mean, getattr(draws[0], exact))
        assert found["shrinkage"] == pytest.approx(1.0, abs=0.03)


def test_figures_of_known_tensors() -> None:
    g = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    half = compare(g / 2, g / 2, g)
    assert half == pytest.approx(
        {"cosine": 1, "shrinkage": 0.5, "norm_ratio": 0.5, "error": 0.25, "bias": 0.25}
    )
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    noise -= g * (noise @ g) / (g @ g)  # orthogonal
    both = compare(g + noise, g - noise, g)
    power = float(noise @ noise / (g @ g))
    assert both["bias"] == pytest.approx(-power, rel=1e-4)
    assert both["error"] == pytest.approx(power, rel=1e-4)
    assert both["cosine"] == pytest.approx(1 / math.sqrt(1 + power), rel=1e-4)
    assert all(math.isnan(value) for value in compare(g, g, torch.zeros(1000)).values())
    each = compare(g, 2 * noise, g, 2 * noise)  # each draw beside what is exact for it
    assert each == pytest.approx(
        {"cosine": 1, "shrinkage": 1, "norm_ratio": 1, "error": 0, "bias": 0}, abs=1e-6
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recipe_for("sun2020", "float"), "unknown forward 'float'; choose one of"),
        (lambda: recipe_for("sun2021", "float32"), "unknown recipe 'sun2021'"),
        (lambda: Chain("ring", "linear", 2, 4), "unknown kind 'ring'"),
        (lambda: Chain("plain", "con", 2, 4), "unknown layers 'con'.*conv"),
    ],
)
def test_unknown_words(call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_batches_are_functions_of_seed_and_number() -> None:
    for layers, shape in (("linear", [32, WIDTH]), ("conv", [32, 3, 8, 8])):
        x, y = given(layers)
        assert list(x.shape) == shape
        assert torch.equal(x, given(layers)[0])
        assert not torch.equal(x, given(layers, 1)[0])
        again = batch(1, 0, layers, WIDTH, 32)
        assert not torch.equal(y, again[1])
    # A class is one point: two examples of one class are closer than two of different ones.
    x, y = batch(0, 0, "linear", 64, 200)
    centres = torch.stack([x[y == c].mean(0) for c in range(10)])
    assert float(torch.pdist(centres).min()) > 5.0
