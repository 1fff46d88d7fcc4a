"""MinMax: affine scaling with a zero point, refitted to every tensor.

The range of the data, extended to include 0, is stretched over all codes of an integer format
[qmin, qmax] (the "linear scaling" of popular accounts of 4-bit training: data in [0, 1] on INT4
gives 0 -> -8, 1 -> 7, and 0.3 -> -3.5, which rounds to -4). Order of float32 operations:

    lo = min(min x, 0)          hi = max(max x, 0)
    scale = max(fl(fl(hi - lo) / (qmax - qmin)), 2**-126)     1 when hi == lo, NaN when not finite
    inv   = fl(1 / scale)
    zero  = clamp(rne(fl(qmin - fl(lo / scale))), qmin, qmax)
    q     = format.encode(fl(fl(x * inv) + zero))             x' = fl((q - zero) * scale)

0 is always represented exactly. Data whose hi - lo overflows float32 gives NaN.

Not done here: per channel ranges, and running averages of the range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.quantizers.scales.arithmetic import (
    clamp,
    finite,
    round_even,
    scale_of,
    select,
    to_array,
    to_tensor,
)
from nybble.quantizers.scales.fit import Fit, ScaleConfig, value_range

if TYPE_CHECKING:
    from nybble.formats import Format

__all__ = ["MinMax", "affine_fit"]


@dataclass(frozen=True)
class MinMax(ScaleConfig):
    """Affine scale and zero point from the smallest and the largest element; see the module."""

    def fit(self, x: Tensor, format: Format) -> Fit:
        """Fit to `x` (any shape) on an integer format.

        >>> from nybble.formats import get_format
        >>> fit = MinMax().fit(torch.tensor([0.0, 0.3, 1.0]), get_format("int4"))
        >>> fit.zero_point, fit.scaled(torch.tensor([0.0, 0.3, 1.0]))
        (tensor(-8.), tensor([-8.0000, -3.5000,  7.0000]))
        """
        x = x.detach().to(torch.float32)
        if x.numel() == 0:
            zero = torch.zeros((), dtype=torch.float32, device=x.device)
            return affine_fit(zero, zero, format)
        lo, hi = torch.aminmax(x)
        return affine_fit(lo, hi, format)

    @property
    def short(self) -> str:
        return "minmax"


def affine_fit(lo: Tensor, hi: Tensor, format: Format) -> Fit:
    """The fit of a range given by two float32 scalar tensors; extended to include 0.

    >>> from nybble.formats import get_format
    >>> affine_fit(torch.tensor(-2.0), torch.tensor(5.5), get_format("int4")).zero_point
    tensor(-4.)
    """
    qmin, qmax = value_range(format)
    if format.unit != 1.0 or qmax - qmin != 2**format.bits - 1:
        raise UserError(
            f"an affine scale needs an integer format that uses all codes, got {format.name!r}; "
            "use int4 or uint4"
        )
    low, high = clamp(to_array(lo), high=0.0), clamp(to_array(hi), low=0.0)
    with np.errstate(all="ignore"):
        scale = scale_of(high - low, qmax - qmin)
        zero = clamp(round_even(-(low / scale - qmin)), qmin, qmax) + 0.0  # never -0
    # A NaN scale already says that nothing is representable; the zero point stays an integer.
    zero = select(finite(zero), zero, 0.0)
    return Fit.of_array(scale, zero_point=to_tensor(zero))
