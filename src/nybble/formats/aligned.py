"""Rounding to levels whose thresholds are one constant apart in the bit pattern (see log.py).

(bits(x) + add) & mask,  times a constant,  and what is below the smallest level to +0
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nybble.formats.exact import float32_bits

__all__ = ["AlignedPlan", "hardshrink_"]

_NO_MANTISSA = -(1 << 23)


@dataclass(frozen=True)
class AlignedPlan:
    """The constants of the bit-pattern path: shrink, clamp, add, mask, scale, drop below 1."""

    shrink: float | None  # magnitudes up to here are zero, where that is not the rule's threshold
    add: int
    mask: int
    scale: float
    base: int
    limit_bits: int  # float32 bits from which rounding would go beyond the largest level

    def covers(self, bound: float) -> bool:
        """Whether every magnitude up to `bound` rounds to a level of the format."""
        return float32_bits(bound) < self.limit_bits

    def run(self, x: Tensor, bound: float, out: Tensor | None = None) -> Tensor:
        """Return the float32 integers of x (float32; not modified unless it is `out`)."""
        if self.shrink is None:
            y = torch.clamp(x, -bound, bound, out=out)
        else:
            y = torch.empty_like(x) if out is None else out
            torch.ops.aten.hardshrink.out(x, self.shrink, out=y).clamp_(-bound, bound)
        y.view(torch.int32).add_(self.add)
        return self.finish(y)

    def finish(self, y: Tensor) -> Tensor:
        """Turn `bits(clamped x) + add`, seen as float32, into float32 integers, in place."""
        y.view(torch.int32).bitwise_and_(self.mask)
        if self.scale != 1.0:
            y.mul_(self.scale)
        if self.shrink is None:
            return hardshrink_(y, 0.5)
        # What is left one level below the smallest belongs to the smallest: 1/b -> 1.
        hardshrink_(y, 0.5 / self.base)
        y.add_(y.clamp(-1.0 / self.base, 1.0 / self.base), alpha=self.base - 1)
        y.view(torch.int32).bitwise_and_(_NO_MANTISSA)
        return y


def hardshrink_(y: Tensor, bound: float) -> Tensor:
    """Turn all that is at most `bound` away from zero to +0, in place."""
    torch.ops.aten.hardshrink.out(y, bound, out=y)
    return y
