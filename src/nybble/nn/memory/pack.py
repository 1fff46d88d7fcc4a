"""Codes of a tensor, in the order of its memory, and back: thin names over `ops/reference`."""

from __future__ import annotations

import torch
from torch import Tensor

from nybble.formats import get_format
from nybble.ops.reference.storage import flatten, is_channels_last, pack_integers, unflatten
from nybble.quantizers.packing import pack_bits, unpack4, unpack_bits

_UINT4 = get_format("uint4")

__all__ = ["Layout", "pack4", "pack_mask", "pack_rows8", "unpack", "unpack_mask", "unpack_rows8"]

Layout = tuple[tuple[int, ...], bool]
"""Shape, and whether the memory is channels-last."""


def layout(x: Tensor) -> Layout:
    """How `flatten` will read `x`."""
    return tuple(x.shape), is_channels_last(x)


def pack4(codes: Tensor) -> Tensor:
    """Float32 integers 0..15, two to a byte.

    >>> pack4(torch.tensor([3.0, 15.0]))[:2].tolist()
    [3, 15]
    """
    return pack_integers(codes, _UINT4)  # type: ignore[arg-type]


def unpack(packed: Tensor, where: Layout) -> Tensor:
    """Float32 codes of `pack4`."""
    shape, last = where
    count = torch.Size(shape).numel()
    return unflatten(unpack4(packed, count).to(torch.float32), shape, last)


def pack_mask(mask: Tensor) -> Tensor:
    """A boolean tensor, eight to a byte."""
    return pack_bits(flatten(mask))


def unpack_mask(packed: Tensor, where: Layout) -> Tensor:
    """The boolean tensor of `pack_mask`."""
    shape, last = where
    return unflatten(unpack_bits(packed, torch.Size(shape).numel()), shape, last)


def pack_rows8(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes and a float32 scale for every row (last dimension): x ~ code * scale.

    >>> codes, scale = pack_rows8(torch.tensor([[127.0, -1.0]]))
    >>> codes.tolist(), scale.tolist()
    ([[127, -1]], [[1.0]])
    """
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True) / 127.0
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # NaN stays
    scale = torch.where(torch.isfinite(scale), scale, torch.full_like(scale, torch.nan))
    codes = torch.nan_to_num((x / scale).round_(), nan=0.0).to(torch.int8)
    return codes, scale


def unpack_rows8(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The values of `pack_rows8`."""
    return (codes.to(torch.float32) * scale).to(dtype)
