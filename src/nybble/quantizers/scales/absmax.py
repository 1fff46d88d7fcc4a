"""AbsMax: the largest magnitude of a tensor, channel, row or block becomes the largest value.

    top   = max|x| over the group                  max_value = the format's largest value
    scale = max(fl(top / max_value), 2**-126)      1 where top == 0, NaN where it is not finite
    inv   = fl(1 / scale)

With `power_of_two` the scale is instead the smallest power of two that clips nothing:
max|x| / scale in (max_value / 2, max_value], exactly.

Granularities: those of groups.py ("tensor", "channel", "row", "free"); "block" (`block` consecutive
elements along `axis`, the last block may be shorter) and "tile" (squares of the first two
dimensions). The scale formats of blocks and tiles, MX and NV, are in blocks.py.

With `headroom` h every scale is h times larger: the largest magnitude becomes max_value / h. Blocks
of 16 on a uniform grid with plain float32 scales, as UFP4 has them (arXiv 2606.20381), are
`AbsMax("block", block=16)` on int4_sym.

Not done here: quantiles and moving averages of the maximum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.quantizers.scales.arithmetic import scale_of, to_array
from nybble.quantizers.scales.blocks import (
    E4M3_MAX,
    block_layout,
    block_max,
    mx_fit,
    nv_fit,
    tile_max,
)
from nybble.quantizers.scales.fit import Fit, ScaleConfig
from nybble.quantizers.scales.gradscale import absolute_max, warm_start
from nybble.quantizers.scales.groups import GROUPS, along, check_groups, scale_layout

if TYPE_CHECKING:
    from nybble.formats import Format

__all__ = ["AbsMax"]


@dataclass(frozen=True)
class AbsMax(ScaleConfig):
    """Scale from the largest magnitude; see the module.

    granularity: "tensor", "channel", "row", "block", "tile" or, in a layer, "free".
    axis: the dimension of "channel" (default 0), along which "row" runs (default the last) or
        along which "block" counts (default the last; in a layer, the one that is summed over).
    block: elements of a block, or of a tile's side.
    scale_format: for blocks and tiles: None keeps float32 scales, "e8m0" gives MX scales,
        "fp8_e4m3" NV scales (E4M3 times one float32 a tensor).
    power_of_two: for float32 scales: round up to a power of two.
    headroom: how many times larger a scale is: 17/16 (NV), 4/3 (MX) for stochastic rounding.
    exponent: of MX scales: "floor" (OCP) or "ceil" (TetraJet).
    limit: of NV scales: what the largest E4M3 scale becomes, 448 or 256.
    outer: for NV blocks: elements that share a float32 scale; None is the whole tensor.

    >>> AbsMax.nv(headroom=17 / 16).short
    'absmax(nv16, headroom 1.0625)'
    """

    granularity: Literal["tensor", "channel", "row", "free", "block", "tile"] = "tensor"
    axis: int | None = None
    block: int = 32
    scale_format: Literal["e8m0", "fp8_e4m3"] | None = None
    power_of_two: bool = False
    headroom: float = 1.0
    exponent: Literal["floor", "ceil"] = "floor"
    limit: float = E4M3_MAX
    outer: int | None = None

    def __post_init__(self) -> None:
        blocks = self.granularity in ("block", "tile")
        if not blocks and self.granularity not in GROUPS:
            raise UserError(
                "AbsMax: granularity must be one of "
                f"{', '.join((*GROUPS, 'block', 'tile'))}, got {self.granularity!r}"
            )
        if not blocks:
            check_groups("AbsMax", self.granularity, self.axis)
        if self.granularity == "tile" and self.axis is not None:
            raise UserError(f"AbsMax: tiles lie on the first two axes, got axis={self.axis}")
        if self.scale_format not in (None, "e8m0", "fp8_e4m3"):
            raise UserError(
                f"AbsMax: scale_format must be None, 'e8m0' or 'fp8_e4m3', got "
                f"{self.scale_format!r}"
            )
        if self.scale_format is not None and not blocks:
            raise UserError(
                f"AbsMax: scale_format {self.scale_format!r} is for granularity='block' or 'tile', "
                f"got {self.granularity!r}"
            )
        if self.power_of_two and self.scale_format is not None:
            raise UserError("AbsMax: power_of_two is for float32 scales; leave scale_format=None")
        if self.block < 1:
            raise UserError(f"AbsMax: block must be at least 1, got {self.block}")
        if not 0 < self.headroom < math.inf:
            raise UserError(f"AbsMax: headroom must be a positive number, got {self.headroom!r}")
        self._check_scale_format()

    def _check_scale_format(self) -> None:
        if self.exponent not in ("floor", "ceil"):
            raise UserError(f"AbsMax: exponent must be 'floor' or 'ceil', got {self.exponent!r}")
        if self.exponent != "floor" and self.scale_format != "e8m0":
            raise UserError("AbsMax: exponent is for MX scales; set scale_format='e8m0'")
        if not 0 < self.limit <= E4M3_MAX:
            raise UserError(f"AbsMax: limit must lie in (0, {E4M3_MAX:g}], got {self.limit!r}")
        nv = self.scale_format == "fp8_e4m3"
        if self.limit != E4M3_MAX and not nv:
            raise UserError("AbsMax: limit is for NV scales; set scale_format='fp8_e4m3'")
        if self.outer is None:
            return
        if not nv or self.granularity != "block":
            raise UserError("AbsMax: outer is for NV blocks; set scale_format='fp8_e4m3'")
        if self.outer < 1 or self.outer % self.block:
            raise UserError(
                f"AbsMax: outer must be a multiple of block, got {self.outer} and {self.block}"
            )

    @classmethod
    def mx(
        cls, axis: int = -1, exponent: Literal["floor", "ceil"] = "floor", headroom: float = 1.0
    ) -> AbsMax:
        """MX: blocks of 32 with E8M0 scales."""
        return cls("block", axis, 32, "e8m0", headroom=headroom, exponent=exponent)

    @classmethod
    def nv(
        cls,
        axis: int = -1,
        headroom: float = 1.0,
        limit: float = E4M3_MAX,
        outer: int | None = None,
    ) -> AbsMax:
        """NV: blocks of 16 with E4M3 scales times one float32 a tensor, or `outer` elements."""
        return cls("block", axis, 16, "fp8_e4m3", headroom=headroom, limit=limit, outer=outer)

    @property
    def plain(self) -> bool:
        """Whether this is one float32 scale a tensor and nothing else."""
        return self.granularity == "tensor" and not self.power_of_two and self.headroom == 1.0

    def along(self, contraction: int, free: int | None) -> AbsMax:
        return along(self, self.granularity, contraction, free)

    def fit(self, x: Tensor, format: Format) -> Fit:
        """Fit to `x`.

        >>> from nybble.formats import get_format
        >>> x = torch.tensor([[7.0, 1.0], [14.0, -3.0]])
        >>> AbsMax("row").fit(x, get_format("int4")).scale
        tensor([[1.],
                [2.]])
        """
        x = x.detach().to(torch.float32)
        if self.granularity == "tensor":
            return self._fit(absolute_max(x), format)
        if self.granularity in ("block", "tile"):
            return self._fit_blocks(x, format)
        shape, info = scale_layout("AbsMax", x, self.granularity, self.axis)
        others = [d for d, size in enumerate(shape) if size == 1]
        return self._fit(_max_over(x, others), format, **info)

    def _fit_blocks(self, x: Tensor, format: Format) -> Fit:
        info = block_layout("AbsMax", x, self.granularity, self.axis, self.block)
        if self.granularity == "tile":
            top = tile_max(x, self.block)
        else:
            top = block_max(x, info["axis"], self.block)
        return self.fit_tops(top, format, info)

    def fit_tops(self, top: Tensor, format: Format, info: dict[str, Any]) -> Fit:
        """Fit to the maxima of blocks or tiles; `info` is what `block_layout` says of them."""
        if self.scale_format == "e8m0":
            return mx_fit(top, format, info, self.exponent, self.headroom)
        if self.scale_format == "fp8_e4m3":
            if self.outer is not None:
                info = {**info, "outer": self.outer}
            return nv_fit(top, format, info, self.limit, self.headroom)
        return self._fit(top, format, **info)

    def _fit(self, top: Tensor, format: Format, **info: Any) -> Fit:
        reach = format.max_value / self.headroom
        if self.power_of_two:
            inv = warm_start(top, reach)
            inv = torch.where(torch.isfinite(top), inv, float("nan"))
            return Fit(scale=torch.reciprocal(inv), inv=inv, **info)
        return Fit.of_array(scale_of(to_array(top), reach), **info)

    @property
    def short(self) -> str:
        text: str = self.granularity
        default = 0 if text == "channel" else -1
        if text in ("block", "tile"):
            names = {None: text, "e8m0": "mx", "fp8_e4m3": "nv"}
            side = f"x{self.block}" if text == "tile" else ""
            text = f"{names[self.scale_format]}{self.block}{side}"
        parts = [
            text,
            "" if self.axis in (None, default) else f"axis {self.axis}",
            "power of two" if self.power_of_two else "",
            "" if self.exponent == "floor" else self.exponent,
            "" if self.limit == E4M3_MAX else f"limit {self.limit:g}",
            "" if self.outer is None else f"outer {self.outer}",
            "" if self.headroom == 1.0 else f"headroom {self.headroom:.6g}",
        ]
        return f"absmax({', '.join(part for part in parts if part)})"


def _max_over(x: Tensor, dims: list[int]) -> Tensor:
    """max|x| over some dimensions, kept as size 1; 0 where they are empty, x itself without any."""
    if not dims:
        return x.abs()
    if any(x.shape[d] == 0 for d in dims):
        shape = [1 if d in dims else size for d, size in enumerate(x.shape)]
        return x.new_zeros(shape)
    return torch.maximum(x.amax(dims, keepdim=True), -x.amin(dims, keepdim=True))
