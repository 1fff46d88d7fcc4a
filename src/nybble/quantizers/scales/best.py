"""BestOfTwo: of two scales, the largest magnitude's or the root mean square's, that of less error.

For tables whose levels crowd where a Gaussian does (nybble4's +-{1, 3, 5, 7, 9, 12, 15, 20}) the
right scale follows from the rms, but a group whose shape is another (one outlier, or few distinct
magnitudes) is better held at its maximum. Both are tried, and the smaller squared error wins.

Order of float32 operations, for a group x of n elements (groups.py has their order), `fl` one
rounding, `levels` the format's largest value:

    top     = max|x|
    s0      = max(fl(top / levels), 2**-126)           where top == 0: 1, or 2**-126 for a format
                                                       without a zero, so that 0 stays 0 (almost)
    m2      = fl(tree_sum(fl(x * x)) / fl(n))
    s1      = fl(fl(rms) * fl(sqrt(m2)))               1 where m2 == 0; else it is never subnormal
    i0, i1  = fl(1 / s0), fl(1 / s1)
    e_k     = tree_sum(fl(d * d)),  d = fl(fl(nearest(fl(x * i_k)) * s_k) - x)
    scale   = s1 if e1 < e0 else s0                    a tie keeps the maximum's; so does NaN
    inv     = i1 or i0 with it

A NaN or infinite element makes the scale NaN. The errors are those of nearest rounding, whatever
rounding the quantizer then uses. No sums but the fixed tree's (sums.py), and no other statistic:
two passes over a group, one for top and m2 and one for both errors.

Source: this project's own recipe search; 0.1362 is the unit of the table above, in rms, of least
squared error on Gaussian data.

Not done here: a table of its own for each candidate, and more than two candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.quantizers.scales.arithmetic import (
    divide,
    inverse_of,
    square_root,
    times,
)
from nybble.quantizers.scales.fit import Fit, ScaleConfig
from nybble.quantizers.scales.groups import (
    along,
    check_groups,
    largest_scale,
    rows_of,
    scale_layout,
)
from nybble.quantizers.sums import tree_sum_last

if TYPE_CHECKING:
    from nybble.formats import Format

__all__ = ["BestOfTwo"]


@dataclass(frozen=True)
class BestOfTwo(ScaleConfig):
    """The better of two scales for each group; see the module.

    granularity: "tensor", "channel", "row" or, in a layer, "free".
    axis: the dimension of "channel" (default 0), or that along which "row" runs (the last).
    rms: the size of the format's unit, in units of the group's root mean square.

    >>> BestOfTwo("row").short
    'bestoftwo(row, 0.1362)'
    """

    granularity: Literal["tensor", "channel", "row", "free"] = "row"
    axis: int | None = None
    rms: float = 0.1362

    def __post_init__(self) -> None:
        check_groups("BestOfTwo", self.granularity, self.axis)
        if not 2.0**-20 <= self.rms <= 2.0**20:
            raise UserError(f"BestOfTwo: rms must lie within 2**-20 and 2**20, got {self.rms!r}")

    def fit(self, x: Tensor, format: Format) -> Fit:
        """Fit to `x`.

        >>> from nybble.formats import get_format
        >>> BestOfTwo("row", rms=0.5).fit(torch.tensor([[7.0, 1.0, 0.0]]), get_format("int4")).scale
        tensor([[1.]])
        """
        x = x.detach().to(torch.float32)
        shape, info = scale_layout("BestOfTwo", x, self.granularity, self.axis)
        rows = rows_of(x, self.granularity, self.axis)
        top_scale, rms_scale = self.candidates(rows, format)
        top_inv, rms_inv = inverse_of(top_scale), inverse_of(rms_scale)
        better = _error(rows, rms_scale, rms_inv, format) < _error(rows, top_scale, top_inv, format)
        scale = torch.where(better, rms_scale, top_scale).view(shape)
        return Fit(scale, torch.where(better, rms_inv, top_inv).view(shape), **info)

    def along(self, contraction: int, free: int | None) -> BestOfTwo:
        return along(self, self.granularity, contraction, free)

    def candidates(self, rows: Tensor, format: Format) -> tuple[Tensor, Tensor]:
        """The two scales of every row of a matrix: the maximum's and the root mean square's.

        >>> from nybble.formats import get_format
        >>> BestOfTwo(rms=0.5).candidates(torch.tensor([[7.0, 1.0, 1.0, 7.0]]), get_format("int4"))
        (tensor([1.]), tensor([2.5000]))
        """
        groups, n = rows.shape
        if groups == 0 or n == 0:
            one = torch.ones(groups, dtype=torch.float32, device=rows.device)
            return one, one
        top = torch.maximum(rows.amax(1), -rows.amin(1))
        m2 = divide(tree_sum_last(rows * rows), float(n))
        rms_scale = times(square_root(m2), self.rms)
        # A sum that overflowed gives an infinite scale, whose error is NaN: it never wins.
        return largest_scale(top, format), torch.where(m2 == 0, 1.0, rms_scale)

    @property
    def short(self) -> str:
        default = -1 if self.granularity == "row" else 0
        axis = "" if self.axis in (None, default) else f", axis {self.axis}"
        return f"bestoftwo({self.granularity}{axis}, {self.rms:g})"


def _error(rows: Tensor, scale: Tensor, inv: Tensor, format: Format) -> Tensor:
    """Squared error of nearest rounding, row by row."""
    if rows.numel() == 0:
        return torch.zeros_like(scale)
    difference = format.round(rows * inv[:, None]).mul_(scale[:, None]).sub_(rows)
    return tree_sum_last(difference.mul_(difference))
