"""Scale and codes in one call, and layers that call native functions without torch's dispatcher:
the same bits as the reference and as the operators."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bits import same_bits
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import nybble
from nybble.formats import LogFormat, LogNearest, get_format
from nybble.nn.function import LayerCall
from nybble.nn.state import QuantizedLayer
from nybble.ops.geometry import Geometry
from nybble.ops.native import core, gradient, operand
from nybble.ops.native.rules import fit_rule, gradient_rule
from nybble.ops.reference import gradient as reference_gradient
from nybble.ops.reference.operand import Draw, quantize_operand, store
from nybble.ops.spec import LayerSpec
from nybble.quantizers import PACT, SAWB, AbsMax, GradScale, Quantizer
from nybble.recipes import get_recipe

CORE = core()[0]
pytestmark = pytest.mark.skipif(CORE is None, reason="no compiled module")
ISAS = CORE.isas() if CORE is not None else ("generic",)
DRAW = Draw(0, 1, 2)

SLOTS = {
    "pact": Quantizer(get_format("uint4"), PACT("unsigned")),
    "pact symmetric": Quantizer(get_format("int4_sym"), PACT("symmetric")),
    "sawb": Quantizer(get_format("int4_sym"), SAWB("ibm15", ste="clip")),
    "sawb luq": Quantizer(get_format("int4_sym"), SAWB("luq")),
    "absmax": Quantizer(get_format("int4"), AbsMax()),
    "absmax unsigned": Quantizer(get_format("uint4"), AbsMax()),
}
EVEN, ODD = get_format("fp4_radix4"), LogFormat(4, 4).odd()
EXTREMES = {
    "zeros": [0.0, -0.0, 0.0],
    "denormal": [1e-45, -1e-40, 3e-39],
    "huge": [3e38, -3e38, 1.0],
    "infinite": [1.0, float("inf"), -2.0],
    "nan": [float("nan"), 1.0, 2.0],
    "constant": [0.5] * 70,
    "ternary": [0.5, -0.5, 0.0, 0.5],
    "one": [3.0],
    "empty": [],
}


@pytest.fixture(autouse=True, params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    assert CORE is not None
    before = CORE.active_isa()
    CORE.use_isa(request.param)
    yield request.param
    CORE.use_isa(before)


def check_operand(x: Tensor, slot: Quantizer, clip: float) -> None:
    alpha = torch.tensor([clip]) if isinstance(slot.scale, PACT) else None
    found = quantize_operand(x.clone(), slot, DRAW, 0, alpha, want_inside=True)
    expected = store(found, slot, found.inside)
    ours = operand.quantize_kept(x, slot, DRAW, 0, alpha, want_inside=True)
    assert same_bits(expected[1], ours[1]), (expected[1], ours[1])
    if not expected[1].isnan().any():  # else the codes mean nothing
        assert all(same_bits(a, b) for a, b in zip(expected, ours, strict=True))


@pytest.mark.parametrize("name", SLOTS)
@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 5000),
    spread=st.integers(-40, 40),
    clip=st.floats(-1.0, 4.0, width=32),
)
def test_operand(name: str, seed: int, n: int, spread: int, clip: float) -> None:
    assert fit_rule(SLOTS[name]) is not None
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=generator) * 2.0**spread
    check_operand(x, SLOTS[name], clip * 2.0**spread)


@pytest.mark.parametrize("name", SLOTS)
@pytest.mark.parametrize("data", EXTREMES)
@pytest.mark.parametrize("clip", [1.0, 0.0, 1e-42, float("inf"), float("nan")])
def test_operand_at_extremes(name: str, data: str, clip: float) -> None:
    check_operand(torch.tensor(EXTREMES[data]), SLOTS[name], clip)


@pytest.mark.parametrize("clips", [None, 0, 2])
def test_a_clip_that_is_not_one_number_is_refused(clips: int | None) -> None:
    alpha = None if clips is None else torch.ones(clips)
    with pytest.raises(nybble.errors.NybbleError, match="clip"):
        operand.quantize_kept(torch.ones(3), SLOTS["pact"], DRAW, 0, alpha, want_inside=True)


def gradient_spec(first: LogFormat, second: LogFormat, rounding: str) -> LayerSpec:
    rule = LogNearest(rounding)
    return LayerSpec(
        grad_input_grad=Quantizer(first, GradScale(), rule),
        grad_weight_grad=Quantizer(second, GradScale(), rule),
    )


GRADIENTS = {
    "both phases": gradient_spec(EVEN, ODD, "1.6"),
    "phases exchanged": gradient_spec(ODD, EVEN, "1.848"),
    "one phase": gradient_spec(EVEN, EVEN, "1.6"),
    "radix 2": gradient_spec(LogFormat(2, 4), LogFormat(2, 4), "mid"),
}


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("state", [1.0, 2.0**126, 0.3])
@pytest.mark.parametrize("data", ["normal", *(name for name in EXTREMES if name != "empty")])
def test_gradient(name: str, wanted: tuple[bool, bool], state: float, data: str) -> None:
    spec, scale = GRADIENTS[name], torch.tensor([state])
    slots = (spec.grad_input_grad, spec.grad_weight_grad)
    assert gradient_rule(*slots) is not None
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(3, 65, generator=generator) / state
    if data != "normal":
        grad = torch.tensor(EXTREMES[data])
    expected = reference_gradient.quantize_gradient(grad.clone(), spec, scale, DRAW, wanted)
    ours = gradient.quantize_gradient(grad, spec, scale, DRAW, wanted)
    # The maximum of zeros may have either sign: nothing reads it.
    assert same_bits(expected[2] + 0.0, ours[2] + 0.0) and same_bits(expected[3], ours[3])
    for slot, a, b in zip(slots, expected[:2], ours[:2], strict=True):
        assert (a is None) == (b is None)
        if a is None:
            continue
        assert isinstance(b, list)
        kept = store(a, slot, None)
        assert same_bits(kept[1], b[1])
        if not kept[1].isnan().any():
            assert same_bits(kept[0], b[0])


class Watch(TorchDispatchMode):
    """Sees operators, and so makes layers call them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def small_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 16, 5)
    )
    nybble.convert(model, "sun2020:first_last=int4", backend="native")
    return model


def trained(model: nn.Module, watched: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    optimizer = torch.optim.SGD(nybble.param_groups(model, lr=0.1))
    seen: list[str] = []
    for _ in range(4):
        x = torch.randn(6, 3, 4, 4, generator=generator)
        watch = Watch()
        if watched:
            with watch:
                model(x).square().mean().backward()
        else:
            model(x).square().mean().backward()
        seen += watch.seen
        optimizer.step()
        optimizer.zero_grad()
    names = ("nybble.layer_forward.default", "nybble.layer_backward.default")
    assert all((name in seen) == watched for name in names)
    with torch.no_grad():
        out = model.eval()(torch.ones(1, 3, 4, 4))
    return [out, *(t.clone() for t in model.state_dict().values())]


def test_direct_calls_equal_the_operators() -> None:
    direct, watched = trained(small_model(), False), trained(small_model(), True)
    assert all(torch.equal(a, b) for a, b in zip(direct, watched, strict=True))


def test_results_of_an_operator_share_no_memory() -> None:
    call = LayerCall(get_recipe("sun2020").spec, Geometry("linear"), "exact", "native", 0, 1, 1)
    x, w = torch.rand(4, 70), torch.randn(5, 70)
    y, saved = torch.ops.nybble.layer_forward(
        x, w, None, torch.tensor([0.7]), *call.arguments(), True
    )
    results = torch.ops.nybble.layer_backward(
        *(torch.randn_like(y), None, None, saved, torch.ones(1), [4, 70], [5, 70]),
        *call.arguments(),
        [False, False],
        [False, True, False],
    )
    tensors = [y, *saved, *results]
    assert len({t.untyped_storage()._cdata for t in tensors}) == len(tensors)


def test_weights_written_without_a_trace_are_seen() -> None:
    layer = nn.Sequential(nn.Linear(8, 4))
    nybble.convert(layer, "sun2020:first_last=int4", backend="native")
    x = torch.rand(2, 8)
    before = layer(x)
    layer[0].weight.data.neg_()
    layer[0].bias.data.neg_()
    assert torch.equal(layer(x), -before)
    assert isinstance(layer[0], QuantizedLayer)


def test_codes_moved_in_memory_are_found_again() -> None:
    from nybble.ops.native.codes import Codes
    from nybble.ops.native.gemm import gemm

    codes = Codes.of(torch.full((32,), 0x11, dtype=torch.uint8), (8, 8), get_format("int4"))
    assert gemm(codes, codes).unique().tolist() == [8.0]
    codes.packed.set_(torch.full((32,), 0x22, dtype=torch.uint8))  # type: ignore[call-overload]
    assert gemm(codes, codes).unique().tolist() == [32.0]
    codes.packed.set_(torch.full((16,), 0x22, dtype=torch.uint8))  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="32 bytes are needed, got 16"):
        gemm(codes, codes)


def test_hashes_are_not_pickled() -> None:
    spec = get_recipe("sun2020").spec
    hash(spec)
    code = (
        "import pickle, sys; a = pickle.load(sys.stdin.buffer);"
        "from nybble.recipes import get_recipe; b = get_recipe('sun2020').spec;"
        "sys.exit(not (a == b and hash(a) == hash(b)))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(spec), check=False)
    assert done.returncode == 0
