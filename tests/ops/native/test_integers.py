"""Layers whose backward operands are rotated and rounded again: integer products, the same bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bits import same_bits
from tests.ops.native.convs import conv_spec, convs
from tests.ops.native.test_composite import CORE, ISAS, LINEAR, is_native, operands
from tests.ops.native.test_layer import compare, run
from tests.ops.native.test_shaped import KIND, shapes

import nybble
from nybble.nn.inputs import signed_input
from nybble.ops import native
from nybble.ops.geometry import Geometry
from nybble.ops.native import integers
from nybble.ops.native.plan import GEMMS, why_not
from nybble.ops.reference import gemm as reference
from nybble.ops.spec import LayerSpec
from nybble.recipes import get_recipe

pytestmark = pytest.mark.skipif(CORE is None, reason=native.core()[1] or "compiled module present")

SWITCHES = [
    "block=64",
    "block=16+order=consecutive",
    "block=128+partner=w20",
    "weights=int4+control=no",
    "inputs=uint4+block=32",
]


def spec_of(switches: str, signed: bool) -> LayerSpec:
    spec = get_recipe(f"nybble4-hadamard:{switches}").spec
    return signed_input(spec) if signed else spec


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("signed", [False, True])
def test_every_setting(switches: str, signed: bool) -> None:
    spec = spec_of(switches, signed)
    assert is_native(spec)
    x, weight, grad = operands(37, 70, 21, signed, len(switches))
    compare(spec, LINEAR, x, weight, grad, bias=torch.randn(21))


@settings(deadline=None, max_examples=25)
@given(
    m=st.sampled_from([0, 1, 2, 33, 64, 130]),
    k=st.integers(1, 130),
    n=st.integers(1, 130),
    isa=st.sampled_from(list(ISAS) or [""]),
    switches=st.sampled_from(SWITCHES),
    seed=st.integers(0, 2**31),
)
def test_any_shape(m: int, k: int, n: int, isa: str, switches: str, seed: int) -> None:
    before = CORE.active_isa()
    CORE.use_isa(isa)
    try:
        compare(spec_of(switches, seed % 2 == 0), LINEAR, *operands(m, k, n, seed % 2 == 0, seed))
    finally:
        CORE.use_isa(before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("where", ["x", "weight", "grad"])
def test_numbers_that_are_not_finite(bad: float, where: str) -> None:
    x, weight, grad = operands(13, 40, 9, True, 1)
    {"x": x, "weight": weight, "grad": grad}[where][3, 5] = bad
    arguments = (spec_of("block=16", True), LINEAR, x, weight, None, None, grad, torch.zeros(1))
    expected, ours = run("reference", *arguments), run("native", *arguments)
    for a, b in zip(expected, ours, strict=True):
        assert a.dtype is torch.uint8 or same_bits(a, b)


def test_all_integers_of_a_byte_in_either_place() -> None:
    """Exhaustive over pairs: 255 x 255 products, each alone in its sum."""
    line = torch.arange(-127.0, 128.0)
    a, b = line.view(-1, 1), line.view(1, -1)
    found = integers.grad_input(a, b, LINEAR, (255, 255), max_grad=127, max_weight=127)
    assert torch.equal(found, a * b)
    found = integers.grad_weight(b, line.view(1, -1), LINEAR, (255, 255), max_grad=127, max_x=127)
    assert torch.equal(found, a * b)


@pytest.mark.parametrize("limit", [None, 128, 1000])
def test_what_is_no_byte_goes_to_the_reference(
    limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integers, "gemm", None)
    x = torch.tensor([[300.0, -1.0]])
    found = integers.grad_input(x, x.t(), LINEAR, (1, 1), max_grad=limit, max_weight=limit)
    assert torch.equal(found, reference.grad_input(x, x.t(), LINEAR, (1, 1)))


CONVS = [
    ("nybble4-hadamard:block=64", False),
    ("nybble4-hadamard:block=16+order=consecutive", True),
    ("nybble4-hadamard:block=128+partner=w20", False),
    ("nybble4-hadamard:conv_weights=w20+block=32", True),
    ("nybble4-hadamard:inputs=uint4+control=no", False),
]


@settings(deadline=None, max_examples=100)
@given(case=st.sampled_from(CONVS), isa=st.sampled_from(list(ISAS) or [""]), conv=convs())
def test_convolutions(case, isa, conv) -> None:
    spec = conv_spec(*case)
    one = conv.geometry.groups == 1
    assert all((why_not(spec, conv.geometry, gemm) is None) == one for gemm in GEMMS)
    x = conv.x if case[1] else conv.x.relu()
    before = CORE.active_isa()
    CORE.use_isa(isa)
    try:
        compare(spec, conv.geometry, x, conv.weight, conv.grad, bias=conv.bias)
    finally:
        CORE.use_isa(before)


OTHERS = [*CONVS, ("nybble4", True), ("nybble4:samples=2", False), ("nybble4:control=no", True)]


@pytest.mark.parametrize("kind", KIND)
@settings(deadline=None, max_examples=40)
@given(
    data=st.data(),
    case=st.sampled_from(OTHERS),
    last=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    isa=st.sampled_from(list(ISAS) or [""]),
    seed=st.integers(0, 2**20),
)
def test_other_convolutions(kind: str, data, case, last, isa, seed) -> None:
    geometry, x_shape, w_shape = data.draw(shapes(kind))
    spec = conv_spec(*case)
    known = geometry.groups == 1 or (geometry.mirror is None and not spec.double)
    assert all((why_not(spec, geometry, gemm) is None) == known for gemm in GEMMS)
    torch.manual_seed(seed)
    out = geometry.output_shape(x_shape, w_shape)
    x, weight, grad = torch.randn(x_shape), torch.randn(w_shape) / 8, torch.randn(out) * 1e-4
    x = x if case[1] else x.relu()
    tensors = [
        t.contiguous(memory_format=torch.channels_last) if yes and t.dim() == 4 else t
        for t, yes in zip((x, weight, grad), last, strict=True)
    ]
    before = CORE.active_isa()
    CORE.use_isa(isa)
    try:
        compare(spec, geometry, *tensors, bias=torch.randn(out[1]))
    finally:
        CORE.use_isa(before)


@pytest.mark.parametrize("kind", ["conv2d", *KIND])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("case", OTHERS)
def test_native_is_what_no_operator_of_torch_multiplies(
    kind: str, groups: int, case: tuple[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    dims = int(kind[-2])
    geometry = Geometry(kind, (2,) * dims, (1,) * dims, (1,) * dims, groups)
    x, weight = torch.rand(2, 6, *(5,) * dims), torch.randn(6, 6 // groups, *(3,) * dims)
    grad = torch.randn(geometry.output_shape(tuple(x.shape), tuple(weight.shape)))
    multiplied = set()
    for gemm in GEMMS:
        inner = getattr(reference, gemm)
        monkeypatch.setattr(
            reference, gemm, lambda *a, n=gemm, f=inner, **k: multiplied.add(n) or f(*a, **k)
        )
    spec = conv_spec(*case)
    run("native", spec, geometry, x, weight, None, torch.ones(1), grad, torch.zeros(1))
    assert multiplied == {gemm for gemm in GEMMS if why_not(spec, geometry, gemm) is not None}


def test_a_model_says_so_and_trains_alike() -> None:
    def model(backend: str) -> torch.nn.Module:
        torch.manual_seed(0)
        net = torch.nn.Sequential(*(torch.nn.Linear(32, 32) for _ in range(3)))
        return nybble.convert(
            net, "nybble4-hadamard:first_last=same", backend=backend, accumulate="exact", seed=3
        )

    x = torch.randn(24, 32)
    grads = []
    for backend in ("reference", "native"):
        net = model(backend)
        net(x).square().sum().backward()
        grads.append([p.grad for p in net.parameters()])
    assert all(same_bits(a, b) for a, b in zip(*grads, strict=True))
    assert "reference" not in str(nybble.summary(model("native"), x)).partition("Not converted")[0]
