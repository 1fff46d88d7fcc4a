"""Native equals reference-exact: outputs, what is saved, gradients, in every bit.

Whole layer calls through the operators: every setting of the recipes, linear and convolutional
shapes drawn by hypothesis, both memory formats of input and weight, every instruction set, several
thread counts.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bits import same_bits
from torch import Tensor

import nybble  # noqa: F401  defines the operators
from nybble.formats import get_format
from nybble.nn.function import LayerCall
from nybble.nn.inputs import signed_input
from nybble.ops import native
from nybble.ops.geometry import Geometry
from nybble.ops.native.plan import GEMMS, why_not
from nybble.ops.reference.operand import rereads
from nybble.ops.reference.storage import is_channels_last
from nybble.ops.spec import LayerSpec
from nybble.quantizers import PACT, Quantizer, Unit
from nybble.recipes import get_recipe

CORE, MISSING = native.core()
pytestmark = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")

SETTINGS = [
    "",
    "factor=1.848",
    "factor=stochastic",
    "underflow=half",
    "odd_offset=+1",
    "phases=odd-even",
    "phases=even-even",
    "gradscale=immediate",
    "gradscale=fit",
    "sawb=ibm16",
    "sawb=luq",
    "sawb_channel=yes",
    "ste=clip",
    "depthwise=fp4",
]
SIGNED = ["", "signed=two_sided", "signed=sawb", "signed=sawb+sawb=ibm16"]
CASES = [(s, False) for s in SETTINGS] + [(s, True) for s in SIGNED]


def spec_of(switches: str, signed: bool) -> LayerSpec:
    spec = get_recipe(f"sun2020:{switches}" if switches else "sun2020").spec
    return signed_input(spec) if signed else spec


def run(
    backend: str,
    spec: LayerSpec,
    geometry: Geometry,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    alpha: Tensor | None,
    grad: Tensor,
    state: Tensor,
) -> list[Tensor]:
    """Everything that a forward and a backward call return."""
    call = LayerCall(spec, geometry, "exact", backend, seed=3, layer=1, call=2)
    more = list(geometry.output_padding)
    y, saved = torch.ops.nybble.layer_forward(x, weight, bias, alpha, *call.arguments(), True, more)
    results = torch.ops.nybble.layer_backward(
        grad,
        x if spec.slot("grad_weight_input") is None else None,
        weight if rereads(spec.slot("grad_input_weight")) else None,
        saved,
        state,
        list(x.shape),
        list(weight.shape),
        *call.arguments(),
        [is_channels_last(x), is_channels_last(weight)],
        [True, True, alpha is not None],
    )
    return [y, *saved, *results]


def compare(
    spec: LayerSpec,
    geometry: Geometry,
    x: Tensor,
    weight: Tensor,
    grad: Tensor,
    *,
    bias: Tensor | None = None,
    state: float = 0.0,
    alpha: float = 1.5,
) -> None:
    slot = spec.output_input
    clips = None
    if slot is not None and isinstance(slot.scale, PACT):
        clips = torch.tensor([alpha, 0.7 * alpha][: slot.scale.clips])
    scale = torch.tensor([state])
    arguments = (spec, geometry, x, weight, bias, clips, grad, scale)
    expected, ours = run("reference", *arguments), run("native", *arguments)
    assert len(expected) == len(ours)
    for i, (a, b) in enumerate(zip(expected, ours, strict=True)):
        assert same_bits(a, b), f"result {i} of {len(ours)}: {a.shape}"
        assert is_channels_last(a) == is_channels_last(b), f"layout of result {i}"


@pytest.mark.parametrize(("switches", "signed"), CASES)
def test_linear_in_every_setting(switches: str, signed: bool) -> None:
    torch.manual_seed(len(switches))
    spec = spec_of(switches, signed)
    x = torch.randn(37, 70) if signed else torch.rand(37, 70) * 2
    weight, grad = torch.randn(21, 70) / 8, torch.randn(37, 21) * 1e-4
    for state in (0.0, 2.0**18):
        compare(spec, Geometry("linear"), x, weight, grad, bias=torch.randn(21), state=state)


@pytest.mark.parametrize(("switches", "signed"), CASES)
@pytest.mark.parametrize("last", [True, False])
def test_convolution_in_every_setting(switches: str, signed: bool, last: bool) -> None:
    torch.manual_seed(len(switches))
    spec = spec_of(switches, signed)
    x = torch.randn(2, 19, 7, 6) if signed else torch.rand(2, 19, 7, 6) * 2
    weight, grad = torch.randn(18, 19, 3, 3) / 8, torch.randn(2, 18, 7, 6) * 1e-4
    if last:
        x, weight, grad = (
            t.contiguous(memory_format=torch.channels_last) for t in (x, weight, grad)
        )
    geometry = Geometry("conv2d", (1, 1), (1, 1), (1, 1))
    compare(spec, geometry, x, weight, grad, bias=torch.randn(18), state=2.0**18)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", ["unsigned", "symmetric", "two_sided"])
def test_a_number_that_is_not_finite_spoils_the_clips_gradient(kind: str, bad: float) -> None:
    """What its code is, and so on which side of the clip it lies, is not said anywhere."""
    torch.manual_seed(0)
    signed = kind != "unsigned"
    spec = spec_of(f"signed={kind}" if signed else "", signed)
    x, weight, grad = torch.rand(8, 16) * 2, torch.randn(5, 16), torch.randn(8, 5)
    x[0, 3] = bad
    slot = spec.output_input
    assert slot is not None and isinstance(slot.scale, PACT) and slot.scale.kind == kind
    clips = torch.tensor([1.5, 1.0][: slot.scale.clips])
    for backend in ("reference", "native"):
        found = run(
            backend, spec, Geometry("linear"), x, weight, None, clips, grad, torch.tensor([32.0])
        )
        y, dalpha = found[0], found[-3]
        assert dalpha.shape == clips.shape and bool(dalpha.isnan().all())
        assert bool(y.isnan().all())


@pytest.mark.parametrize("wide", ["grad_weight_grad", "grad_input_grad"])
@pytest.mark.parametrize("switches", ["", "gradscale=immediate", "factor=stochastic"])
@pytest.mark.parametrize("state", [0.0, 2.0**18])
def test_one_wide_operand_beside_one_in_codes(switches: str, wide: str, state: float) -> None:
    """As HFP8 makes the grad_weight of 1x1 convolutions."""
    torch.manual_seed(3)
    slot = Quantizer(get_format("fp8_152"), Unit())
    spec = replace(spec_of(switches, False), **{wide: slot})
    x, grad = torch.rand(2, 19, 7, 6) * 2, torch.randn(2, 18, 7, 6) * 1e-4
    weight = torch.randn(18, 19, 1, 1) / 8
    geometry = Geometry("conv2d", (1, 1), (0, 0), (1, 1))
    for bad in (None, torch.nan):
        if bad is not None:
            grad[0, 3, 2, 1] = bad
        compare(spec, geometry, x, weight, grad, state=state)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Geometry, tuple[int, ...], tuple[int, ...]]:
    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    inputs = groups * draw(st.integers(1, 20))
    outputs = groups * draw(st.integers(1, 20))
    depthwise = draw(st.integers(0, 7)) == 0
    if depthwise:
        groups = inputs
        outputs = inputs * draw(st.integers(1, 2))
    kernel = tuple(draw(st.sampled_from([1, 2, 3, 3, 5])) for _ in range(2))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(2))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(2))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(2))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = tuple(
        max(r - 2 * p, 1) + draw(st.integers(0, 9)) for r, p in zip(reach, padding, strict=True)
    )
    batch = draw(st.integers(1, 3))
    geometry = Geometry("conv2d", stride, padding, dilation, groups)
    return geometry, (batch, inputs, *size), (outputs, inputs // groups, *kernel)


@settings(max_examples=60, deadline=None)
@given(
    case=convolutions(),
    which=st.sampled_from(CASES),
    last=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    state=st.sampled_from([0.0, 1.0, 2.0**-10, 2.0**20]),
    threads=st.integers(1, 3),
    isa=st.integers(0, 3),
    seed=st.integers(0, 2**20),
)
def test_convolutions_of_any_shape(case, which, last, state, threads, isa, seed) -> None:
    geometry, x_shape, w_shape = case
    torch.manual_seed(seed)
    spec = spec_of(*which)
    x = torch.randn(x_shape) if which[1] else torch.rand(x_shape) * 2
    weight = torch.randn(w_shape)
    grad = torch.randn(geometry.output_shape(x_shape, w_shape)) * 10.0 ** -(seed % 9)
    tensors = [
        t.contiguous(memory_format=torch.channels_last) if yes else t
        for t, yes in zip((x, weight, grad), last, strict=True)
    ]
    with with_threads_and_isa(threads, isa):
        compare(spec, geometry, *tensors, state=state)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 70), st.integers(1, 200), st.integers(1, 70)),
    which=st.sampled_from(CASES),
    state=st.sampled_from([0.0, 1.0, 2.0**20]),
    threads=st.integers(1, 3),
    isa=st.integers(0, 3),
    seed=st.integers(0, 2**20),
)
def test_matrices_of_any_shape(shape, which, state, threads, isa, seed) -> None:
    m, k, n = shape
    torch.manual_seed(seed)
    spec = spec_of(*which)
    x = torch.randn(m, k) if which[1] else torch.rand(m, k) * 2
    grad = torch.randn(m, n) * 10.0 ** -(seed % 9)
    with with_threads_and_isa(threads, isa):
        compare(spec, Geometry("linear"), x, torch.randn(n, k), grad, state=state)


class with_threads_and_isa:  # noqa: N801
    """torch's thread count and the kernels' instruction set, put back afterwards."""

    def __init__(self, threads: int, isa: int) -> None:
        self.wanted = (threads, CORE.isas()[isa % len(CORE.isas())])

    def __enter__(self) -> None:
        self.before = (torch.get_num_threads(), CORE.active_isa())
        torch.set_num_threads(self.wanted[0])
        CORE.use_isa(self.wanted[1])

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before[0])
        CORE.use_isa(self.before[1])


@pytest.mark.parametrize("recipe", ["hfp8", "fp16", "sun2020-strict"])
def test_wider_layers_are_the_same_in_both_backends(recipe: str) -> None:
    torch.manual_seed(0)
    x, weight, grad = torch.rand(4, 6, 9, 9), torch.randn(8, 6, 3, 3), torch.randn(4, 8, 9, 9)
    compare(get_recipe(recipe).spec, Geometry("conv2d", (1, 1), (1, 1), (1, 1)), x, weight, grad)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["x", "weight", "grad"])
def test_what_is_not_finite_propagates(value: float, where: str) -> None:
    torch.manual_seed(0)
    tensors = {"x": torch.rand(5, 8), "weight": torch.randn(6, 8), "grad": torch.randn(5, 6)}
    tensors[where][0, 3] = value
    spec, geometry = spec_of("", False), Geometry("linear")
    arguments = (spec, geometry, tensors["x"], tensors["weight"], None, torch.tensor([1.5]))
    y, *rest = run("native", *arguments, tensors["grad"], torch.tensor([4.0]))
    dx, dw = rest[8], rest[9]
    assert y.isnan().all() == (where != "grad")
    assert dx.isnan().all() if where != "x" else dw.isnan().all()


def test_every_gemm_of_the_default_recipe_is_native() -> None:
    spec = spec_of("", False)
    for kind in ("linear", "conv2d"):
        assert all(why_not(spec, Geometry(kind), gemm) is None for gemm in GEMMS)
    channel = spec_of("sawb_channel=yes", False)
    reason = why_not(channel, Geometry("linear"), "grad_input")
    assert reason is not None
    assert not reason.by_recipe
    wide = replace(spec, output_weight=None)
    found = why_not(wide, Geometry("linear"), "output")
    assert found is not None
    assert found.by_recipe
