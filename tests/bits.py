"""Equality of results: the same bits, in any layout of memory."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["same_bits"]


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal shapes, dtypes and bits: -0 differs from +0; any NaN is like any other.

    >>> same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    False
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype is not torch.float32:
        return torch.equal(a, b)
    equal = a.contiguous().view(torch.int32) == b.contiguous().view(torch.int32)
    return bool((equal | (a.isnan() & b.isnan())).all())
