"""Native equals reference-exact where the gradient has one draw, several samples, a mean of two
grids or a random one, and where its scale is fitted, remembered or of 8 bits."""

from __future__ import annotations

import pytest
import torch
from tests.ops.native.test_layer import compare

from nybble.nn.function import LayerCall
from nybble.ops import native
from nybble.ops.geometry import Geometry
from nybble.ops.gradients import drawn
from nybble.ops.native.plan import GEMMS, why_not
from nybble.ops.reference.operand import Draw
from nybble.recipes import get_recipe

CORE, MISSING = native.core()
pytestmark = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")

NATIVE = [
    "luq",
    "luq:samples=2",
    "luq:samples=4+pair=each",
    "luq:scale=hindsight",
    "luq:scale=hindsight+power_of_two=yes+samples=2",
    "luq:power_of_two=yes",
    "int8",
    "int8:weights=tensor+rounding=nearest",
    "sun2020:phases=average",
    "sun2020:phases=random",
    "sun2020:phases=average+factor=stochastic",
    "sun2020:gradients=base3",
    "sun2020:gradient_bits=3",
    "sun2020:scope=global",
]
PARTLY = [
    "sun2020:gradients=base8",
    "sun2020:gradients=base10",
    "sun2020:gradient_bits=5",
    "miyashita2016",
]


@pytest.mark.parametrize("recipe", [*NATIVE, *PARTLY])
@pytest.mark.parametrize("state", [0.0, 2.0**14])
def test_linear(recipe: str, state: float) -> None:
    torch.manual_seed(len(recipe))
    x, weight = torch.rand(37, 70) * 2, torch.randn(21, 70) / 8
    grad = torch.randn(37, 21) * torch.randn(37, 21).exp() * 1e-3
    spec = get_recipe(recipe).spec
    compare(spec, Geometry("linear"), x, weight, grad, bias=torch.randn(21), state=state)
    for bad in (torch.nan, torch.inf):
        spoiled = grad.clone()
        spoiled[3, 4] = bad
        compare(spec, Geometry("linear"), x, weight, spoiled, state=state)


@pytest.mark.parametrize("recipe", [*NATIVE, *PARTLY])
@pytest.mark.parametrize("last", [True, False])
def test_convolution(recipe: str, last: bool) -> None:
    torch.manual_seed(len(recipe))
    x, weight = torch.rand(2, 19, 7, 6) * 2, torch.randn(18, 19, 3, 3) / 8
    grad = torch.randn(2, 18, 7, 6) * 1e-3
    if last:
        x, weight, grad = (
            t.contiguous(memory_format=torch.channels_last) for t in (x, weight, grad)
        )
    geometry = Geometry("conv2d", (1, 1), (1, 1), (1, 1))
    compare(get_recipe(recipe).spec, geometry, x, weight, grad, state=2.0**14)


@pytest.mark.parametrize("recipe", NATIVE)
@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_all_three_gemms_are_native(recipe: str, kind: str) -> None:
    geometry = (
        Geometry("linear") if kind == "linear" else Geometry("conv2d", (1, 1), (1, 1), (1, 1))
    )
    assert [why_not(get_recipe(recipe).spec, geometry, gemm) for gemm in GEMMS] == [None] * 3


def test_a_mean_of_an_operand_without_a_kernel_is_not_native() -> None:
    """`grad_input` runs with both slots, so both must be codes."""
    from dataclasses import replace

    from nybble.formats import get_format
    from nybble.quantizers import Quantizer, Unit

    spec = get_recipe("sun2020:phases=average").spec
    spec = replace(spec, grad_weight_grad=Quantizer(get_format("fp8_152"), Unit()))
    reason = why_not(spec, Geometry("linear"), "grad_input")
    assert reason is not None and "fp8_152" in reason.text


def _backward(spec, x, weight, grad, layer=1, call=2, backend="native", needs=(True, True)):
    one = LayerCall(spec, Geometry("linear"), "exact", backend, seed=3, layer=layer, call=call)
    _, saved = torch.ops.nybble.layer_forward(
        x, weight, None, torch.ones(1), *one.arguments(), True
    )
    return torch.ops.nybble.layer_backward(
        grad, None, None, saved, torch.tensor([64.0]), list(x.shape), list(weight.shape),
        *one.arguments(), [False, False], [*needs, False],
    )[:2]  # fmt: skip


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_the_mean_is_the_mean_of_the_two_phases(backend: str) -> None:
    torch.manual_seed(0)
    x, weight, grad = torch.rand(8, 16), torch.randn(5, 16), torch.randn(8, 5)
    even, odd, mean = (
        _backward(get_recipe(f"sun2020:phases={phases}").spec, x, weight, grad, backend=backend)
        for phases in ("even-even", "odd-odd", "average")
    )
    for a, b, c in zip(even, odd, mean, strict=True):
        assert not torch.equal(a, b) and torch.equal((a + b) * 0.5, c)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_a_random_phase_is_one_of_the_two_and_both_occur(backend: str) -> None:
    torch.manual_seed(0)
    x, weight, grad = torch.rand(8, 16), torch.randn(5, 16), torch.randn(8, 5)
    specs = [get_recipe(f"sun2020:phases={p}").spec for p in ("even-even", "odd-odd", "random")]
    even, odd = (_backward(spec, x, weight, grad, backend=backend) for spec in specs[:2])
    seen = set()
    for call in range(1, 17):
        found = _backward(specs[2], x, weight, grad, call=call, backend=backend)
        choice = tuple(torch.equal(a, b) for a, b in zip(found, even, strict=True))
        assert all(
            torch.equal(a, b if first else c)
            for a, b, c, first in zip(found, even, odd, choice, strict=True)
        )
        seen.add(choice)
    assert len(seen) == 4
    assert drawn(specs[2], Draw(0, 0, 1)).gradient_pair == "each"


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_one_draw_is_the_same_whichever_gemm_is_wanted(backend: str) -> None:
    """A frozen weight, or an input without a gradient, changes no bit of the other Gemm."""
    torch.manual_seed(0)
    x, weight, grad = torch.rand(8, 16), torch.randn(5, 16), torch.randn(8, 5)
    for recipe in ("luq", "luq:samples=4", "luq:pair=each"):
        spec = get_recipe(recipe).spec
        both = _backward(spec, x, weight, grad, backend=backend)
        dw = _backward(spec, x, weight, grad, backend=backend, needs=(False, True))[1]
        dx = _backward(spec, x, weight, grad, backend=backend, needs=(True, False))[0]
        assert torch.equal(both[0], dx) and torch.equal(both[1], dw)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_samples_are_averaged_and_independent(backend: str) -> None:
    """The mean over calls is the exact product; n samples divide the variance by n."""
    torch.manual_seed(0)
    x, weight = torch.randint(0, 16, (6, 8)) / 15, torch.randn(3, 8)
    grad = torch.randn(6, 3)
    spread = {}
    for n in (1, 2, 4):
        spec = get_recipe(f"luq:samples={n}").spec
        found = torch.stack(
            [_backward(spec, x, weight, grad, call=c, backend=backend)[1] for c in range(400)]
        )
        spread[n] = found.var(0).sum().item()
        q = get_recipe("luq").spec.output_input
        exact = grad.t() @ torch_dequantized(x, q)
        error = (found.mean(0) - exact).abs() / (found.std(0) / 20).clamp(min=1e-6)
        assert error.max() < 5
    assert spread[2] / spread[1] == pytest.approx(1 / 2, rel=0.2)
    assert spread[4] / spread[1] == pytest.approx(1 / 4, rel=0.2)


def torch_dequantized(x: torch.Tensor, quantizer) -> torch.Tensor:
    import nybble

    return nybble.quantize(x, quantizer).dequantize()
