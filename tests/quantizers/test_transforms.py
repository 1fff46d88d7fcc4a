"""The block Hadamard: equal to its matrix, orthogonal, the same product for both operands."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.quantizers import Hadamard, RandomKey, random24
from nybble.quantizers.transforms import fwht


def bits(stream, shape):
    return random24(shape, RandomKey(seed=3, operand=8 * stream))


def matrix(block):
    found = torch.ones(1, 1, dtype=torch.float64)
    while found.shape[0] < block:
        found = torch.cat([torch.cat([found, found], 1), torch.cat([found, -found], 1)])
    return found / math.sqrt(block)


@pytest.mark.parametrize("block", [1, 2, 4, 16, 64])
def test_fwht_is_the_matrix(block):
    x = torch.randn(block, 5)
    assert torch.allclose(fwht(x).double(), matrix(block) @ x.double(), atol=1e-6)


@given(
    size=st.integers(1, 70),
    lines=st.integers(1, 3),
    block=st.sampled_from([1, 2, 8, 16, 32]),
    signs=st.sampled_from(["none", "fixed", "random"]),
    order=st.sampled_from(["consecutive", "strided"]),
    axis=st.integers(0, 2),
)
def test_orthogonal(size, lines, block, signs, order, axis):
    turn = Hadamard(block, signs, order)
    shape = [lines, 2, 3]
    shape[axis] = size
    x = torch.randn(shape)
    turned = turn.apply(x, axis, bits)
    assert turned.shape == x.shape and turned.is_contiguous()
    assert torch.allclose(turned.norm(), x.norm(), rtol=1e-4)
    assert torch.allclose(turn.inverse(turned, axis, bits), x, atol=1e-5)


@given(
    k=st.integers(1, 50),
    groups=st.sampled_from([1, 2, 5]),
    order=st.sampled_from(["consecutive", "strided"]),
)
def test_product_is_kept(k, groups, order):
    turn = Hadamard(16, "random", order)
    a, b = torch.randn(4, groups * k), torch.randn(groups * k, 3)
    ta, tb = turn.apply(a, 1, bits, groups), turn.apply(b, 0, bits, groups)
    for g in range(groups):
        part = slice(g * k, g * k + k)
        assert torch.allclose(ta[:, part] @ tb[part], a[:, part] @ b[part], atol=1e-4)


def test_an_outlier_is_spread():
    x = torch.zeros(1, 64)
    x[0, 5] = 8.0
    turned = Hadamard(16, "random").apply(x, 1, bits)
    assert turned[0, :16].abs().tolist() == [2.0] * 16
    assert not turned[0, 16:].any()
    strided = Hadamard(16, "random", "strided").apply(x, 1, bits)
    assert strided.nonzero()[:, 1].tolist() == list(range(1, 64, 4))


def test_signs():
    one, two = (
        Hadamard(16, signs).sign_vector(40, bits, torch.device("cpu"))
        for signs in ("fixed", "random")
    )
    assert torch.equal(one[:16], one[16:32]) and set(one.tolist()) == {-1.0, 1.0}
    assert not torch.equal(two[:16], two[16:32]) and set(two.tolist()) == {-1.0, 1.0}
    other = Hadamard(16).sign_vector(40, lambda s, n: random24(n, RandomKey(seed=4)), one.device)
    assert not torch.equal(two, other)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((3,), "power of two"), ((16, "odd"), "signs"), ((16, "none", "mixed"), "order")],
)
def test_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        Hadamard(*arguments)


def test_random_signs_need_bits():
    with pytest.raises(UserError, match="random bits"):
        Hadamard(4).apply(torch.zeros(4), 0)
