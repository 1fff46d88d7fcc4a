"""The float32 formulas that every scale shares, each one IEEE operation at a time.

For a bound `b` (the real number that the format's largest value stands for) and `levels` (that
largest value, 7 for INT4):

    scale = 1                                  when b == 0 (all-zero or empty data)
    scale = NaN                                when b is NaN or infinite
    scale = max(fl(b / levels), 2**-126)       otherwise
    inv   = fl(1 / scale)

so that a scale is never zero or subnormal, and a statistic that is not finite makes every
dequantised number NaN. `b / levels` and `1 / scale` are true divisions; torch on CUDA turns a
division by a Python number into a multiplication by its reciprocal, so the divisors below are
tensors.

A torch operator on one number costs microseconds, and a scale takes about ten of them in every
layer and step. On the CPU these formulas therefore run on numpy float32 numbers (one scale) or
arrays (several), by the same IEEE operations, and elsewhere on torch tensors, without a
synchronisation: `to_array` and `to_tensor` cross over, and the functions between them take any of
the three.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "MIN_SCALE",
    "clamp",
    "divide",
    "finite",
    "inverse_of",
    "round_even",
    "scale_of",
    "select",
    "square_root",
    "times",
    "to_array",
    "to_tensor",
]

MIN_SCALE = 2.0**-126
"""Smallest scale: the smallest normal float32, whose reciprocal is finite."""

Array = Any  # numpy float32 number or array, or float32 tensor


def to_array(x: Tensor) -> Array:
    """float32 number of a scalar CPU tensor, numpy view of another one, or the tensor itself."""
    if x.device.type != "cpu" or type(x) not in (Tensor, torch.nn.Parameter):
        return x.detach()
    return np.float32(x.item()) if x.dim() == 0 else x.detach().numpy()


def to_tensor(a: Array) -> Tensor:
    """float32 tensor of any kind of array."""
    return a if isinstance(a, Tensor) else torch.from_numpy(np.asarray(a, dtype=np.float32))


def divide(a: Array, b: float) -> Array:
    """`fl(a / fl(b))`, a true division on every device.

    >>> divide(torch.tensor(1.0), 15.0)
    tensor(0.0667)
    """
    return a / _constant(a, b)


def times(a: Array, b: float) -> Array:
    """`fl(a * fl(b))`.

    >>> times(torch.tensor(2.0), 15.0)
    tensor(30.)
    """
    return a * _constant(a, b)


def select(condition: Array, a: Array | float, b: Array | float) -> Array:
    """`a` where `condition` holds, else `b`; float32.

    >>> select(torch.tensor([True, False]), 1.0, torch.zeros(2))
    tensor([1., 0.])
    """
    if isinstance(condition, Tensor):
        return torch.where(condition, a, b)
    if isinstance(condition, np.ndarray):
        return np.where(condition, a, b).astype(np.float32, copy=False)
    return np.float32(a if condition else b)


def clamp(a: Array, low: float | None = None, high: float | None = None) -> Array:
    """`a` kept within `[low, high]`; NaN stays NaN.

    >>> clamp(torch.tensor([-9.0, 3.0]), -8.0, 7.0)
    tensor([-8.,  3.])
    """
    if isinstance(a, Tensor):
        return a.clamp(low, high)
    if low is not None:
        a = select(a < low, low, a)
    if high is not None:
        a = select(a > high, high, a)
    return a


def finite(a: Array) -> Array:
    """Element-wise: neither NaN nor infinite.

    >>> finite(torch.tensor([1.0, float("inf")]))
    tensor([ True, False])
    """
    return torch.isfinite(a) if isinstance(a, Tensor) else abs(a) < np.inf


def square_root(a: Array) -> Array:
    """`fl(sqrt(a))`, correctly rounded.

    torch's float32 square root is not (torch 2.13 on the CPU misses the last bit of one number in
    five), numpy's is the machine's own. Through float64 torch's is: no square root of a 24-bit
    number lies so close to a midpoint of two float32 numbers that the error of the first rounding
    could carry it across.

    >>> square_root(torch.tensor(9.0))
    tensor(3.)
    """
    if isinstance(a, Tensor):
        return torch.sqrt(a.to(torch.float64)).to(torch.float32)
    return np.sqrt(a)


def round_even(a: Array) -> Array:
    """Nearest integer, ties to even.

    >>> round_even(torch.tensor([2.5, -3.5]))
    tensor([ 2., -4.])
    """
    return torch.round(a) if isinstance(a, Tensor) else np.rint(a)


def _constant(a: Array, b: float) -> Array:
    """`fl(b)` as an operand for `a`: a tensor for a tensor, as the module explains."""
    if isinstance(a, Tensor):
        return torch.full((), b, dtype=torch.float32, device=a.device)
    return np.float32(b)


def scale_of(bound: Array, levels: float) -> Array:
    """The scale of a bound; see the module's formulas. `bound >= 0`, float32, any shape.

    >>> scale_of(torch.tensor([14.0, 0.0, float("inf")]), 7.0)
    tensor([2., 1., nan])
    """
    scale = clamp(divide(bound, levels), low=MIN_SCALE)
    scale = select(bound == 0, 1.0, scale)
    return select(finite(bound), scale, float("nan"))


def inverse_of(scale: Array) -> Array:
    """`fl(1 / scale)`.

    >>> inverse_of(torch.tensor(4.0))
    tensor(0.2500)
    """
    return torch.reciprocal(scale) if isinstance(scale, Tensor) else np.float32(1.0) / scale
