"""5-bit logarithms: what the rounding is, that products are shifts, and where it falls apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import nybble
from nybble.formats import LogFormat, LogNearest, get_format
from nybble.formats.oracle import decode, encode
from nybble.ops.spec import SLOTS
from nybble.quantizers import AbsMax, Quantizer
from nybble.recipes import get_recipe
from nybble.recipes.miyashita2016 import ABLATION, SQRT2

FORMAT = get_format("log5_base2")
OPERAND = get_recipe("miyashita2016").spec.output_input


def test_every_operand_is_a_power_of_two_of_five_bits() -> None:
    spec = get_recipe("miyashita2016").spec
    assert {spec.slot(name) for name in SLOTS} == {OPERAND}
    levels = [v for v in OPERAND.format.values() if v > 0]
    assert len(levels) == 15 and all(math.frexp(v)[0] == 0.5 for v in levels)


def test_rounding_is_in_the_exponent() -> None:
    """2^round(log2 |x|), so the error is at most half an octave; checked by the scalar oracle."""
    x = (2.0 ** torch.linspace(-6.4, 7.4, 2000)).to(torch.float32)
    for value in x.tolist():
        found = decode(encode(value, FORMAT, LogNearest(SQRT2)), FORMAT)
        exponent = math.log2(value)
        if abs(exponent % 1 - 0.5) > 1e-6:
            assert found == 2.0 ** round(exponent)
        assert abs(math.log2(found / value)) <= 0.5 + 1e-6


def test_a_product_of_two_operands_is_a_shift() -> None:
    torch.manual_seed(0)
    a, b = (nybble.quantize(torch.randn(100), OPERAND).dequantize() for _ in range(2))
    mantissas = torch.frexp((a * b).abs()[(a * b) != 0])[0]
    assert bool((mantissas == 0.5).all())


def test_logarithms_keep_the_small_numbers_that_integers_of_as_many_bits_lose() -> None:
    """The paper's case for them: gradients and activations spread over many octaves."""
    torch.manual_seed(0)
    x = torch.randn(20_000) * (2 * torch.randn(20_000)).exp()
    linear = nybble.quantize(x, Quantizer(get_format("int5"), AbsMax())).dequantize()
    logarithmic = nybble.quantize(x, OPERAND).dequantize()
    lost = [(q == 0).float().mean().item() for q in (linear, logarithmic)]
    assert lost[0] > 0.98 and lost[1] < 0.35
    error = [((q - x).abs() / x.abs()).median().item() for q in (linear, logarithmic)]
    assert error[0] == 1.0 and error[1] < 0.4


def test_the_geometric_midpoint_stretches_and_never_shrinks_as_radix_4_does() -> None:
    """Log-uniform numbers: E[q / x] = 1 / (sqrt(2) ln 2) = 1.020, of radix 4 at 1.6 0.866."""
    x = 2.0 ** torch.linspace(-4, 4, 80_001)[:-1]
    mean = (FORMAT.round(x, LogNearest(SQRT2)) / x).mean().item()
    assert mean == pytest.approx(1 / (math.sqrt(2) * math.log(2)), abs=1e-3)
    radix4 = (LogFormat(4, 5).round(x, LogNearest("1.6")) / x).mean().item()
    assert radix4 == pytest.approx(0.8656, abs=1e-3)


def test_where_it_falls_apart_the_error_of_a_forward_product_does_not_fall_with_width() -> None:
    """Each operand is off by up to 41 % however many bits range has, so the relative error
    of a product of random vectors stays near 0.25 at any width, while INT8's is below 0.02."""
    torch.manual_seed(0)
    for width in (64, 1024):
        x, w = torch.randn(64, width), torch.randn(64, width)
        exact = x @ w.t()
        found = []
        for quantizer in (OPERAND, get_recipe("int8").spec.output_input):
            a, b = (nybble.quantize(t, quantizer).dequantize() for t in (x, w))
            found.append(((a @ b.t() - exact).norm() / exact.norm()).item())
        assert 0.2 < found[0] < 0.3 and found[1] < 0.02


@pytest.mark.parametrize("recipe", ABLATION)
def test_every_setting_of_its_study_trains_a_step(recipe: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(64, 2)
    )
    nybble.convert(model, recipe)
    (model(torch.randn(4, 2, 6, 6)).square().sum() * nybble.loss_scale(model)).backward()
    for name, layer in nybble.quantized_layers(model):
        assert layer.weight.grad.isfinite().all() and layer.weight.grad.any(), name
