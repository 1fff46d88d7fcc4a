"""Exact sums of integers, made in float32 where that holds them: equal to sums of int64, from far
below 2^24 to far beyond, with every term at the limit so that a part too many would show."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nybble.ops.geometry import Geometry
from nybble.ops.reference import gemm


def integers(shape: tuple[int, ...], limit: int, seed: int, same: bool) -> Tensor:
    """Integers up to a limit; `same`: nearly all of them the limit itself, one less at places."""
    generator = torch.Generator().manual_seed(seed)
    if same:
        return limit - (torch.rand(shape, generator=generator) < 0.1).float()
    return torch.randint(-limit, limit + 1, shape, generator=generator).float()


def products(a: Tensor, b: Tensor) -> Tensor:
    """a^T b in int64, as float32 rounds it."""
    return (a.long().t() @ b.long()).float()


def patches(x: Tensor, weight: Tensor) -> Tensor:
    """im2col with one pixel of padding: [N x pixels, C x 9], in float64."""
    columns = torch.nn.functional.unfold(x.double(), weight.shape[2:], padding=1)
    return columns.transpose(1, 2).flatten(0, 1)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3000),
    st.sampled_from([1, 7, 20, 127, 4096]),
    st.sampled_from([7, 127, 4096]),
    st.integers(0, 99),
    st.booleans(),
)
def test_weight_gradients_of_matrices(rows: int, a: int, b: int, seed: int, same: bool) -> None:
    g, x = integers((rows, 3), a, seed, same), integers((rows, 5), b, seed + 1, same)
    found = gemm.grad_weight(
        g, x, Geometry("linear"), (3, 5), max_grad=a, max_x=b, accumulate="exact"
    )
    assert torch.equal(found, products(g, x))


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 40),
    st.sampled_from([8, 127, 1000]),
    st.sampled_from([20, 127]),
    st.booleans(),
    st.booleans(),
)
def test_the_gemms_of_a_convolution(n: int, a: int, b: int, same: bool, last: bool) -> None:
    geometry = Geometry("conv2d", (1, 1), (1, 1), (1, 1))
    form = torch.channels_last if last else torch.contiguous_format
    x = integers((n, 4, 11, 12), b, n, same).contiguous(memory_format=form)
    w = integers((6, 4, 3, 3), a, 1, same)
    g = integers((n, 6, 11, 12), a, 2, same).contiguous(memory_format=form)
    rows = g.permute(0, 2, 3, 1).flatten(0, 2)
    columns = patches(x, w)
    dw = gemm.grad_weight(g, x, geometry, (6, 4, 3, 3), max_grad=a, max_x=b, accumulate="exact")
    assert torch.equal(dw.flatten(1), products(rows, columns))
    y = gemm.output(x, w, geometry, max_x=b, max_weight=a, accumulate="exact")
    wanted = columns.long() @ w.flatten(1).long().t()
    assert torch.equal(y.permute(0, 2, 3, 1).flatten(0, 2), wanted.float())
    dx = gemm.grad_input(
        g, w, geometry, (n, 4, 11, 12), max_grad=a, max_weight=a, accumulate="exact"
    )
    back = gemm._grad_input(g.double(), w.double(), geometry, (n, 4, 11, 12)).float()
    assert torch.equal(dx, back.add_(0.0))


def test_sums_of_zeros_are_positive() -> None:
    g, x = -torch.zeros(5, 3), torch.ones(5, 2)
    dw = gemm.grad_weight(
        g, x, Geometry("linear"), (3, 2), max_grad=7, max_x=1 << 20, accumulate="exact"
    )
    assert not dw.signbit().any()


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_float32_that_is_less_than_float32_is_not_used(precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        assert not gemm._rounds_once(torch.ones(1))
        test_weight_gradients_of_matrices.hypothesis.inner_test(600, 127, 127, 3, True)
    finally:
        torch.set_float32_matmul_precision(before)
    assert gemm._rounds_once(torch.ones(1))


def test_nor_without_onednn_in_autocast_or_by_the_newer_switches() -> None:
    one = torch.ones(1)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not gemm._rounds_once(one)
        test_the_gemms_of_a_convolution.hypothesis.inner_test(32, 8, 20, False, False)
    with torch.autocast("cpu", torch.bfloat16):
        assert not gemm._rounds_once(one)
        test_weight_gradients_of_matrices.hypothesis.inner_test(600, 127, 127, 3, True)
    for owner in (torch.backends, torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul):
        before = owner.fp32_precision
        try:
            owner.fp32_precision = "bf16"
            assert not gemm._rounds_once(one)
        finally:
            owner.fp32_precision = before
    assert gemm._rounds_once(one)


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from([(1, 2), (2, 2), (3, 1)]),
    st.integers(1, 9),
    st.integers(1, 6),
    st.booleans(),
    st.integers(1, 2),
)
def test_strided_convolutions_of_one_tap(stride, c: int, o: int, last: bool, groups: int) -> None:
    c, o = c * groups, o * groups
    geometry = Geometry("conv2d", stride, (0, 0), (1, 1), groups)
    form = torch.channels_last if last else torch.contiguous_format
    x = integers((5, c, 7, 8), 7, 0, False).contiguous(memory_format=form)
    w = integers((o, c // groups, 1, 1), 7, 1, False).contiguous(memory_format=form)
    leaves = [t.double().requires_grad_() for t in (x, w)]
    y = torch.nn.functional.conv2d(*leaves, stride=stride, groups=groups)
    g = integers(tuple(y.shape), 7, 2, False).contiguous(memory_format=form)
    y.backward(g.double())
    for accumulate in ("exact", "fast"):
        found = gemm.output(x, w, geometry, max_x=7, max_weight=7, accumulate=accumulate)
        assert torch.equal(found, y.detach().float())
        kinds = {"max_grad": 7, "accumulate": accumulate}
        dx = gemm.grad_input(g, w, geometry, tuple(x.shape), max_weight=7, **kinds)
        dw = gemm.grad_weight(g, x, geometry, tuple(w.shape), max_x=7, **kinds)
        assert torch.equal(dx, leaves[0].grad.float()) and torch.equal(dw, leaves[1].grad.float())
