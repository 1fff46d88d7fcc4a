"""QuEST's scale for MX blocks: a clip that is a multiple of the block's root mean square.

For data that a Hadamard transform made nearly Gaussian, the clip of least squared error on E2M1 is
2.92247856 rms (Quartet's and Quartet II's code: 2.92247856 / 6 of the rms stands for 1). For a
block of n elements and a format with the largest value `levels`, in float32:

    m2     = fl(tree_sum(fl(x * x)) / fl(n))
    r      = fl(fl(clip / levels) * fl(sqrt(m2)))
    e      = clamp(round(log2 r), -126, 127)         of the logarithm, exactly: up from 2**k sqrt(2)
    scale  = 2**e, as E8M0                           1 where m2 == 0, NaN where it is not finite
    bound  = levels * scale                          what lies beyond it is clipped (see `ste`)

Source: QuEST (Panferov et al. 2025) as Quartet uses it (Castro et al., NeurIPS 2025; arXiv
2505.14669), which reports an error of 1.32e-2 on Gaussian data after a Hadamard of 32, beside
1.37e-2 of rounding to nearest by the largest magnitude and 2.77e-2 of stochastic rounding. How the
exponent is rounded is our reading: with `exponent="nearest"`, averaged over Gaussians of all sizes
within an octave, the three errors are 1.33e-2, 1.37e-2 and 2.78e-2 (the latter two with Tseng et
al.'s 3/4), while `exponent="floor"`, which Quartet's public kernel has, gives 2.1e-2.

Traps in public code: that kernel takes the standard deviation about the block's mean, not the root
mean square, and adds 1e-8, which is the whole scale of a small gradient.

Not done here: the Hadamard (a quantizer's transform); E4M3 scales; the trust factor of QuEST's
gradient, of which `ste="clip"` is the case 0 beyond the clip, 1 within.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.quantizers.scales.arithmetic import divide, square_root, times
from nybble.quantizers.scales.blocks import block_layout, mx_from_codes
from nybble.quantizers.scales.fit import Fit, ScaleConfig
from nybble.quantizers.scales.groups import along, block_rows
from nybble.quantizers.scales.sawb import Ste
from nybble.quantizers.sums import tree_sum_last

if TYPE_CHECKING:
    from nybble.formats import Format

__all__ = ["Quest", "block_mean_square", "nearest_exponent"]

_CARRY = (1 << 23) - 3474676
"""The mantissa of sqrt(2), rounded up, needs this much more to reach the next power of two."""


@dataclass(frozen=True)
class Quest(ScaleConfig):
    """QuEST's scale on MX blocks; see the module.

    axis: the dimension along which blocks count (default the last).
    block: elements of a block.
    clip: what the format's largest value stands for, in root mean squares.
    exponent: "nearest" or "floor" of its logarithm.
    ste: "clip" stops the gradient of elements beyond the clip, "pass" lets it through.

    >>> Quest().short
    'quest(mx32)'
    """

    axis: int | None = None
    block: int = 32
    clip: float = 2.92247856
    exponent: Literal["nearest", "floor"] = "nearest"
    ste: Ste = "clip"

    def __post_init__(self) -> None:
        if self.block < 1:
            raise UserError(f"Quest: block must be at least 1, got {self.block}")
        if not 2.0**-20 <= self.clip <= 2.0**20:
            raise UserError(f"Quest: clip must lie within 2**-20 and 2**20, got {self.clip!r}")
        if self.exponent not in ("nearest", "floor"):
            raise UserError(f"Quest: exponent is 'nearest' or 'floor', got {self.exponent!r}")
        if self.ste not in ("pass", "clip"):
            raise UserError(f"Quest: ste must be 'pass' or 'clip', got {self.ste!r}")

    scale_format: ClassVar[str] = "e8m0"

    @property
    def granularity(self) -> str:
        """ "block": one scale for each `block` elements."""
        return "block"

    def along(self, contraction: int, free: int | None) -> Quest:
        return along(self, "block", contraction, free)

    def fit(self, x: Tensor, format: Format) -> Fit:
        """Fit to `x`.

        >>> from nybble.formats import get_format
        >>> fit = Quest().fit(torch.tensor([2.0, -2.0]), get_format("fp4_e2m1"))
        >>> fit.scale, fit.bound
        (tensor([1.]), tensor([6.]))
        """
        x = x.detach().to(torch.float32)
        info = block_layout("Quest", x, "block", self.axis, self.block)
        m2 = block_mean_square(x, info["axis"], self.block)
        r = times(square_root(m2), self.clip / format.max_value)
        nearest = self.exponent == "nearest"
        e = nearest_exponent(r) if nearest else (r.view(torch.int32) >> 23) - 127
        e = torch.where(m2 > 0, e.clamp(-126, 127), 0)
        codes = torch.where(torch.isfinite(m2), e + 127, 255).to(torch.uint8)
        fit = mx_from_codes(codes, info)
        return Fit(**{**fit.__dict__, "bound": times(fit.scale, format.max_value)})

    @property
    def short(self) -> str:
        parts = [
            f"mx{self.block}",
            "" if self.axis in (None, -1) else f"axis {self.axis}",
            "" if self.clip == 2.92247856 else f"clip {self.clip:.6g}",
            "" if self.exponent == "nearest" else self.exponent,
            "" if self.ste == "clip" else self.ste,
        ]
        return f"quest({', '.join(part for part in parts if part)})"


def block_mean_square(x: Tensor, axis: int, block: int) -> Tensor:
    """fl(tree_sum(fl(x * x)) / fl(n)) of every block; a short last one has a smaller n.

    >>> block_mean_square(torch.tensor([1.0, 3.0, 2.0]), 0, 2)
    tensor([5., 4.])
    """
    sums = block_rows(x, axis, block, lambda rows: tree_sum_last(rows * rows)).contiguous()
    rest = x.shape[axis] % block
    if not rest:
        return torch.as_tensor(divide(sums, float(block)))
    counts = torch.full_like(sums, float(block))
    counts.select(axis, -1).fill_(float(rest))
    return sums / counts


def nearest_exponent(r: Tensor) -> Tensor:
    """round(log2 r), exactly, for normal positive float32; int32.

    >>> nearest_exponent(torch.tensor([1.0, 1.4142135, 1.4142136, 2.0]))
    tensor([0, 0, 1, 1], dtype=torch.int32)
    """
    return (r.contiguous().view(torch.int32) + _CARRY >> 23) - 127
