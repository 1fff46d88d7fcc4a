"""Flipped bits: which ones, how many, and that the network computes with exactly those weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import nybble
from nybble.errors import UserError
from nybble.nn import quantized_layers
from nybble.quantizers import quantize
from nybble.studies.measures.bitflips import (
    flip,
    flipped,
    flipped_after,
    flipped_words,
    mean,
    stored_weights,
    with_flips,
)
from nybble.studies.measures.trained import Trained

Load = Callable[..., Trained]
FOUR_BIT = ["features.4", "features.8"]
"""The layers of `cnn` between the first and the last."""


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.uint8, 4), (torch.uint8, 3), (torch.int32, 32)])
def test_every_bit_flips_with_the_same_chance(dtype: torch.dtype, bits: int) -> None:
    codes = torch.randint(0, 2 ** min(bits, 31), (20000,), generator=random()).to(dtype)
    changed = flip(codes, bits, 0.1, random(1)) ^ codes
    shares = [float(((changed >> bit) & 1).float().mean()) for bit in range(bits)]
    assert min(shares) > 0.09
    assert max(shares) < 0.11
    above = [(changed >> bit) & 1 for bit in range(bits, torch.iinfo(dtype).bits)]
    assert not any(plane.any() for plane in above)
    assert torch.equal(flip(codes, bits, 0.0, random(1)), codes)


def test_flips_are_nested_and_depend_on_seed_layer_and_draw(trained: Load) -> None:
    codes = torch.zeros(5000, dtype=torch.uint8)
    few, many = (flip(codes, 4, rate, random()) for rate in (0.01, 0.1))
    assert torch.equal(few & many, few)
    run = trained("images", "sun2020")
    weights = [
        dict(model.named_parameters())["features.4.weight"]
        for model in (
            flipped(run, 0.1, 0),
            flipped(run, 0.1, 0),
            flipped(run, 0.1, 1),
            flipped(trained("images", "sun2020", seed=9), 0.1, 0),
        )
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])


def test_only_the_weights_of_four_bits_change(trained: Load) -> None:
    run = trained("images", "sun2020")
    assert [name for name, _, _ in stored_weights(run.model, run)] == FOUR_BIT
    upset = flipped(run, 0.2, 0)
    before, after = dict(run.model.named_parameters()), dict(upset.named_parameters())
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == [f"{name}.weight" for name in FOUR_BIT]
    for name, layer, stored in stored_weights(run.model, run):
        values = after[f"{name}.weight"]
        levels = torch.arange(-8, 8) * stored.scale
        assert set(values.unique().tolist()) <= set(levels.tolist())
        flips = quantize(layer.weight, layer.nybble_spec.output_weight).dequantize() != values  # type: ignore[arg-type]
        assert math.isclose(float(flips.float().mean()), 1 - 0.8**4, rel_tol=0.2)


@pytest.mark.parametrize(("kind", "recipe"), [("images", "sun2020"), ("text", "sun2020")])
def test_without_flips_the_network_computes_what_it_did(
    trained: Load, kind: str, recipe: str
) -> None:
    """The values are not quantised again: SAWB would take another clip from them."""
    run = trained(kind, recipe)
    inputs = next(iter(run.task.test_batches()))[0]
    upset = flipped(run, 0.0, 0)
    with torch.no_grad():
        outputs = [model.eval()(inputs) for model in (run.model, upset)]
    first, second = (out[0] if isinstance(out, tuple) else out for out in outputs)
    assert torch.allclose(first, second, atol=1e-5)
    held = {
        name for name, layer in quantized_layers(upset) if layer.nybble_spec.output_weight is None
    }
    assert held == {name for name, _, _ in stored_weights(run.model, run)}
    assert math.isclose(with_flips(run, (0.0,), ())["codes-0"], run.metric(), rel_tol=1e-5)


def test_a_float32_network_is_quantised_after_training(trained: Load) -> None:
    run = trained("images", "fp32")
    for rate in (0.0, 0.1):
        upset = flipped_after(run, "sun2020", rate, 0)
        assert not list(quantized_layers(upset))
        assert type(upset.features[4]) is nn.Conv2d  # type: ignore[index]
        before, after = dict(run.model.named_parameters()), dict(upset.named_parameters())
        changed = [name for name in before if not torch.equal(before[name], after[name])]
        assert changed == [f"{name}.weight" for name in FOUR_BIT]
        assert all(len(after[f"{name}.weight"].unique()) <= 16 for name in FOUR_BIT)
    quantised = dict(flipped_after(run, "sun2020", 0.0, 0).named_parameters())
    wanted = quantize(dict(run.model.named_parameters())["features.4.weight"], "int4_sym:sawb")
    assert torch.equal(quantised["features.4.weight"], wanted.dequantize())


def test_both_recipes_meet_the_same_flips(trained: Load) -> None:
    """The same codes with the same seed give the same errors."""
    four, float32 = trained("images", "sun2020"), trained("images", "fp32")
    model = nybble.revert(copy.deepcopy(four.model))
    like = Trained(float32.config, float32.task, model, float32.seed)
    ours = dict(flipped(four, 0.05, 0).named_parameters())
    theirs = dict(flipped_after(like, "sun2020", 0.05, 0).named_parameters())
    assert all(torch.equal(ours[f"{n}.weight"], theirs[f"{n}.weight"]) for n in FOUR_BIT)


def test_words_of_float32_are_flipped_bit_by_bit(trained: Load) -> None:
    run = trained("images", "fp32")
    upset = flipped_words(run, "sun2020", 0.01, 0)
    before, after = dict(run.model.named_parameters()), dict(upset.named_parameters())
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == [f"{name}.weight" for name in FOUR_BIT]
    bits = before["features.8.weight"].view(torch.int32) ^ after["features.8.weight"].view(
        torch.int32
    )
    share = sum(float(((bits >> bit) & 1).float().mean()) for bit in range(32)) / 32
    assert math.isclose(share, 0.01, rel_tol=0.1)
    whole = flipped_words(run, "sun2020", 0.0, 0)
    assert all(torch.equal(before[k], v) for k, v in whole.named_parameters())


def test_flips_cost_accuracy_and_float32_words_more(trained: Load) -> None:
    four = with_flips(trained("images", "sun2020"), (0.0, 1e-4, 0.3), (), 2)
    assert list(four) == [f"codes-{r}{s}" for r in ("0", "0.0001", "0.3") for s in ("", ".failed")]
    assert four["codes-0.3"] < 70 < four["codes-0.0001"]
    assert four["codes-0.3.failed"] == 0.0
    float32 = with_flips(trained("images", "fp32"), (0.0,), (1e-6, 1e-2), 2)
    assert float32["codes-0"] > 80
    assert float32["words-1e-06"] > 80
    assert float32["words-0.01.failed"] == 1.0 or float32["words-0.01"] < 70


def test_draws_that_give_no_number_are_counted(
    trained: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("text", "fp32")
    found = with_flips(run, (), (0.05,), 2)
    assert found == {"words-0.05.failed": 1.0}
    assert mean([1.0, 8.0], True) == pytest.approx(8**0.5)
    assert mean([0.0, 8.0], True) == 4.0


def test_a_network_without_four_bit_weights_is_refused(trained: Load) -> None:
    run = trained("images", "sun2020")
    plain = nybble.revert(copy.deepcopy(run.model))
    with pytest.raises(UserError, match="no layer of cnn under sun2020 stores its weight"):
        flipped(Trained(run.config, run.task, plain, 0), 0.1, 0)


def test_a_computed_weight_cannot_be_held() -> None:
    layer = nn.Linear(4, 4)
    nn.utils.parametrizations.weight_norm(layer)
    model = nybble.convert(nn.Sequential(layer), "sun2020:first_last=int4")
    (held,) = (layer for _, layer in quantized_layers(model))
    with pytest.raises(UserError, match="a parametrization computes its weight"):
        held.hold_weight_(torch.zeros(4, 4))


@pytest.mark.parametrize("recipe", ["sun2020", "luq", "nvfp4", "int8", "nybble4", "hfp8"])
@pytest.mark.parametrize("layers", ["linear", "conv"])
def test_the_codes_are_those_that_the_layer_computes_with(
    trained: Load, recipe: str, layers: str
) -> None:
    """Whatever the scale's layout: without flips the outputs stay, with flips they do not."""
    run = trained("images")
    torch.manual_seed(0)
    if layers == "linear":
        x = torch.randn(16, 32)
        parts = [nn.Linear(32, 32) for _ in range(4)]
    else:
        x = torch.randn(2, 32, 6, 6)
        parts = [nn.Conv2d(32, 32, 3, padding=1) for _ in range(4)]
    model = nn.Sequential(*(m for part in parts for m in (part, nn.ReLU())))
    nybble.convert(model, recipe, backend="reference")
    model(x)  # sets clips
    like = Trained(run.config, run.task, model.eval(), 0)
    with torch.no_grad():
        clean, same, upset = (
            m.eval()(x) for m in (model, *(flipped(like, r, 0) for r in (0, 0.2)))
        )
    size = float(clean.abs().max())
    assert float((same - clean).abs().max()) < 1e-4 * size
    assert float((upset - clean).abs().max()) > 1e-2 * size
