"""PACT's mask and the gradient of its clip, in one pass over dx.

    dx = dx where x was inside the clip, else 0      dalpha = tree sum of what was stopped, by side

The order of the sums is that of quantizers/sums.py. Not done here: other clips than PACT's.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.formats import Format
from nybble.ops.native.buffers import require, span, threads
from nybble.ops.native.codes import table_of
from nybble.quantizers.packing import packed_bytes

__all__ = ["mask_gradient_", "sides"]


def mask_gradient_(
    dx: Tensor,
    mask: Tensor,
    codes: Tensor | None = None,
    fmt: Format | None = None,
    zero_point: int = 0,
    *,
    two_sided: bool = False,
) -> Tensor | None:
    """dx *= inside, in place; with `codes` also PACT's gradient of the clip(s), in the same pass.

    dx: float32, dense, in the memory order of the mask bits and the codes. codes: 4-bit codes of
    `fmt` whose integers, less the zero point, tell by their sign on which side an element was
    clipped. Returns the gradient `[1]`, or `[2]` (upper, lower) where `two_sided`; else None.

    >>> from nybble.formats import Integer
    >>> dx, mask = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0b001], dtype=torch.uint8)
    >>> codes = torch.zeros(32, dtype=torch.uint8)
    >>> codes[1:3] = torch.tensor([7, 9])
    >>> mask_gradient_(dx, mask, codes, Integer(4)), dx
    (tensor([-2.]), tensor([1., 0., 0.]))
    """
    if codes is not None and (fmt is None or fmt.bits > 4):
        raise NybbleError("mask_gradient_: codes need the 4-bit format that they are of")
    if codes is not None and codes.numel() < packed_bytes(dx.numel(), 4):
        raise NybbleError(f"mask_gradient_: {codes.numel()} bytes for {dx.numel()} codes")
    by_side = bytes(16) if fmt is None else sides(fmt, int(zero_point))
    first, second = require().mask_gradient(
        *span(dx, torch.float32, "dx"),
        dx.numel(),
        *span(mask, torch.uint8, "mask"),
        *((0, 0) if codes is None else span(codes, torch.uint8, "codes")),
        by_side,
        two_sided,
        threads(),
    )
    if codes is None:
        return None
    return torch.tensor([first, second] if two_sided else [first], dtype=torch.float32)


@lru_cache(maxsize=256)
def sides(fmt: Format, zero_point: int) -> bytes:
    """The side of each code: the sign of its integer less the zero point."""
    table = table_of(fmt, zero_point, encoded=False)[0]
    return bytes(table.sign().to(torch.int8).view(torch.uint8).tolist())
