"""Scales that make nearest rounding unbiased after a random rotation: EDEN's correction.

Rounding to nearest shrinks or stretches a vector: <x, Q(x)> is not <x, x>. After a random rotation
the error has no other preferred direction, so one factor a group

    c = <x, x> / <x, Q(x)>          makes      <x, c Q(x)> = <x, x>

and the mean over rotations, turned back, is x (Vargaftik et al., EDEN, ICML 2022).

`Eden` is MS-EDEN of Quartet II (arXiv 2601.22813). Elements are rounded to nearest; the correction
goes into the E4M3 block scales, and those are rounded stochastically: the randomness moves from the
elements to the scales. On NV blocks with limit 255.99 and headroom (17/16) * 0.93 (that code's
values: 6 / headroom is what a block's maximum becomes), for each group of `group` elements along
the axis (the block of the Hadamard):

    q      = nearest(fl(x * inv))                 y = fl(q * scale)             scale, inv, b, g: NV
    c      = fl(tree_sum(fl(x * x)) / tree_sum(fl(x * y)))      1 where the divisor is 0; x and y
                                                               times a power of two near 1 / g
    b'     = E4M3, stochastic, of fl(b * c)       scale' = fl(g * b')

`RowLeastSquares` is the same with float32 scales, for any table and any group of groups.py: a unit
of `rms` root mean squares, nearest rounding, and one factor a group:

    s      = fl(fl(rms) * fl(sqrt(m2)))           m2 = fl(tree_sum(fl(x * x)) / fl(n))
    y      = fl(nearest(fl(x * fl(1 / s))) * s)
    scale  = fl(s * c)                            inv = fl(1 / s): elements are rounded on s

Where m2 underflows to 0 or overflows, s is BestOfTwo's s0 and c is 1.

Traps in public code. Quartet II's kernels sum x and q in units of each block's own scale, so a
group of unequal blocks is not corrected by <x, x> / <x, Q(x)>; and they take the tensor's maximum
where its largest magnitude may be negative. Neither is followed here.

Not done here: the Hadamard itself (a quantizer's transform). Its blocks are this module's groups
only in the order "consecutive" and where they divide the line: at the end of another line the
Hadamard has smaller blocks, so one group is turned in parts, and its mean is off by some per cent
(4 % for 2 elements, 2 % for 8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.formats import Stochastic, get_format
from nybble.quantizers.scales.absmax import AbsMax
from nybble.quantizers.scales.arithmetic import divide, inverse_of, square_root, times
from nybble.quantizers.scales.blocks import nv_from_codes
from nybble.quantizers.scales.fit import Fit, ScaleConfig
from nybble.quantizers.scales.groups import (
    along,
    block_rows,
    check_groups,
    largest_scale,
    rows_of,
    scale_layout,
)
from nybble.quantizers.sums import tree_sum_last

if TYPE_CHECKING:
    from nybble.formats import Format, Rounding
    from nybble.quantizers.transforms import Bits

__all__ = ["Eden", "RowLeastSquares"]

_LIMIT = 255.99
_HEADROOM = 17 / 16 * 0.93


@dataclass(frozen=True)
class Eden(ScaleConfig):
    """MS-EDEN on NV blocks; see the module.

    axis: the dimension along which blocks count (default the last).
    block: elements of a block.
    group: elements that share a correction, a multiple of block: the Hadamard's.

    >>> Eden(group=128).short
    'eden(nv16, group 128)'
    """

    axis: int | None = None
    block: int = 16
    group: int = 32

    def __post_init__(self) -> None:
        if self.block < 1 or self.group < 1 or self.group % self.block:
            raise UserError(
                f"Eden: group must be a multiple of block, got {self.group} and {self.block}"
            )

    scale_format: ClassVar[str] = "fp8_e4m3"

    @property
    def granularity(self) -> str:
        """ "block": one scale for each `block` elements."""
        return "block"

    @property
    def draws(self) -> bool:
        return True

    def along(self, contraction: int, free: int | None) -> Eden:
        return along(self, "block", contraction, free)

    def fit(self, x: Tensor, format: Format) -> Fit:
        """The scales by which elements are rounded; `encode` corrects them."""
        return AbsMax(
            "block", self.axis, self.block, "fp8_e4m3", headroom=_HEADROOM, limit=_LIMIT
        ).fit(x, format)

    def encode(
        self, x: Tensor, format: Format, rounding: Rounding | None, bits: Bits | None
    ) -> tuple[Tensor, Fit]:
        """See `ScaleConfig.encode` and the module."""
        _check_rounding("Eden", rounding)
        if bits is None:
            raise UserError("Eden rounds its scales at random: give random bits (a key)")
        fit = self.fit(x, format)
        codes = format.encode(fit.scaled(x), rounding)
        y = fit.dequantize(format.decode(codes))
        axis = fit.axis or 0
        assert fit.global_scale is not None
        # In units of about the scale, lest the squares of gradients overflow or vanish. A power of
        # two changes no bit of the quotient.
        unit = torch.ldexp(torch.ones_like(fit.global_scale), -torch.frexp(fit.global_scale)[1])
        ours, theirs = x * unit, y * unit
        squares = block_rows(ours * ours, axis, self.group, tree_sum_last)
        products = block_rows(ours * theirs, axis, self.group, tree_sum_last)
        factor = torch.where(products == 0, 1.0, squares / products)
        ratio = self.group // self.block
        factor = factor.repeat_interleave(ratio, axis).narrow(axis, 0, fit.scale.shape[axis])
        e4m3 = get_format("fp8_e4m3")
        assert fit.scale_codes is not None
        wanted = e4m3.decode(fit.scale_codes) * factor
        rounded = e4m3.encode(wanted, Stochastic(), bits(_SCALES, wanted.shape))
        info = {"granularity": fit.granularity, "axis": fit.axis, "blocks": fit.blocks}
        return codes, nv_from_codes(rounded, fit.global_scale, info)

    @property
    def short(self) -> str:
        axis = "" if self.axis in (None, -1) else f", axis {self.axis}"
        return f"eden(nv{self.block}, group {self.group}{axis})"


@dataclass(frozen=True)
class RowLeastSquares(ScaleConfig):
    """Nearest rounding by the root mean square, and one factor a group; see the module.

    granularity: "tensor", "channel", "row" or, in a layer, "free".
    axis: the dimension of "channel" (default 0), or that along which "row" runs (the last).
    rms: the size of the format's unit, in units of the group's root mean square.

    >>> RowLeastSquares("free").short
    'rowleastsquares(free, 0.1362)'
    """

    granularity: Literal["tensor", "channel", "row", "free"] = "row"
    axis: int | None = None
    rms: float = 0.1362

    def __post_init__(self) -> None:
        check_groups("RowLeastSquares", self.granularity, self.axis)
        if not 2.0**-20 <= self.rms <= 2.0**20:
            raise UserError(
                f"RowLeastSquares: rms must lie within 2**-20 and 2**20, got {self.rms!r}"
            )

    def along(self, contraction: int, free: int | None) -> RowLeastSquares:
        return along(self, self.granularity, contraction, free)

    def fit(self, x: Tensor, format: Format) -> Fit:
        """Fit to `x`; `inv` is not 1 / scale.

        >>> from nybble.formats import get_format
        >>> fit = RowLeastSquares(rms=0.5).fit(torch.tensor([[1.5, 0.5]]), get_format("int4"))
        >>> x = torch.tensor([[1.5, 0.5]])
        >>> (x * fit.dequantize(get_format("int4").round(fit.scaled(x)))).sum(), x.square().sum()
        (tensor(2.5000), tensor(2.5000))
        """
        x = x.detach().to(torch.float32)
        shape, info = scale_layout("RowLeastSquares", x, self.granularity, self.axis)
        rows = rows_of(x, self.granularity, self.axis)
        groups, n = rows.shape
        if groups == 0 or n == 0:
            one = torch.ones(shape, dtype=torch.float32, device=x.device)
            return Fit(one, one, **info)
        squares = tree_sum_last(rows * rows)
        m2 = divide(squares, float(n))
        top = torch.maximum(rows.amax(1), -rows.amin(1))
        usable = (m2 > 0) & torch.isfinite(m2)
        base = torch.where(usable, times(square_root(m2), self.rms), largest_scale(top, format))
        inv = inverse_of(base)
        y = format.round(rows * inv[:, None]).mul_(base[:, None])
        products = tree_sum_last(y.mul_(rows))
        factor = torch.where(usable & (products != 0), squares / products, 1.0)
        return Fit((base * factor).view(shape), inv.view(shape), **info)

    def encode(
        self, x: Tensor, format: Format, rounding: Rounding | None, bits: Bits | None
    ) -> tuple[Tensor, Fit]:
        """See `ScaleConfig.encode`."""
        _check_rounding("RowLeastSquares", rounding)
        return super().encode(x, format, rounding, bits)

    @property
    def short(self) -> str:
        default = -1 if self.granularity == "row" else 0
        axis = "" if self.axis in (None, default) else f", axis {self.axis}"
        return f"rowleastsquares({self.granularity}{axis}, {self.rms:g})"


_SCALES = 1
"""The stream of random bits for scales: transforms.SCALES."""


def _check_rounding(name: str, rounding: Rounding | None) -> None:
    if isinstance(rounding, Stochastic):
        raise UserError(
            f"{name} corrects the error of nearest rounding, got {rounding!r}; leave rounding=None"
        )
