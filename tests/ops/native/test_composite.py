"""Layers whose scales follow the lines of a Gemm: native equals reference-exact in every bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bits import same_bits
from tests.ops.native.convs import Conv, conv_spec, convs
from tests.ops.native.test_layer import compare, run
from torch import Tensor

import nybble
from nybble.formats import Stochastic, get_format
from nybble.nn.inputs import signed_input
from nybble.ops import native
from nybble.ops.geometry import Geometry
from nybble.ops.native.plan import GEMMS, why_not
from nybble.ops.spec import LayerSpec
from nybble.quantizers import PACT, AbsMax, BestOfTwo, Quantizer
from nybble.recipes import get_recipe

CORE, MISSING = native.core()
pytestmark = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")
ISAS = () if CORE is None else CORE.isas()

LINEAR = Geometry("linear")
SETTINGS = [
    "",
    "weights=int4",
    "control=no",
    "samples=2",
    "gradients=fp4_radix2",
    "gradients=int4_sym",
    "gradients=fp4_e2m1",
]
SIZE = st.one_of(st.integers(1, 70), st.sampled_from([64, 128, 200]))


def spec_of(switches: str, signed: bool) -> LayerSpec:
    spec = get_recipe(f"nybble4:{switches}" if switches else "nybble4").spec
    return signed_input(spec) if signed else spec


def is_native(spec: LayerSpec) -> bool:
    return all(why_not(spec, LINEAR, gemm) is None for gemm in GEMMS)


def operands(m: int, k: int, n: int, signed: bool, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(m, k, generator=generator)
    weight = torch.randn(n, k, generator=generator) / 8
    grad = torch.randn(m, n, generator=generator) * 1e-4
    grad *= torch.exp2(torch.randint(-9, 9, (m, 1), generator=generator).float())
    return x if signed else x.relu(), weight, grad


@pytest.mark.parametrize("switches", SETTINGS)
@pytest.mark.parametrize("signed", [False, True])
def test_every_setting(switches: str, signed: bool) -> None:
    spec = spec_of(switches, signed)
    assert is_native(spec)
    x, weight, grad = operands(37, 70, 21, signed, len(switches))
    compare(spec, LINEAR, x, weight, grad, bias=torch.randn(21))


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=40)
@given(
    m=st.one_of(SIZE, st.sampled_from([0, 1030, 2049])),
    k=SIZE,
    n=SIZE,
    signed=st.booleans(),
    switches=st.sampled_from(SETTINGS[:4]),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**31),
)
def test_any_shape(isa, m, k, n, signed, switches, threads, seed) -> None:
    CORE.use_isa(isa)
    torch.set_num_threads(threads)
    if isa == "generic":
        m, k, n = min(m, 300), min(k, 70), min(n, 70)
    compare(spec_of(switches, signed), LINEAR, *operands(m, k, n, signed, seed))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("where", ["x", "weight", "grad"])
@pytest.mark.parametrize("signed", [False, True])
def test_numbers_that_are_not_finite(bad: float, where: str, signed: bool) -> None:
    x, weight, grad = operands(13, 40, 9, signed, 1)
    {"x": x, "weight": weight, "grad": grad}[where][3, 5] = bad
    arguments = (spec_of("", signed), LINEAR, x, weight, None, None, grad, torch.zeros(1))
    expected, ours = run("reference", *arguments), run("native", *arguments)
    for a, b in zip(expected, ours, strict=True):
        # The codes of what is not finite are unspecified; its multiplier is NaN.
        assert a.dtype is torch.uint8 or same_bits(a, b)
    line = expected[0][3] if where == "x" else expected[0][:, 3]
    assert line.isnan().all() or where == "grad" or bad == 3e38


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-44])
@pytest.mark.parametrize("signed", [False, True])
def test_zeros_and_denormal_numbers(value: float, signed: bool) -> None:
    x, weight, grad = operands(13, 40, 9, signed, 1)
    for tensor in (x, weight, grad):
        tensor[2] = value
    grad[:, 4] = value
    compare(spec_of("", signed), LINEAR, x, weight, grad)
    compare(spec_of("", signed), LINEAR, x, weight, torch.full_like(grad, value))


def test_a_clip_for_the_whole_tensor() -> None:
    """PACT's mask and its gradient go with gradients by line."""
    spec = replace(
        spec_of("", False), output_input=Quantizer(get_format("uint4"), PACT("unsigned"))
    )
    assert is_native(spec)
    x, weight, grad = operands(33, 70, 20, False, 3)
    compare(spec, LINEAR, x, weight, grad, bias=torch.randn(20), alpha=0.7)


CONVS = [
    ("nybble4", False),
    ("nybble4", True),
    ("nybble4:control=no", False),
    ("nybble4:conv_weights=w20", True),
    ("nybble4:conv_inputs=pact", False),
    ("nybble4:samples=2", False),
]


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=60)
@given(case=st.sampled_from(CONVS), conv=convs(), threads=st.integers(1, 2))
def test_convolutions(isa, case, conv, threads) -> None:
    CORE.use_isa(isa)
    torch.set_num_threads(threads)
    compare_conv(conv_spec(*case), conv, signed=case[1])


def compare_conv(spec: LayerSpec, conv: Conv, *, signed: bool) -> None:
    assert all(why_not(spec, conv.geometry, gemm) is None for gemm in GEMMS)
    x = conv.x if signed else conv.x.relu()
    compare(spec, conv.geometry, x, conv.weight, conv.grad, bias=conv.bias, alpha=0.9)


@pytest.mark.parametrize("channels", [8, 96])
@pytest.mark.parametrize("last", [False, True])
def test_depthwise_convolutions(channels: int, last: bool) -> None:
    """Their own kernels, and a control variate in as many groups."""
    generator = torch.Generator().manual_seed(channels)
    form = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(3, channels, 9, 9, generator=generator).contiguous(memory_format=form)
    grad = torch.randn(x.shape, generator=generator).contiguous(memory_format=form)
    weight = torch.randn(channels, 1, 3, 3, generator=generator)
    geometry = Geometry("conv2d", (1, 1), (1, 1), (1, 1), channels)
    conv = Conv(geometry, x, weight, grad, torch.randn(channels, generator=generator))
    for recipe, signed in CONVS:
        compare_conv(conv_spec(recipe, signed), conv, signed=signed)


def test_long_columns() -> None:
    """More rows than a float32 sum of codes holds exactly."""
    spec = spec_of("", True)
    rows = (1 << 24) // 31 + 70
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 2, generator=generator)
    grad = torch.rand(rows, 2, generator=generator)
    compare(spec, LINEAR, x, torch.randn(2, 2, generator=generator), grad)


def test_why_not() -> None:
    spec = spec_of("", True)
    grad = Quantizer(get_format("g31"), AbsMax("tensor"), Stochastic())
    for other, text in (
        (replace(spec, grad_input_grad=grad), "grad_input_grad"),
        (replace(spec, fold=False), "output_input"),
        (replace(spec, double=True), "kernel"),
        (replace(spec, grad_input_grad=None), "float32"),
        (replace(spec, output_weight=Quantizer(get_format("w20"), BestOfTwo("row"))), "weight"),
    ):
        reason = why_not(other, LINEAR, "output")
        assert reason is not None and text in reason.text
        x, weight, gradient = operands(9, 20, 7, True, 1)
        compare(other, LINEAR, x, weight, gradient)


@pytest.mark.parametrize("last", [False, True])
def test_no_images(last: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3))
    nybble.convert(model, "nybble4", rules={"0": "nybble4"}, backend="native")
    x = torch.randn(0, 3, 7, 7, requires_grad=True)
    y = model(x.to(memory_format=torch.channels_last) if last else x)
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    assert not model[0].weight.grad.any()
