"""Four Over Six: of each NV block's two scales, one that takes its largest magnitude to 6 and one
that takes it to 4, the one of less error (arXiv 2512.02010).

E2M1's levels are 0, .5, 1, 1.5, 2, 3, 4, 6: between 4 and 6 it is coarsest, and a block whose
numbers lie near its maximum is better held on the levels up to 4. Per block, in float32:

    g      = max(fl(max|x| / fl(256 * 6)), 2**-126)      1 where max|x| == 0
    w      = fl(fl(top / 6) / g)
    b6     = E4M3(clamp(w, 2**-6, 448))
    b4     = E4M3(clamp(fl(w * 1.5), 2**-6, 448))        256 and not 448 in g leaves room for 1.5
    scale  = fl(g * b)                                   inv = fl(fl(1 / g) / b)
    d      = fl(fl(nearest(fl(x * inv)) * scale) - x)
    error  = tree_sum(fl(d * d))   "mse"
             tree_sum(|d|)         "mae"
             max|d|                "absmax"
    b      = b4 if error4 < error6 else b6               a tie keeps 6, as in the authors' code

So the error of a block is never larger than that of NV with the same g. (It may be larger than with
the usual limit of 448, where E4M3 has other neighbours.) Errors are those of nearest rounding.

A tile, block x block elements of the first two dimensions, is the same with its elements row by
row (zeros where it reaches beyond the tensor); a weight then has one set of codes for both of its
Gemms.

Source: the paper's abstract and the authors' code, read and not copied.

Not done here: other formats and scale formats (IF4, MX).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.quantizers.scales.arithmetic import divide, times
from nybble.quantizers.scales.blocks import (
    block_layout,
    block_max,
    nv_codes,
    nv_from_codes,
    nv_whole,
    tile_max,
)
from nybble.quantizers.scales.fit import Fit, ScaleConfig
from nybble.quantizers.scales.groups import along, block_rows, tile_rows
from nybble.quantizers.sums import tree_sum_last

if TYPE_CHECKING:
    from nybble.formats import Format

__all__ = ["FourOverSix"]

_LIMIT = 256.0


@dataclass(frozen=True)
class FourOverSix(ScaleConfig):
    """The better of two NV scales for each block; see the module.

    axis: the dimension along which blocks count (default the last).
    block: elements of a block, or of a tile's side.
    error: "mse", "mae" or "absmax".
    granularity: "block", one scale for each `block` elements, or "tile".

    >>> FourOverSix().short
    'fouroversix(nv16)'
    """

    axis: int | None = None
    block: int = 16
    error: Literal["mse", "mae", "absmax"] = "mse"
    granularity: Literal["block", "tile"] = "block"

    def __post_init__(self) -> None:
        if self.block < 1:
            raise UserError(f"FourOverSix: block must be at least 1, got {self.block}")
        if self.error not in ("mse", "mae", "absmax"):
            raise UserError(f"FourOverSix: error is 'mse', 'mae' or 'absmax', got {self.error!r}")
        if self.granularity not in ("block", "tile"):
            raise UserError(
                f"FourOverSix: granularity is 'block' or 'tile', got {self.granularity!r}"
            )
        if self.granularity == "tile" and self.axis is not None:
            raise UserError(f"FourOverSix: tiles lie on the first two axes, got axis={self.axis}")

    scale_format: ClassVar[str] = "fp8_e4m3"

    def along(self, contraction: int, free: int | None) -> FourOverSix:
        return along(self, self.granularity, contraction, free)

    def fit(self, x: Tensor, format: Format) -> Fit:
        """Fit to `x`.

        >>> from nybble.formats import get_format
        >>> x = torch.tensor([[1536.0, 0.0], [4.0, 3.0]])
        >>> FourOverSix(block=2).fit(x, get_format("fp4_e2m1")).scale
        tensor([[256.],
                [  1.]])
        """
        if format.max_value != 6.0:
            raise UserError(
                f"FourOverSix: 4 and 6 are levels of fp4_e2m1, the format is {format.name!r}"
            )
        x = x.detach().to(torch.float32)
        info = block_layout("FourOverSix", x, self.granularity, self.axis, self.block)
        if self.granularity == "tile":
            top = tile_max(x, self.block)
        else:
            top = block_max(x, info["axis"], self.block)
        return self.fit_tops(top, format, info, lambda fit: self._error(x, fit, format))

    def fit_tops(
        self, top: Tensor, format: Format, info: dict[str, Any], error: Callable[[Fit], Tensor]
    ) -> Fit:
        """Fit to the maxima of blocks. error: of every block under one of the candidates."""
        whole = nv_whole(top, format, info, _LIMIT * 6.0)
        wanted = divide(top, 6.0) / whole
        six = nv_from_codes(nv_codes(wanted), whole, info)
        four = nv_from_codes(nv_codes(times(wanted, 1.5)), whole, info)
        better = error(four) < error(six)
        assert six.scale_codes is not None
        assert four.scale_codes is not None
        codes = torch.where(better, four.scale_codes, six.scale_codes)
        return nv_from_codes(codes, whole, info)

    def _error(self, x: Tensor, fit: Fit, format: Format) -> Tensor:
        return self.error_of_(fit.dequantize(format.round(fit.scaled(x))).sub_(x), fit.axis or 0)

    def error_of_(self, difference: Tensor, axis: int) -> Tensor:
        """The error of every block along `axis`, or of every tile; `difference` is written over."""
        statistic: Callable[[Tensor], Tensor] = tree_sum_last
        if self.error == "absmax":
            statistic = _largest
        elif self.error == "mae":
            difference.abs_()
        else:
            difference.mul_(difference)
        if self.granularity == "tile":
            return tile_rows(difference, self.block, statistic)
        return block_rows(difference, axis, self.block, statistic)

    @property
    def short(self) -> str:
        side = f"x{self.block}" if self.granularity == "tile" else ""
        parts = [
            f"nv{self.block}{side}",
            "" if self.axis in (None, -1) else f"axis {self.axis}",
            "" if self.error == "mse" else self.error,
        ]
        return f"fouroversix({', '.join(part for part in parts if part)})"


def _largest(rows: Tensor) -> Tensor:
    return rows.abs().amax(1)
