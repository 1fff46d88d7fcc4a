"""The layer operators, set to exact, equal the scalar oracle: all 32 bits of every element."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops import gemm_oracle as oracle

import nybble  # noqa: F401  defines the operators
from nybble.nn.function import LayerCall
from nybble.ops.geometry import Geometry
from nybble.quantizers import SAWB
from nybble.recipes import get_recipe

f32 = np.float32
SPEC = get_recipe("sun2020:first_last=fp32+one_by_one=int4+depthwise=fp4").spec


def bits(a) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(a, dtype=np.float32)).view(np.int32)


def quantized(x, w, alpha):
    """Integers and multipliers of input (UINT4, PACT) and weight ([-7, 7], SAWB), by numpy."""
    scale_x = f32(alpha) / f32(15)
    y = x * (f32(1) / scale_x)
    qx = np.rint(np.clip(y, f32(0), f32(15)))
    inside = np.clip(y, f32(0), f32(15)) == y
    fit = SAWB().fit(torch.from_numpy(w), SPEC.output_weight.format)
    scale_w = f32(fit.scale.item())
    qw = np.rint(np.clip(w * (f32(1) / scale_w), f32(-7), f32(7)))
    return qx, scale_x, inside, qw, scale_w


def run(x, w, bias, alpha, dy, geometry, state=0.0, spec=SPEC, accumulate="exact", needs=(1, 1, 1)):
    call = LayerCall(spec, geometry, accumulate, "reference", 0, 0, 0)
    tensor = torch.from_numpy
    y, saved = torch.ops.nybble.layer_forward(
        tensor(x),
        tensor(w),
        None if bias is None else tensor(bias),
        torch.tensor([alpha], dtype=torch.float32),
        *call.arguments(),
        True,
    )
    back = torch.ops.nybble.layer_backward(
        tensor(dy),
        None,
        None,
        saved,
        torch.tensor([state]),
        list(x.shape),
        list(w.shape),
        *call.arguments(),
        [False, False],
        list(map(bool, needs)),
    )
    return y, back


shapes = st.fixed_dictionaries(
    {
        "n": st.integers(1, 2),
        "groups": st.integers(1, 2),
        "cin": st.integers(1, 2),
        "cout": st.integers(1, 2),
        "size": st.tuples(st.integers(4, 6), st.integers(4, 6)),
        "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "stride": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "padding": st.tuples(st.integers(0, 2), st.integers(0, 2)),
        "dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "seed": st.integers(0, 2**16),
        "bias": st.booleans(),
    }
)


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_conv2d_equals_oracle(p):
    kernel = tuple(
        min(k, 2) if d == 2 else k for k, d in zip(p["kernel"], p["dilation"], strict=True)
    )
    rng = np.random.default_rng(p["seed"])
    x = rng.normal(0.3, 1.0, (p["n"], p["cin"] * p["groups"], *p["size"])).astype(np.float32)
    w = rng.normal(0, 0.2, (p["cout"] * p["groups"], p["cin"], *kernel)).astype(np.float32)
    args = (p["stride"], p["padding"], p["dilation"])
    geometry = Geometry("conv2d", *args, p["groups"])
    shape = geometry.output_shape(x.shape, w.shape)
    dy = (rng.normal(size=shape) * np.exp(rng.normal(0, 2, shape))).astype(np.float32)
    bias = rng.normal(size=w.shape[0]).astype(np.float32) if p["bias"] else None
    alpha = 1.75
    y, (dx, dw, dalpha, amax, scale) = run(x, w, bias, alpha, dy, geometry)

    qx, scale_x, inside, qw, scale_w = quantized(x, w, alpha)
    expected = oracle.finish(oracle.conv_output(qx, qw, *args, p["groups"]), scale_x, scale_w, bias)
    assert np.array_equal(bits(y), bits(expected))

    top = np.abs(dy).max()
    assert amax.item() == top
    assert 32 < top * scale.item() <= 64  # the warm start's exact fit
    s = f32(scale.item())
    even = np.vectorize(oracle.radix4_integer)(dy * s)
    odd = np.vectorize(lambda v: oracle.radix4_integer(v, -1))(dy * s)
    acc = oracle.conv_grad_input(even, qw, x.shape, *args, p["groups"])
    full = oracle.finish(acc, f32(1) / s * f32(1 / 64), scale_w)
    assert np.array_equal(bits(dx), bits(np.where(inside, full, f32(0) * full)))
    acc = oracle.conv_grad_weight(odd, qx, w.shape, *args, p["groups"])
    assert np.array_equal(bits(dw), bits(oracle.finish(acc, f32(1) / s * f32(1 / 128), scale_x)))
    clipped = np.where(~inside & (qx == 15), full, f32(0))
    assert bits(dalpha)[0] == bits(oracle.tree_sum(clipped) + f32(0))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 70), st.integers(1, 5), st.integers(0, 2**16), st.booleans()
)
def test_linear_equals_oracle(m, k, n, seed, with_bias):
    """A linear layer is a 1x1 convolution of 1x1 images: the oracle is the same."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.2, 1.0, (m, k)).astype(np.float32)
    w = rng.normal(0, 0.2, (n, k)).astype(np.float32)
    dy = rng.normal(size=(m, n)).astype(np.float32)
    bias = rng.normal(size=n).astype(np.float32) if with_bias else None
    y, (dx, dw, *_, scale) = run(x, w, bias, 1.5, dy, Geometry("linear"))
    qx, scale_x, inside, qw, scale_w = quantized(x, w, 1.5)
    one = ((1, 1), (0, 0), (1, 1), 1)
    qx4, qw4 = qx[:, :, None, None], qw[:, :, None, None]
    expected = oracle.finish(oracle.conv_output(qx4, qw4, *one), scale_x, scale_w, bias)
    assert np.array_equal(bits(y), bits(expected[:, :, 0, 0]))
    s = f32(scale.item())
    even = np.vectorize(oracle.radix4_integer)(dy * s)[:, :, None, None]
    odd = np.vectorize(lambda v: oracle.radix4_integer(v, -1))(dy * s)[:, :, None, None]
    full = oracle.finish(
        oracle.conv_grad_input(even, qw4, qx4.shape, *one), f32(1) / s * f32(1 / 64), scale_w
    )[:, :, 0, 0]
    assert np.array_equal(bits(dx), bits(np.where(inside, full, f32(0) * full)))
    acc = oracle.conv_grad_weight(odd, qx4, qw4.shape, *one)
    expected = oracle.finish(acc, f32(1) / s * f32(1 / 128), scale_x)
    assert np.array_equal(bits(dw), bits(expected[:, :, 0, 0]))


def test_exact_sums_beyond_2_24_round_once():
    """Sums far above 2^24: exact rounds once, from the oracle's integer; fast rounds on the way."""
    k = 2_000_003
    ones = np.ones((1, k), np.float32)
    x, w = 10 * ones, ones.copy()
    w[0, ::7] = 0.3  # so that partial sums are not all multiples of one number
    dy = np.array([[1.0]], dtype=np.float32)
    differs = []
    for mode in ("exact", "fast"):
        y, _ = run(x, w, None, 1.0, dy, Geometry("linear"), accumulate=mode)
        qx, scale_x, _, qw, scale_w = quantized(x, w, 1.0)
        total = int((qx.astype(int) * qw.astype(int)).sum())
        assert total > 2**27
        expected = f32(total) * (scale_x * scale_w)
        if mode == "exact":
            assert bits(y)[0, 0] == bits(expected)
        differs.append(bool(bits(y)[0, 0] != bits(expected)))
    assert differs == [False, True]


@pytest.mark.parametrize("gemm", ["grad_input", "grad_weight"])
def test_exact_backward_sums_beyond_2_24_round_once(gemm):
    """The gradient's integers reach 4096: 300,000 products are beyond 2^24 in either Gemm."""
    k = 300_001
    rng = np.random.default_rng(0)
    many = np.exp(rng.normal(0, 1, k)).astype(np.float32)
    one = np.ones((1, 1), np.float32)
    if gemm == "grad_input":  # contracts over the outputs
        x, w, dy = one, rng.uniform(0.1, 1, (k, 1)).astype(np.float32), many[None, :]
    else:  # contracts over the batch
        x, w, dy = rng.uniform(0, 1, (k, 1)).astype(np.float32), one, many[:, None]
    results = {}
    for mode in ("exact", "fast"):
        _, (dx, dw, _, _, scale) = run(x, w, None, 1.5, dy, Geometry("linear"), accumulate=mode)
        results[mode] = dx if gemm == "grad_input" else dw
    qx, scale_x, _, qw, scale_w = quantized(x, w, 1.5)
    s = f32(scale.item())
    if gemm == "grad_input":
        ints, other, unit = np.vectorize(oracle.radix4_integer)(dy * s), qw.ravel(), f32(1 / 64)
        scale_b = scale_w
    else:
        ints = np.vectorize(lambda v: oracle.radix4_integer(v, -1))(dy * s)
        other, unit, scale_b = qx.ravel(), f32(1 / 128), scale_x
    total = int((ints.ravel().astype(int) * other.astype(int)).sum())
    assert abs(total) > 2**24
    expected = f32(total) * ((f32(1) / s * unit) * scale_b)
    assert bits(results["exact"])[0, 0] == bits(expected)
    assert bits(results["fast"])[0, 0] != bits(expected)


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_nan_and_infinity_make_results_nan(mode):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4)).astype(np.float32)
    w = rng.normal(size=(3, 4)).astype(np.float32)
    dy = rng.normal(size=(2, 3)).astype(np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        broken = x.copy()
        broken[0, 0] = bad
        y, _ = run(broken, w, None, 1.0, dy, Geometry("linear"), accumulate=mode)
        assert torch.isnan(y).all()
        broken = w.copy()
        broken[0, 0] = bad
        y, _ = run(x, broken, None, 1.0, dy, Geometry("linear"), accumulate=mode)
        assert torch.isnan(y).all()
        broken = dy.copy()
        broken[0, 0] = bad
        _, (dx, dw, _, amax, scale) = run(
            x, w, None, 1.0, broken, Geometry("linear"), 8.0, accumulate=mode
        )
        assert torch.isnan(dx).all() and torch.isnan(dw).all()
        assert not torch.isfinite(amax).any()
        assert scale.item() == 8.0  # a bad gradient never moves the scale


def test_zero_gradient_moves_nothing():
    x, w = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    dy = np.zeros((2, 4), np.float32)
    _, (dx, dw, _, amax, scale) = run(x, w, None, 1.0, dy, Geometry("linear"), 0.0)
    assert not dx.any() and not dw.any() and amax.item() == 0.0
    assert scale.item() == 0.0  # still waiting for its first gradient


@pytest.mark.parametrize("shape", [(0, 3), (1, 3)])
def test_empty_and_single_batches(shape):
    x = np.ones(shape, np.float32)
    w = np.ones((4, 3), np.float32)
    y, (dx, dw, *_) = run(x, w, None, 1.0, np.ones((shape[0], 4), np.float32), Geometry("linear"))
    assert y.shape == (shape[0], 4) and dx.shape == shape and dw.shape == (4, 3)


@pytest.mark.parametrize("offset", ["-1", "+1"])
@pytest.mark.parametrize("phases", ["even-odd", "odd-even", "even-even", "odd-odd"])
@pytest.mark.parametrize("needs_input", [True, False])
def test_grad_scale_aims_at_the_even_grid_whatever_is_computed(phases, offset, needs_input):
    """A first layer has no grad_input Gemm, and yet the same scale as any other layer."""
    spec = get_recipe(f"sun2020:phases={phases}+odd_offset={offset}").spec
    rng = np.random.default_rng(0)
    x, w, dy = (rng.normal(size=s).astype(np.float32) for s in ((4, 3), (5, 3), (4, 5)))
    needs = [needs_input, True, False]
    _, (*_, amax, scale) = run(x, w, None, 1.0, dy, Geometry("linear"), spec=spec, needs=needs)
    assert 32 < amax.item() * scale.item() <= 64
