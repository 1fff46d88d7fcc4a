"""The activation functions of recurrent gates, as torch operators with one rounding each.

    x' = min(max(x, -9), 9)        s = x' x'
    tanh(x) = min(max(x' P(s) / Q(s), -1), 1)          P, Q by Horner's rule, highest power first
    sigmoid(x) = tanh(x / 2) / 2 + 1 / 2

The kernels of csrc/recurrent do the same operations in the same order, without fused multiply-add,
so both backends give the same bits; torch.tanh and torch.sigmoid call a library whose last bits
depend on the CPU. The error is below 4e-7 absolute. P and Q come from tools/tanh.py.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

__all__ = ["LIMIT", "P", "Q", "sigmoid", "tanh"]

LIMIT: Final = 9.0
P: Final = (
    1.0,
    0.1338031142950058,
    0.003494751174002886,
    2.0595960450009443e-05,
    1.3337880133690305e-08,
)
Q: Final = (
    1.0,
    0.46713629364967346,
    0.025873765349388123,
    0.0003284292761236429,
    7.76938691160467e-07,
)


def tanh(x: Tensor, out: Tensor | None = None) -> Tensor:
    """See the module; `out` may be `x` itself. NaN stays NaN.

    >>> tanh(torch.tensor([0.0, 0.5, -20.0])).tolist()
    [0.0, 0.46211716532707214, -1.0]
    """
    x = x.clamp(-LIMIT, LIMIT)
    s = x * x
    top, bottom = _horner(s, P).mul_(x), _horner(s, Q)
    result = torch.div(top, bottom, out=x if out is None else out)
    return result.clamp_(-1.0, 1.0)


def sigmoid(x: Tensor) -> Tensor:
    """See the module.

    >>> sigmoid(torch.tensor([0.0, 20.0])).tolist()
    [0.5, 1.0]
    """
    return tanh(x * 0.5).mul_(0.5).add_(0.5)


def _horner(s: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    total = s * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        total.add_(coefficient).mul_(s)
    return total.add_(coefficients[0])
