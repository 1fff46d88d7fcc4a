"""What recipes do to a Gemm as a whole: fold, samples, control variate, outliers, DGE."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.ops.composite_oracle import Oracle, gradients, multiply
from tests.ops.test_composite import (
    E2M1,
    FREE,
    GEOMETRIES,
    KEY,
    NV,
    RANDOM,
    SPECS,
    check,
    data,
    run,
    slots,
    turned,
)

from nybble.formats import get_format
from nybble.ops.geometry import Geometry
from nybble.ops.gradients import gradient_key
from nybble.ops.reference.estimator import factor, levels_of
from nybble.ops.reference.outliers import keep_outliers, restore_outliers, split_outliers
from nybble.ops.spec import DGE, LayerSpec
from nybble.quantizers import AbsMax, MinMax, Quantizer

LINEAR = GEOMETRIES["linear"]


def with_rounding(quantizer: Quantizer) -> Quantizer:
    return replace(quantizer, rounding=RANDOM)


# ---- fold ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GEOMETRIES)
def test_fold_puts_the_partners_scales_into_the_gradient(name: str) -> None:
    """dx = Q(dy s_w) w_int and dw = Q(dy s_x) x_int, with forward codes."""
    geometry, *_ = GEOMETRIES[name]
    x, w, dy = data(*GEOMETRIES[name])
    spec = slots(FREE, fold=True)
    y, dx, dw, _ = run(x, w, dy, spec, geometry)
    oracle = Oracle(spec, geometry, **KEY)
    qx, qw = oracle.quantized(x, "output_input"), oracle.quantized(w, "output_weight")
    check(y, multiply(qx.dequantize(), qw.dequantize(), geometry))
    if geometry.kind == "bmm":  # one scale for each line along the sum of the output
        weight, batch = qw.fit.scale.transpose(1, 2), qx.fit.scale
    elif geometry.mirror is None:  # the weight's rows are the gradient's channels
        weight = qw.fit.scale.reshape(1, -1, *[1] * (dy.dim() - 2))
        batch = qx.fit.scale
    else:
        weight = qw.fit.scale.reshape(1, -1, *[1] * (dy.dim() - 2)).repeat(
            1, geometry.groups, *[1] * (dy.dim() - 2)
        )
        batch = qx.fit.scale
    ints_x, ints_w = qx.integers().float(), qw.integers().float()
    g = oracle.values(dy * weight, "grad_input_grad")
    check(dx, gradients(ints_x, ints_w, g, geometry)[0])
    g = oracle.values(dy * batch, "grad_weight_grad")
    check(dw, gradients(ints_x, ints_w, g, geometry)[1])


def test_fold_leaves_scales_that_do_not_follow_the_sum() -> None:
    x, w, dy = data(*LINEAR)
    for spec in (SPECS["nv"], SPECS["free"], SPECS["turned"]):
        plain, folded = (run(x, w, dy, replace(spec, fold=f), LINEAR[0]) for f in (False, True))
        assert all(torch.equal(a, b) for a, b in zip(plain[:3], folded[:3], strict=True))


def test_fold_is_exact_in_the_integers() -> None:
    """The reason for it: both operands are integers, so a sum is exact and has one scale a row."""
    x, w, dy = data(*LINEAR)
    spec = slots(FREE, fold=True)
    _, dx, _, _ = run(x, w, dy, spec, LINEAR[0], "exact")
    oracle = Oracle(spec, LINEAR[0], **KEY)
    qw = oracle.quantized(w, "output_weight")
    g = oracle.quantized(dy * qw.fit.scale.reshape(1, -1), "grad_input_grad")
    total = (g.integers().long() @ qw.integers().long()).float()
    assert torch.equal(dx, total * g.fit.scale)


# ---- samples ------------------------------------------------------------------------------------


def many(spec, x, w, dy, geometry, count=300) -> torch.Tensor:
    return torch.stack(
        [run(x, w, dy, spec, geometry, key={**KEY, "call": i})[2] for i in range(count)]
    ).double()


def test_samples_are_averaged_and_divide_the_variance() -> None:
    shapes = (Geometry("linear"), (12, 5), (4, 5))
    x, w, dy = data(*shapes)
    one, four = (many(slots(FREE, samples=n), x, w, dy, shapes[0]) for n in (1, 4))
    ratio = float(one.var(0).mean() / four.var(0).mean())
    assert 3.2 < ratio < 5.0
    error = (four.mean(0) - one.mean(0)).abs()
    assert (error < 5 * (one.var(0) / 300).sqrt() + 1e-6).all()


def test_samples_are_the_definition_bit_for_bit() -> None:
    x, w, dy = data(*LINEAR)
    spec = slots(NV, samples=2)
    oracle = Oracle(spec, LINEAR[0], **KEY)
    qx = oracle.values(x, "output_input")
    parts = [oracle.values(dy, "grad_weight_grad", sample).t() @ qx for sample in (0, 1)]
    *_, dw, _ = run(x, w, dy, spec, LINEAR[0])
    torch.testing.assert_close(dw, (parts[0] + parts[1]) * 0.5, rtol=1e-6, atol=1e-6)
    assert not torch.equal(parts[0], parts[1])


def test_shared_bits_round_both_operands_alike_where_their_scales_agree() -> None:
    """With the identity for x and w, dx and dw^T are the two roundings of dy: equal if every row's
    and every column's maximum is 1 and the bits are shared; else they differ somewhere."""
    x = w = torch.eye(16)
    dy = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) * 0.9
    dy.fill_diagonal_(1.0)
    grad = with_rounding(Quantizer(get_format("g31"), AbsMax("free")))
    for pair, alike in (("shared", True), ("each", False)):
        spec = replace(
            slots(FREE, fold=False, gradient_pair=pair), grad_input_grad=grad, grad_weight_grad=grad
        )
        _, dx, dw, _ = run(x, w, dy, spec, LINEAR[0])
        assert torch.equal(dx, dw.t()) is alike


def test_shared_bits_leave_the_other_samples_their_own() -> None:
    shared = LayerSpec(gradient_pair="shared")
    keys = [gradient_key(shared, 1, sample) for sample in range(3)]
    assert keys[0] == gradient_key(shared, 0, 0)
    assert len(set(keys)) == 3
    assert keys[1:] == [gradient_key(LayerSpec(), 1, sample) for sample in (1, 2)]


# ---- control variate ----------------------------------------------------------------------------

VARIATES = {
    "free": slots(FREE, control_variate=True),
    "nv": slots(NV, NV, control_variate=True),
    "folded": slots(FREE, fold=True, control_variate=True),
    "turned": slots(turned(FREE), turned(FREE), control_variate=True),
    "samples": slots(FREE, control_variate=True, samples=2),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", ["free", "nv", "turned"])
def test_control_variate_is_its_definition(geometry: str, name: str) -> None:
    """dw = Q(dy)^T (x - m) + dy^T m: the mean's part of the product is not rounded."""
    shape, spec = GEOMETRIES[geometry][0], VARIATES[name]
    x, w, dy = data(*GEOMETRIES[geometry])
    *_, dw, _ = run(x, w, dy, spec, shape)
    oracle = Oracle(spec, shape, **KEY)
    slot = spec.grad_weight_grad
    g = oracle.turn(oracle.values(dy, "grad_weight_grad"), slot, "grad_weight_grad", back=True)
    if oracle.reused("grad_weight_input"):
        bx = oracle.values(x, "output_input")
    else:
        bx = oracle.values(x, "grad_weight_input")
        bx = oracle.turn(bx, spec.grad_weight_input, "grad_weight_input", back=True)
    dims = [1] if shape.kind == "bmm" else [d for d in range(x.dim()) if d != 1]
    mean = bx.mean(dims, keepdim=True).expand(bx.shape)
    rounded, exact = gradients(bx - mean, w, g, shape)[1], gradients(mean, w, dy, shape)[1]
    check(dw, rounded + exact)


@pytest.mark.parametrize("name", VARIATES)
def test_control_variate_is_unbiased_and_takes_noise_away(name: str) -> None:
    shapes = (Geometry("linear"), (16, 6), (4, 6))
    x, w, dy = data(*shapes)
    x = x * 0.3 + 3.0
    spec = VARIATES[name]
    found, plain = (
        many(replace(spec, control_variate=on), x, w, dy, shapes[0], 200) for on in (True, False)
    )
    turn = spec.grad_weight_input
    target = plain if turn == "same" or turn.transform is None else found  # x's rounding differs
    gap = (found.mean(0) - target.mean(0)).abs()
    assert (gap < 5 * (plain.var(0) / 200).sqrt() + 1e-6).all()
    assert found.var(0).mean() < 0.5 * plain.var(0).mean()


# ---- outliers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", ["linear", "conv2d", "bmm", "transposed"])
@pytest.mark.parametrize("name", ["nv", "nv-same", "turned", "free-same"])
def test_outliers_are_multiplied_apart(geometry: str, name: str) -> None:
    shape = GEOMETRIES[geometry][0]
    x, w, dy = data(*GEOMETRIES[geometry])
    spec = replace(SPECS[name], outliers=0.9)
    y, dx, dw, _ = run(x, w, dy, spec, shape)
    ordered = x.flatten().sort().values
    rank = -(-9 * (len(ordered) - 1) // 10)
    inner = x.clamp(ordered[len(ordered) - 1 - rank], ordered[rank])
    outer = x - inner
    assert 0 < int((outer != 0).sum()) <= 0.2 * x.numel() + 2
    oracle = Oracle(SPECS[name], shape, **KEY)
    inside = oracle.step(inner, w, dy)
    qw = oracle.turn(
        oracle.values(w, "output_weight"), spec.output_weight, "output_weight", back=True
    )
    check(y, inside[0] + multiply(outer, qw, shape))
    check(dx, inside[1])
    check(dw, inside[2] + gradients(outer, w, dy, shape)[1])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10, 101])
@pytest.mark.parametrize("quantile", [0.51, 0.6, 0.9, 0.99])
def test_outliers_of_any_number_of_elements(count: int, quantile: float) -> None:
    x = torch.randn(count, generator=torch.Generator().manual_seed(count)).round(decimals=0)
    inner, outer = split_outliers(x, quantile)
    assert torch.equal(inner + outer, x) and inner.min() >= x.min() and inner.max() <= x.max()
    kept = keep_outliers(outer, quantile)
    assert torch.equal(restore_outliers(kept, (count,)), outer)
    assert kept[0].numel() == 2 * (count - 1 - -(-quantile * (count - 1) // 1))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_infinite_outlier_is_no_number_that_can_be_clamped(bad: float) -> None:
    x, w, dy = data(*LINEAR)
    x[1, 2] = bad
    y, _, dw, _ = run(x, w, dy, replace(SPECS["free"], outliers=0.9), LINEAR[0])
    assert y.isnan().all() and dw.isnan().all()


# ---- DGE ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", ["linear", "conv2d", "transposed"])
@pytest.mark.parametrize("name", ["nv", "free", "turned", "nv-tile"])
def test_dge_multiplies_grad_weight_where_the_weight_is_rounded(geometry: str, name: str) -> None:
    shape = GEOMETRIES[geometry][0]
    x, w, dy = data(*GEOMETRIES[geometry])
    config = DGE(k=4.0, clip=2.5)
    *_, dw, _ = run(x, w, dy, replace(SPECS[name], weight_gradient=config), shape)
    oracle, slot = Oracle(SPECS[name], shape, **KEY), SPECS[name].output_weight
    levels = sorted(set(slot.format.values()))
    turned_w = oracle.turn(w, slot, "output_weight")
    fit = oracle.quantized(turned_w, "output_weight").fit
    scaled = fit.scaled(turned_w).double()
    expected = torch.ones_like(scaled)
    for i, value in enumerate(scaled.flatten().tolist()):
        for low, high in pairwise(levels):
            if low <= value <= high:
                t = abs(2 * (value - low) / (high - low) - 1)
                slope = config.clip if t == 0 else t ** (1 / config.k - 1) / config.k
                expected.view(-1)[i] = min(slope, config.clip)
    plain = oracle.turn(oracle.step(x, w, dy)[2].float(), slot, "output_weight").double()
    found = oracle.turn(dw, slot, "output_weight").double()
    torch.testing.assert_close(
        found, plain * expected, rtol=1e-3, atol=1e-4 * dw.abs().max().item()
    )


def test_dge_is_the_slope_of_a_curve_through_the_steps() -> None:
    """Its integral over a step is the step (where it is not clipped)."""
    levels = levels_of(NV)
    x = torch.linspace(-6, 6, 240_001)[:-1] + 12 / 480_000
    total = factor(x, levels, DGE(2.0, 1e9)).double().sum() * 12 / 240_000
    assert abs(float(total) - 12) < 0.1  # a pole in the middle of each step
    assert factor(torch.tensor([-6.1, 6.1]), levels, DGE()).tolist() == [1.0, 1.0]


def test_dge_knows_zero_points() -> None:
    slot = Quantizer(get_format("int4"), MinMax())
    spec = replace(slots(FREE), output_weight=slot, grad_input_weight=None, weight_gradient=DGE())
    x, w, dy = data(*LINEAR)
    plain = run(x, w + 2, dy, replace(spec, weight_gradient=None), LINEAR[0])
    found = run(x, w + 2, dy, spec, LINEAR[0])
    part = found[2] / plain[2]
    assert part.min() > 0.19 and part.max() < 3.01 and part.std() > 0.1


def test_tiles_serve_a_weight_and_its_transpose() -> None:
    """The reason for tiles: the backward Gemm sees the values of the forward one."""
    tile = Quantizer(E2M1, AbsMax("tile", block=16, scale_format="fp8_e4m3"))
    spec = replace(slots(NV), output_weight=tile, grad_input_weight=tile)
    x, w, dy = data(*LINEAR)
    same = run(x, w, dy, replace(spec, grad_input_weight="same"), LINEAR[0])
    assert torch.equal(run(x, w, dy, spec, LINEAR[0])[1], same[1])
