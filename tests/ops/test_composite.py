"""Layers with block scales, tiles, free scales and transforms equal their definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.composite_oracle import Oracle

import nybble
from nybble.nn.function import LayerCall
from nybble.ops.geometry import Geometry
from nybble.ops.spec import Accumulator, LayerSpec
from nybble.quantizers import AbsMax, Hadamard, Quantizer, Stochastic, Unit

KEY = {"seed": 5, "layer": 2, "call": 7}
E2M1, INT4 = nybble.get_format("fp4_e2m1"), nybble.get_format("int4_sym")
RANDOM = Stochastic()

NV, MX = Quantizer(E2M1, AbsMax.nv()), Quantizer(E2M1, AbsMax.mx())
FREE = Quantizer(INT4, AbsMax("free"))
TILE = Quantizer(E2M1, AbsMax("tile", block=16, scale_format="fp8_e4m3"))
SMALL = Quantizer(INT4, AbsMax("block", block=4))
OUTER = Quantizer(E2M1, AbsMax("block", None, 4, "fp8_e4m3", outer=8))


def slots(
    forward: Quantizer | None, backward: Quantizer | None = None, **changes: Any
) -> LayerSpec:
    """`forward` in both operands of the output Gemm, `backward` (the same) in the gradients and,
    where it is given, in their partners."""
    g = replace(backward or forward, rounding=RANDOM)  # type: ignore[type-var]
    own = (
        {}
        if backward is None
        else dict.fromkeys(("grad_input_weight", "grad_weight_input"), backward)
    )
    spec = LayerSpec(forward, forward, grad_input_grad=g, grad_weight_grad=g, **own)  # type: ignore[arg-type]
    return replace(spec, **changes)


def turned(quantizer: Quantizer, **options: Any) -> Quantizer:
    return replace(quantizer, transform=Hadamard(8, **options))


SPECS = {
    "nv": slots(NV, NV),
    "nv-same": slots(NV),
    "nv-tile": slots(NV, NV, output_weight=TILE, grad_input_weight="same"),
    "nv-outer": slots(OUTER, OUTER),
    "mx": slots(MX, MX),
    "mx-headroom": slots(Quantizer(E2M1, AbsMax.mx(headroom=4 / 3))),
    "mx-ceil": slots(Quantizer(E2M1, AbsMax.mx(exponent="ceil")), MX),
    "small": slots(SMALL, SMALL),
    "free": slots(FREE, FREE),
    "free-same": slots(FREE),
    "fp8-blocks": slots(Quantizer(nybble.get_format("fp8_e4m3"), AbsMax("block", block=8))),
    "wide": slots(turned(Quantizer(nybble.get_format("bf16"), Unit()), signs="fixed"), NV),
    "turned": slots(turned(NV), turned(MX)),
    "turned-strided": slots(turned(FREE, order="strided"), turned(FREE, signs="none")),
    "turned-same": LayerSpec(
        turned(FREE), turned(FREE), replace(FREE, rounding=RANDOM), "same",
        replace(FREE, rounding=RANDOM), "same",
    ),
    "turned-double": slots(turned(NV), turned(SMALL), double=True),
    "turned-wide": slots(FREE, turned(Quantizer(nybble.get_format("bf16"), Unit()))),
    "double": slots(NV, NV, double=True),
    "double-wide": slots(Quantizer(nybble.get_format("bf16"), Unit()), NV, double=True),
    "backward-only": LayerSpec(None, None, NV, None, NV, None),
    "samples": slots(NV, samples=3),
}  # fmt: skip

CONV = Geometry("conv2d", (2, 1), (1, 2), (1, 2))
GEOMETRIES = {
    "linear": (Geometry("linear"), (9, 37), (6, 37)),
    "bmm": (Geometry("bmm"), (3, 5, 18), (3, 7, 18)),
    "conv2d": (CONV, (3, 5, 7, 6), (6, 5, 3, 2)),
    "grouped": (replace(CONV, groups=2), (2, 18, 6, 6), (4, 9, 3, 2)),
    "conv3d": (
        Geometry("conv3d", (1, 2, 1), (0, 1, 1), (1,) * 3), (2, 3, 4, 5, 4), (5, 3, 2, 3, 2),
    ),
    "transposed": (
        Geometry("conv_transpose2d", (2, 2), (1, 0), (1, 1), output_padding=(1, 0)),
        (2, 5, 4, 3), (5, 6, 3, 2),
    ),
    "transposed-grouped": (
        Geometry("conv_transpose2d", (1, 2), (0, 1), (2, 1), 2), (2, 6, 4, 5), (6, 5, 2, 3),
    ),
}  # fmt: skip


def data(geometry: Geometry, x_shape: tuple[int, ...], w_shape: tuple[int, ...], seed: int = 0):
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: tuple[int, ...], wide: float) -> torch.Tensor:
        spread = torch.randn(shape, generator=generator).mul_(wide).exp_()
        return torch.randn(shape, generator=generator) * spread

    y_shape = geometry.output_shape(x_shape, w_shape)
    return normal(x_shape, 0.5) + 0.3, normal(w_shape, 0.2), normal(y_shape, 1.0)


def run(
    x: torch.Tensor,
    w: torch.Tensor,
    dy: torch.Tensor,
    spec: LayerSpec,
    geometry: Geometry,
    accumulate: str = "fast",
    bias: torch.Tensor | None = None,
    key: dict[str, int] = KEY,
    last: bool = False,
):
    """y, dx, dw and what was kept, from the operators; only what a layer keeps comes back."""
    call = LayerCall(spec, geometry, accumulate, "reference", *key.values())
    more = list(geometry.output_padding)
    y, saved = torch.ops.nybble.layer_forward(x, w, bias, None, *call.arguments(), True, more)
    raw_x = x if spec.kept("grad_weight_input") is None else None
    dx, dw, *_ = torch.ops.nybble.layer_backward(
        dy, raw_x, w, saved, torch.zeros(1), list(x.shape), list(w.shape),
        *call.arguments(), [last, last], [True, True, False],
    )  # fmt: skip
    return y, dx, dw, saved


def check(found: torch.Tensor, expected: torch.Tensor) -> None:
    top = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-6 * (top + 1e-30))


@pytest.mark.parametrize("shapes", GEOMETRIES.values(), ids=list(GEOMETRIES))
@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_a_layer_equals_its_definition(spec: LayerSpec, shapes: Any) -> None:
    geometry = shapes[0]
    assert spec.composite
    x, w, dy = data(*shapes)
    found = run(x, w, dy, spec, geometry)
    if geometry.kind == "bmm" and spec.output_weight == TILE:
        spec = replace(spec, output_weight=NV)  # tiles are a weight's: see groups.along
    expected = Oracle(spec, geometry, **KEY).step(x, w, dy)
    for one, other in zip(found, expected, strict=False):
        check(one, other)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 40),
    inner=st.integers(1, 40),
    outer=st.integers(1, 40),
    name=st.sampled_from(["nv", "nv-tile", "nv-outer", "mx", "turned", "turned-double", "free"]),
    seed=st.integers(0, 99),
)
def test_any_shape_of_a_linear_layer(rows, inner, outer, name, seed) -> None:
    shapes = (Geometry("linear"), (rows, inner), (outer, inner))
    x, w, dy = data(*shapes, seed)
    found = run(x, w, dy, SPECS[name], shapes[0])
    expected = Oracle(SPECS[name], shapes[0], **KEY).step(x, w, dy)
    for one, other in zip(found, expected, strict=False):
        check(one, other)


@settings(max_examples=25, deadline=None)
@given(
    p=st.fixed_dictionaries(
        {
            "n": st.integers(0, 3),
            "groups": st.integers(1, 2),
            "cin": st.integers(1, 9),
            "cout": st.integers(1, 5),
            "size": st.tuples(st.integers(3, 5), st.integers(3, 5)),
            "kernel": st.tuples(st.integers(1, 2), st.integers(1, 3)),
            "stride": st.tuples(st.integers(1, 2), st.integers(1, 2)),
            "padding": st.tuples(st.integers(0, 1), st.integers(0, 1)),
            "dilation": st.tuples(st.integers(1, 2), st.just(1)),
        }
    ),
    name=st.sampled_from(["nv", "small", "turned", "free-same"]),
    transposed=st.booleans(),
)
def test_any_shape_of_a_convolution(p, name, transposed) -> None:
    kind = "conv_transpose2d" if transposed else "conv2d"
    geometry = Geometry(kind, p["stride"], p["padding"], p["dilation"], p["groups"])
    x_shape = (p["n"], p["groups"] * p["cin"], *p["size"])
    ends = (
        (p["groups"] * p["cin"], p["cout"]) if transposed else (p["groups"] * p["cout"], p["cin"])
    )
    x, w, dy = data(geometry, x_shape, (*ends, *p["kernel"]))
    if dy.numel() == 0 and p["n"]:
        return  # a kernel larger than a small image
    found = run(x, w, dy, SPECS[name], geometry)
    expected = Oracle(SPECS[name], geometry, **KEY).step(x, w, dy)
    for one, other in zip(found, expected, strict=False):
        check(one, other)


def test_scales_outside_of_the_sum_are_exact_bit_for_bit() -> None:
    """y = fl(integer sum) fl(s_x s_w), and the same with the gradient's own scales."""
    spec, geometry = SPECS["free"], Geometry("linear")
    x, w, dy = data(geometry, (9, 50), (6, 50))
    y, dx, dw, _ = run(x, w, dy, spec, geometry, "exact")
    oracle = Oracle(spec, geometry, **KEY)
    pairs = {
        "output": ("output_input", x, "output_weight", w.clone(), "mk,nk->mn"),
        "grad_input": ("grad_input_grad", dy, "grad_input_weight", w, "mn,nk->mk"),
        "grad_weight": ("grad_weight_grad", dy, "grad_weight_input", x, "mn,mk->nk"),
    }
    for found, (a, left, b, right, sum_) in zip((y, dx, dw), pairs.values(), strict=True):
        qa, qb = oracle.quantized(left, a), oracle.quantized(right, b)
        total = torch.einsum(sum_, qa.integers().long(), qb.integers().long()).float()
        sa, sb = qa.fit.scale.reshape(-1, 1), qb.fit.scale.reshape(1, -1)
        assert torch.equal(found, total * (sa * sb))


def test_block_scales_multiply_the_codes_bit_for_bit() -> None:
    """The Gemm runs on values: those of the QTensors, in torch's own float32 product."""
    spec, geometry = SPECS["nv"], Geometry("linear")
    x, w, dy = data(geometry, (33, 50), (40, 50))
    y, dx, dw, _ = run(x, w, dy, spec, geometry, "exact")
    of = Oracle(spec, geometry, **KEY).values
    assert torch.equal(y, torch.nn.functional.linear(of(x, "output_input"), of(w, "output_weight")))
    assert torch.equal(dx, of(dy, "grad_input_grad") @ of(w, "grad_input_weight"))
    assert torch.equal(dw, of(dy, "grad_weight_grad").t() @ of(x, "grad_weight_input"))


def test_bias_is_added_last() -> None:
    geometry = GEOMETRIES["conv2d"][0]
    x, w, dy = data(*GEOMETRIES["conv2d"])
    bias = torch.randn(6)
    y, *_ = run(x, w, dy, SPECS["nv"], geometry)
    assert torch.equal(
        run(x, w, dy, SPECS["nv"], geometry, bias=bias)[0], y + bias.view(1, -1, 1, 1)
    )


@pytest.mark.parametrize("name", ["nv", "nv-tile", "turned", "mx", "samples"])
def test_channels_last_has_the_same_values(name: str) -> None:
    geometry = GEOMETRIES["conv2d"][0]
    x, w, dy = data(*GEOMETRIES["conv2d"])
    plain = run(x, w, dy, SPECS[name], geometry)
    lasts = (t.to(memory_format=torch.channels_last) for t in (x, w, dy))
    last = run(*lasts, SPECS[name], geometry, last=True)
    for one, other in zip(last[:3], plain[:3], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_narrow_accumulators_take_values() -> None:
    spec = replace(SPECS["nv"], accumulator=Accumulator("fp16", 8))
    x, w, dy = data(Geometry("linear"), (9, 37), (6, 37))
    y, *_ = run(x, w, dy, spec, Geometry("linear"))
    exact, *_ = Oracle(SPECS["nv"], Geometry("linear"), **KEY).step(x, w, dy)
    error = (y - exact).abs().max() / exact.abs().max()
    assert 0 < error < 2e-3
    assert torch.equal(y, nybble.get_format("fp16").round(y))


@pytest.mark.parametrize("name", ["nv", "mx", "free", "turned", "small", "turned-same"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", range(3))
def test_what_is_not_finite_reaches_all_that_depends_on_it(name, bad, where) -> None:
    operands = list(data(Geometry("linear"), (9, 20), (6, 20)))
    operands[where][1, 2] = bad
    y, dx, dw, _ = run(*operands, SPECS[name], Geometry("linear"))
    if where == 0:
        assert y[1].isnan().all() and dw[:, 2].isnan().all()
    elif where == 1:
        assert y[:, 1].isnan().all() and dx[:, 2].isnan().all()
    else:
        assert dx[1].isnan().all() and dw[2].isnan().all()


@pytest.mark.parametrize("name", ["nv", "turned", "samples", "mx-headroom"])
def test_calls_differ_and_repeat(name: str) -> None:
    x, w, dy = data(*GEOMETRIES["linear"])
    first, again, other = (
        run(x, w, dy, SPECS[name], Geometry("linear"), key={**KEY, "call": call})
        for call in (7, 7, 8)
    )
    assert torch.equal(first[2], again[2]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[2], other[2]) and not torch.equal(first[1], other[1])
