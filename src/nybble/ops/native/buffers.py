"""Addresses of tensors for the compiled module, given away only after a check.

The module takes an array as two numbers, address and bytes (csrc/core/bind.hpp says why). `span`
is the only place where a tensor becomes an address, so it refuses what the kernels cannot read:
another device, another dtype, gaps between the elements, a subclass without memory of its own. The
module itself checks that the bytes are as many as the shape needs.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.ops.native import core

__all__ = ["FLOATS", "NO_BYTES", "NO_FLOATS", "own", "require", "span", "threads", "vector"]

FLOATS = (torch.float32, torch.bfloat16)
"""What the quantising kernels read."""

NO_FLOATS = torch.empty(0, dtype=torch.float32, device="cpu")
NO_BYTES = torch.empty(0, dtype=torch.uint8, device="cpu")
"""What is kept where there is nothing to keep."""


def span(x: Tensor, dtype: torch.dtype, what: str) -> tuple[int, int]:
    """(address, bytes) of a dense CPU tensor of `dtype`, in the order of its memory.

    Dense means contiguous or, with four dimensions, channels-last. Raises NybbleError for others.

    >>> address, size = span(torch.zeros(3), torch.float32, "x")
    >>> address != 0, size
    (True, 12)
    """
    if x.dtype is not dtype:
        raise NybbleError(f"{what}: expected {dtype}, got {x.dtype}; convert it first")
    if not x.is_cpu:
        raise NybbleError(f"{what}: native kernels need a CPU tensor, got {x.device}")
    dense = x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )
    if not dense:
        raise NybbleError(f"{what}: shape {tuple(x.shape)} has gaps (strides {x.stride()})")
    if x.is_neg():
        raise NybbleError(f"{what}: its memory holds the numbers with the other sign; clone it")
    address, size = x.data_ptr(), x.numel() * x.element_size()
    if address == 0 and size:
        raise NybbleError(f"{what}: {type(x).__name__} has no memory of its own")
    return address, size


def own(x: Tensor) -> tuple[int, int]:
    """`span` of a tensor that the caller has just made, about which there is nothing to check."""
    return x.data_ptr(), x.nbytes


def vector(x: Tensor | None, count: int, what: str) -> tuple[int, int]:
    """`span` of `count` float32 numbers, (0, 0) for None.

    >>> vector(None, 3, "bias")
    (0, 0)
    """
    if x is None:
        return 0, 0
    if x.numel() != count:
        raise NybbleError(f"{what}: {count} numbers are needed, got shape {tuple(x.shape)}")
    return span(x, torch.float32, what)


def threads() -> int:
    """The threads that a kernel may use: torch's own setting."""
    return torch.get_num_threads()


def require() -> ModuleType:
    """The compiled module, or a NybbleError that says why it is not here."""
    module, reason = core()
    if module is None:
        raise NybbleError(f"native kernels: {reason}")
    return module
