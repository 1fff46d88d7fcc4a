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

import nybble
from nybble.nn.inputs import signed_input
from nybble.ops import native
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
    assert all(why_not(spec, conv.geometry, gemm) is None for gemm in GEMMS)
    x = conv.x if case[1] else conv.x.relu()
    before = CORE.active_isa()
    CORE.use_isa(isa)
    try:
        compare(spec, conv.geometry, x, conv.weight, conv.grad, bias=conv.bias)
    finally:
        CORE.use_isa(before)


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
