"""Every setting of sun2020's switches in a linear layer, against the scalar oracle, bit for bit.

But two: the chunked accumulator (`test_chunked_oracle.py`), and grad_input under `sawb_channel`,
whose weight scales lie inside the sum, so that it is a float32 Gemm: compared to a tolerance.

The oracle here is generic: it reads the six slots of a spec, quantises each operand with the scalar
oracles of the quantizers and formats, multiplies Python integers, and rounds where
`ops/exactness.py` says. `test_layer_oracle.py` has the convolutions, in one setting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import nybble  # noqa: F401  defines the operators
from nybble.formats.oracle import decode, encode
from nybble.nn.function import LayerCall
from nybble.nn.inputs import signed_input
from nybble.ops.geometry import Geometry
from nybble.ops.reference.operand import GRAD_INPUT_GRAD, GRAD_WEIGHT_GRAD
from nybble.quantizers import PACT, SAWB, GradScale, MinMax, Quantizer, RandomKey, Stochastic
from nybble.quantizers import oracle as scalar
from nybble.quantizers.scales.sawb import COEFFICIENTS
from nybble.recipes import get_recipe

SEED, LAYER, CALL = 5, 2, 3


@dataclass
class Operand:
    """Integers `[rows][columns]`, a multiplier for each row, and which elements were clipped."""

    ints: list[list[int]]
    multiplier: list[float]
    above: list[list[bool]]
    below: list[list[bool]]


def fits(slot: Quantizer, rows: list[list[float]], alpha: list[float]) -> list[scalar.OracleFit]:
    """The fit of every row."""
    scale, flat = slot.scale, [v for row in rows for v in row]
    top = max(slot.format.values())
    if isinstance(scale, PACT):
        if scale.kind == "two_sided":
            one = scalar.minmax([alpha[0], -alpha[1]], -8, 7)
        else:
            one = scalar.pact(alpha[0], top)
        return [one] * len(rows)
    if isinstance(scale, MinMax):
        return [scalar.minmax(flat, -8, 7)] * len(rows)
    assert isinstance(scale, SAWB)
    coefficients = COEFFICIENTS[scale.coefficients]
    if scale.per_channel:
        return [scalar.sawb(row, *coefficients)[1] for row in rows]
    return [scalar.sawb(flat, *coefficients)[1]] * len(rows)


def quantized(slot: Quantizer, array: np.ndarray, alpha: list[float]) -> Operand:
    """One operand of the forward pass."""
    rows = [[float(v) for v in row] for row in array]
    fmt, unit = slot.format, slot.format.unit
    top = max(fmt.values())
    bottom = -top if fmt.name == "int4_sym" else min(fmt.values())  # its code -8 is never used
    result = Operand([], [], [], [])
    for row, fit in zip(rows, fits(slot, rows, alpha), strict=True):
        ys = [scalar.mul(v, fit.inv) for v in row]
        if fit.zero is not None:
            ys = [scalar.add(y, fit.zero) for y in ys]
        values = [decode(encode(y, fmt, slot.rounding), fmt) for y in ys]
        zero = 0.0 if fit.zero is None else fit.zero
        result.ints.append([round((v - zero) / unit) for v in values])
        result.multiplier.append(scalar.mul(fit.scale, unit))
        result.above.append([y > top for y in ys])
        result.below.append([y < bottom for y in ys])
    return result


def gradient(
    slot: Quantizer, array: np.ndarray, s: float, operand: int
) -> tuple[list[list[int]], float]:
    """Integers and multiplier of one phase of the gradient under GradScale's s."""
    key = RandomKey(SEED, 0, LAYER, CALL, operand)
    draws = isinstance(slot.rounding, Stochastic)
    ints, width = [], array.shape[1]
    for m, row in enumerate(array):
        scaled = [scalar.mul(float(v), s) for v in row]
        bits = [scalar.random24(m * width + j, key) if draws else None for j in range(width)]
        codes = [
            encode(y, slot.format, slot.rounding, bit) for y, bit in zip(scaled, bits, strict=True)
        ]
        ints.append([round(decode(c, slot.format) / slot.format.unit) for c in codes])
    return ints, scalar.mul(scalar.div(1.0, s), slot.format.unit)


def dot(a: list[int], b: list[int], scale_a: float, scale_b: float) -> float:
    """float32(exact sum) * (s_a * s_b)."""
    total = sum(p * q for p, q in zip(a, b, strict=True))
    return scalar.mul(scalar.f32(float(total)), scalar.mul(scale_a, scale_b))


def columns(rows: list[list[int]]) -> list[list[int]]:
    return [list(column) for column in zip(*rows, strict=True)]


def equal(ours: torch.Tensor, expected: list[list[float]] | list[float]) -> bool:
    wanted = torch.tensor(expected, dtype=torch.float32).reshape(ours.shape)
    return torch.equal(ours.view(torch.int32), wanted.view(torch.int32))


CASES = [
    "",
    "factor=1.848",
    "factor=stochastic",
    "underflow=half",
    "odd_offset=+1",
    "phases=odd-even",
    "phases=even-even",
    "phases=odd-odd",
    "gradscale=immediate",
    "gradscale=fit",
    "gradscale_start=one",
    "sawb=ibm16",
    "sawb=luq",
    "sawb_channel=yes",
    "ste=clip",
]
SIGNED = ["", "signed=symmetric", "signed=two_sided", "signed=sawb", "signed=sawb+sawb=ibm16"]


@pytest.mark.parametrize(
    ("switches", "signed"),
    [(case, False) for case in CASES] + [(case, True) for case in SIGNED] + [("minmax", True)],
)
def test_linear_layer_equals_the_oracle_in_every_setting(switches: str, signed: bool) -> None:
    if switches == "minmax":
        spec = get_recipe("sun2020-strict").rules[0].spec
    else:
        spec = get_recipe(f"sun2020:{switches}" if switches else "sun2020").spec
        spec = signed_input(spec) if signed else spec
    assert spec is not None
    rng = np.random.default_rng(len(switches))
    m, k, n = 7, 37, 5
    x = rng.normal(0 if signed else 0.5, 1, (m, k)).astype(np.float32)
    x[0, 0] = 1.75  # exactly on a clip: inside
    w = rng.uniform(-1, 1, (n, k)).astype(np.float32)
    w[:, 3] = 1.6  # an outlier in every row, beyond every clip
    dy = (rng.normal(size=(m, n)) * np.exp(rng.normal(0, 2, (m, n)))).astype(np.float32)
    bias = rng.normal(size=n).astype(np.float32)
    alpha = [1.75, 1.25] if switches == "signed=two_sided" else [1.75]
    state = 0.0 if "gradscale_start" in switches else 0.5
    clips = spec.output_input is not None and isinstance(spec.output_input.scale, PACT)
    call = LayerCall(spec, Geometry("linear"), "exact", "reference", SEED, LAYER, CALL)
    y, saved = torch.ops.nybble.layer_forward(
        *(torch.from_numpy(a) for a in (x, w, bias)),
        torch.tensor(alpha) if clips else None,
        *call.arguments(),
        True,
    )
    dx, dw, dalpha, amax, used = torch.ops.nybble.layer_backward(
        torch.from_numpy(dy), None, None, saved, torch.tensor([state]), [m, k], [n, k],
        *call.arguments(), [False, False], [True, True, clips],
    )  # fmt: skip

    assert spec.output_input is not None and spec.output_weight is not None
    qx, qw = quantized(spec.output_input, x, alpha), quantized(spec.output_weight, w, alpha)
    mx = qx.multiplier[0]
    expected = [
        [
            scalar.add(dot(qx.ints[i], qw.ints[j], mx, qw.multiplier[j]), float(bias[j]))
            for j in range(n)
        ]
        for i in range(m)
    ]
    assert equal(y, expected)

    first, second = spec.grad_input_grad, spec.grad_weight_grad
    assert first is not None and second is not None and isinstance(first.scale, GradScale)
    largest = float(np.abs(dy).max())
    s = state
    if first.scale.mode == "fit":
        s = scalar.warm_start(largest, 64.0)
    elif state == 0.0:
        s = 1.0
    elif first.scale.mode == "immediate":
        s = scalar.gradscale_update(state, scalar.mul(largest, state), 64.0)
    assert amax.item() == largest and used.item() == s

    g1, m1 = gradient(first, dy, s, GRAD_INPUT_GRAD)
    if len(set(qw.multiplier)) > 1:
        weight = np.array(qw.ints) * np.array(qw.multiplier)[:, None]
        real = (np.array(g1) * m1) @ weight
        inside = ~(np.array(qx.above) | np.array(qx.below))
        torch.testing.assert_close(
            dx.double(), torch.from_numpy(real * inside), rtol=1e-5, atol=1e-5
        )
        clipped = torch.tensor([(real * np.array(qx.above)).sum()])
        torch.testing.assert_close(dalpha.double(), clipped, rtol=1e-4, atol=1e-4)
    else:
        full = [
            [dot(g1[i], column, m1, qw.multiplier[0]) for column in columns(qw.ints)]
            for i in range(m)
        ]
        inside = [
            [not clips or not (qx.above[i][j] or qx.below[i][j]) for j in range(k)]
            for i in range(m)
        ]
        assert equal(
            dx,
            [
                [v if keep else v * 0.0 for v, keep in zip(row, mask, strict=True)]
                for row, mask in zip(full, inside, strict=True)
            ],
        )
        if clips:
            above = [full[i][j] if qx.above[i][j] else 0.0 for i in range(m) for j in range(k)]
            below = [-full[i][j] if qx.below[i][j] else 0.0 for i in range(m) for j in range(k)]
            kind = spec.output_input.scale.kind
            terms = {
                "unsigned": [above],
                "symmetric": [[a + b for a, b in zip(above, below, strict=True)]],
                "two_sided": [above, below],
            }[kind]
            assert equal(dalpha, [scalar.tree_sum(t) for t in terms])
            assert not qx.above[0][0] and full[0][0] != 0 and dx[0, 0] == full[0][0]

    g2, m2 = gradient(second, dy, s, GRAD_WEIGHT_GRAD)
    held = isinstance(spec.output_weight.scale, SAWB) and spec.output_weight.scale.ste == "clip"
    x_columns = columns(qx.ints)
    expected = []
    for j, column in enumerate(columns(g2)):
        row = [dot(column, x_columns[c], m2, mx) for c in range(k)]
        outside = [held and (qw.above[j][c] or qw.below[j][c]) for c in range(k)]
        expected.append([v * 0.0 if out else v for v, out in zip(row, outside, strict=True)])
    assert equal(dw, expected)
    assert all(row[3] for row in qw.above)
    assert all(math.isfinite(v) for row in expected for v in row)


def test_the_oracle_notices_another_rounding() -> None:
    """The comparison can fail: the integers of two roundings differ on this data."""
    first = get_recipe("sun2020").spec.grad_input_grad
    assert first is not None
    other = replace(first, rounding=Stochastic())
    dy = np.exp(np.random.default_rng(0).normal(0, 2, (7, 5))).astype(np.float32)
    assert gradient(first, dy, 1.0, 0) != gradient(other, dy, 1.0, 0)
