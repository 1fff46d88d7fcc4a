"""One training step of one tiny layer, number by number, in float32 and in 4 bits.

    y = W x      loss = 1/2 |y - t|^2      dy = y - t      dW = dy x^T      dx = W^T dy
    W <- W - rate dW

Three inputs (brightnesses of three pixels of the page's picture), two outputs. The 4-bit side runs
the recipe's own quantizers and `nybble.matmul` one after the other; it gives what a layer that
`nybble.convert` converted gives, which a test checks.

Not done here: the clip's own gradient (PACT learns its clip; here it stays).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import nybble
from nybble.quantizers import GradScale, QTensor, absolute_max, quantize
from nybble.recipes import get_recipe
from nybble.reports.explain.phases import grids
from nybble.reports.explain.picture import Picture
from nybble.reports.explain.words import number
from nybble.training.seeds import generator

RATE = 0.5
INPUTS, OUTPUTS = 3, 2


def beginning(picture: Picture, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x [1, 3], W [2, 3] and the wanted outputs [1, 2]."""
    height, width = picture.grey.shape
    rows = [height * (2 * k + 1) // (2 * INPUTS) for k in range(INPUTS)]
    columns = [width * (2 * k + 1) // (2 * INPUTS) for k in range(INPUTS)]
    pixels = [int(picture.grey[r, c]) for r, c in zip(rows, columns, strict=True)]
    x = torch.tensor([pixels], dtype=torch.float32) / 255
    if not bool((x > 0).any()):
        x = torch.full_like(x, 1 / 255)  # an all-black picture has nothing to multiply
    weight = torch.randn(OUTPUTS, INPUTS, generator=generator(seed, "explain step")) * 0.6
    return x, weight.mul(100).round().div(100), torch.tensor([[1.0, 0.0]])


def step(picture: Picture, seed: int, recipe: str) -> dict[str, Any]:
    """Every number of the step, as text."""
    x, weight, wanted = beginning(picture, seed)
    plain = _float(x, weight, wanted)
    four = four_bits(x, weight, wanted, recipe)
    return {
        "x": _texts(x),
        "w": _texts(weight),
        "wanted": _texts(wanted),
        "rate": number(RATE),
        "qx": _coded(four["qx"]),
        "qw": _coded(four["qw"]),
        "even": _coded(four["even"]),
        "odd": _coded(four["odd"]),
        "scale": number(float(four["s"])),
        "top": number(float(four["top"])),
        "largest": number(float(four["largest"])),
        "scaled": _texts(four["scaled"]),
        "float": {k: _texts(v) for k, v in plain.items()},
        "four": {k: _texts(four[k]) for k in plain},
        "changed": int((four["qw"].codes() != four["qw_after"].codes()).sum()),
        "codes_after": _coded(four["qw_after"]),
    }


def _float(x: Tensor, weight: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    y = x @ weight.T
    dy = y - wanted
    after = weight - RATE * (dy.T @ x)
    return {
        "y": y,
        "loss": 0.5 * (dy * dy).sum(),
        "dy": dy,
        "dw": dy.T @ x,
        "dx": dy @ weight,
        "w_after": after,
        "loss_after": 0.5 * ((x @ after.T - wanted) ** 2).sum(),
    }


def four_bits(x: Tensor, weight: Tensor, wanted: Tensor, recipe: str) -> dict[str, Any]:
    """The same in the recipe's codes; keys as `_float`, and the codes."""
    spec = get_recipe(recipe).spec
    for_input, for_weight = spec.output_input, spec.output_weight
    assert for_input is not None and for_weight is not None and spec.grad_scale is not None
    qx, qw = quantize(x, for_input), quantize(weight, for_weight)
    y = nybble.matmul(qx, _turned(qw))
    dy = y - wanted
    config, top = spec.grad_scale
    assert isinstance(config, GradScale)
    largest = absolute_max(dy)
    s = config.first(largest, top)
    fit = config.fit_scale(s)
    grid_even, grid_odd, rounding = grids(recipe)
    even, odd = (
        QTensor.pack(f.encode(fit.scaled(dy), rounding), f, fit) for f in (grid_even, grid_odd)
    )
    dx = nybble.matmul(even, qw)
    if qx.fit.bound is not None:
        inside = qx.fit.scaled(x) <= qx.format.max_value
        dx = torch.where(inside, dx, 0.0)  # no gradient passes a clip
    dw = nybble.matmul(_turned(odd), qx)
    after = weight - RATE * dw
    qw_after = quantize(after, for_weight)
    y_after = nybble.matmul(qx, _turned(qw_after))
    return {
        "qx": qx,
        "qw": qw,
        "qw_after": qw_after,
        "even": even,
        "odd": odd,
        "s": s,
        "top": top,
        "largest": largest,
        "scaled": fit.scaled(dy),
        "y": y,
        "loss": 0.5 * (dy * dy).sum(),
        "dy": dy,
        "dw": dw,
        "dx": dx,
        "w_after": after,
        "loss_after": 0.5 * ((y_after - wanted) ** 2).sum(),
    }


def _turned(q: QTensor) -> QTensor:
    """The transpose of a matrix with one scale."""
    return QTensor.pack(q.codes().T.contiguous(), q.format, q.fit)


def _texts(x: Tensor) -> list[str]:
    return [number(float(v)) for v in x.reshape(-1)]


def _coded(q: QTensor) -> list[dict[str, str]]:
    """Bits, level and value of every element."""
    codes = q.codes()
    levels = q.format.decode(codes).reshape(-1).tolist()
    values = q.dequantize().reshape(-1).tolist()
    return [
        {"bits": f"{code:0{q.format.bits}b}", "level": number(level), "value": number(value)}
        for code, level, value in zip(codes.reshape(-1).tolist(), levels, values, strict=True)
    ]
