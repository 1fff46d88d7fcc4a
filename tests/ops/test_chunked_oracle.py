"""Narrow accumulation: the reference against the scalar oracle.

With chunks of one product both round every add, so they agree bit for bit; with longer chunks the
oracle rounds inside as well, and they differ by a few units in the last place.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.ops.gemm_oracle import conv_taps

from nybble.errors import UserError
from nybble.ops.geometry import Geometry
from nybble.ops.oracle import chunked_dot
from nybble.ops.reference import gemm
from nybble.ops.spec import Accumulator

ONE = Accumulator("dlfloat16", 1)
LINEAR = Geometry("linear")


def integers(shape, top, seed):
    return np.random.default_rng(seed).integers(-top, top + 1, shape).astype(np.float32)


def products(gemm_name, a, b, shapes, args):
    """For each result element the two sequences that are multiplied, in the reference's order."""
    x_shape, w_shape = shapes
    pairs: dict[tuple[int, ...], list[tuple[float, float]]] = {}
    for n, o, i, j, c, ci, ki, kj, row, col in conv_taps(x_shape, w_shape, *args):
        if gemm_name == "grad_input":
            pairs.setdefault((n, ci, row, col), []).append((a[n, o, i, j], b[o, c, ki, kj]))
        else:
            pairs.setdefault((o, c, ki, kj), []).append((a[n, o, i, j], b[n, ci, row, col]))
    return pairs


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_linear_against_oracle(chunk):
    accumulator = Accumulator("dlfloat16", chunk)
    x, w, g = integers((4, 70), 15, 0), integers((3, 70), 7, 1), integers((4, 3), 4096, 2)
    t = torch.from_numpy
    results = {
        "output": gemm.output(t(x), t(w), LINEAR, accumulator=accumulator),
        "grad_input": gemm.grad_input(t(g), t(w), LINEAR, (4, 70), accumulator=accumulator),
        "grad_weight": gemm.grad_weight(t(g), t(x), LINEAR, (3, 70), accumulator=accumulator),
    }
    operands = {"output": (x, w.T), "grad_input": (g, w), "grad_weight": (g.T, x)}
    for name, (a, b) in operands.items():
        expected = np.array(
            [[chunked_dot(row, col, accumulator) for col in b.T] for row in a], dtype=np.float32
        )
        if chunk == 1:
            assert np.array_equal(results[name].numpy(), expected), name
        else:
            error = np.abs(results[name].numpy() - expected).max() / np.abs(expected).max()
            assert error < 0.01, name


@pytest.mark.parametrize(
    "args",
    [
        ((1, 1), (1, 1), (1, 1), 1),
        ((2, 1), (1, 0), (1, 1), 2),
        ((2, 2), (2, 1), (1, 2), 1),
        ((3, 2), (0, 0), (1, 1), 1),
    ],
)
def test_conv2d_against_oracle(args):
    """Sums are rounded at every add, so that only the order is left to differ: the values here
    stay below 2^10, where DLFLOAT16 is exact, and any wrong or missing product shows."""
    groups = args[3]
    x, w = integers((2, 2, 6, 5), 3, 0), integers((4, 2 // groups, 3, 2), 2, 1)
    geometry = Geometry("conv2d", *args)
    g = integers(geometry.output_shape(x.shape, w.shape), 2, 2)
    t = torch.from_numpy
    exact = gemm.output(t(x), t(w), geometry)
    assert torch.equal(gemm.output(t(x), t(w), geometry, accumulator=ONE), exact)
    for name, other, result in (
        (
            "grad_input",
            w,
            gemm.grad_input(t(g), t(w), geometry, x.shape, accumulator=ONE),
        ),
        (
            "grad_weight",
            x,
            gemm.grad_weight(t(g), t(x), geometry, w.shape, accumulator=ONE),
        ),
    ):
        pairs = products(name, g, other, (x.shape, w.shape), args)
        for index in np.ndindex(tuple(result.shape)):
            left, right = zip(*pairs.get(index, [(0.0, 0.0)]), strict=True)
            assert result[index].item() == chunked_dot(left, right, ONE), (name, index)


def test_rounding_really_happens():
    a, b = torch.full((1, 2048), 1.0), torch.ones(1, 2048)
    assert gemm.output(a, b, LINEAR).item() == 2048
    # 1024 + 1 is a tie in nine bits and goes back to 1024: the naive sum gets stuck.
    assert gemm.output(a, b, LINEAR, accumulator=ONE).item() == 1024
    assert gemm.output(a, b, LINEAR, accumulator=Accumulator("dlfloat16", 64)).item() == 2048
    assert chunked_dot([1.0] * 2048, [1.0] * 2048, ONE) == 1024


def test_what_is_refused():
    with pytest.raises(UserError, match="equal lengths"):
        chunked_dot([1.0], [], ONE)
    with pytest.raises(UserError, match="exact"):
        chunked_dot([1.0], [1.0], Accumulator())
    with pytest.raises(UserError, match="at least 1"):
        Accumulator("fp16", 0)
    with pytest.raises(UserError, match="Did you mean 'dlfloat16'"):
        Accumulator("dlfloat", 64)
