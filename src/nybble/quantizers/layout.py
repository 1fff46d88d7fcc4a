"""Memory order: statistics and packed codes follow a tensor as it lies in memory.

A channels-last network pays for no transposition that way. Both backends use the same order, so
they agree bit for bit; a sum over the same values in the other layout may differ in its last bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["flatten", "in_memory_order", "is_channels_last", "unflatten"]


def is_channels_last(x: Tensor) -> bool:
    """Whether a tensor lies in memory as [N, H, W, C], and not as [N, C, H, W] as well."""
    return (
        x.dim() == 4
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def in_memory_order(x: Tensor) -> Tensor:
    """A view of which C order is the order of the memory: [N, H, W, C] for channels-last.

    >>> x = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    >>> in_memory_order(x).shape
    torch.Size([2, 4, 5, 3])
    """
    return x.permute(0, 2, 3, 1) if is_channels_last(x) else x


def flatten(x: Tensor) -> Tensor:
    """All elements in the order in which they lie in memory; a copy only where no view, which may
    have gaps, is one line of them.

    Codes kept for backward and PACT's sums follow this order, so a channels-last network pays for
    no transposition; `unflatten` needs to know which of the two orders it was.
    """
    return in_memory_order(x).reshape(-1)


def unflatten(flat: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    """The tensor of `flatten`."""
    if not channels_last:
        return flat.view(shape)
    n, c, h, w = shape
    return flat.view(n, h, w, c).permute(0, 3, 1, 2)
