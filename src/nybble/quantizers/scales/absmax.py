"""AbsMax: the largest magnitude of a tensor, channel, row or block becomes the largest value.

    top   = max|x| over the group                  max_value = the format's largest value
    scale = max(fl(top / max_value), 2**-126)      1 where top == 0, NaN where it is not finite
    inv   = fl(1 / scale)

With `power_of_two` the scale is instead the smallest power of two that clips nothing:
max|x| / scale in (max_value / 2, max_value], exactly.

Granularities: "tensor"; "channel" (one scale for each index of dimension `axis`); "row" (one for
each line along the last dimension, torchao's per-token); "block" (`block` consecutive elements
along `axis`, the last block may be shorter). The block scales of MX and NV are in blocks.py.

Not done here: quantiles and moving averages of the maximum; square (2-D) blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.quantizers.scales.arithmetic import scale_of, to_array
from nybble.quantizers.scales.blocks import block_max, mx_fit, nv_fit
from nybble.quantizers.scales.fit import Fit, Granularity, ScaleConfig
from nybble.quantizers.scales.gradscale import absolute_max, warm_start

if TYPE_CHECKING:
    from nybble.formats import Format

__all__ = ["AbsMax"]


@dataclass(frozen=True)
class AbsMax(ScaleConfig):
    """Scale from the largest magnitude; see the module.

    granularity: "tensor", "channel", "row" or "block".
    axis: the dimension of "channel" (default 0) or "block" (default -1, the last).
    block: elements of a block.
    scale_format: for blocks: None keeps float32 scales, "e8m0" gives MX scales (OCP
        Microscaling, the floor rule), "fp8_e4m3" NV scales (E4M3 times one float32 a tensor).
    power_of_two: for float32 scales: round up to a power of two.

    >>> AbsMax.mx()
    AbsMax(granularity='block', axis=-1, block=32, scale_format='e8m0', power_of_two=False)
    """

    granularity: Granularity = "tensor"
    axis: int | None = None
    block: int = 32
    scale_format: Literal["e8m0", "fp8_e4m3"] | None = None
    power_of_two: bool = False

    def __post_init__(self) -> None:
        if self.granularity not in ("tensor", "channel", "row", "block"):
            raise UserError(
                "AbsMax: granularity must be 'tensor', 'channel', 'row' or 'block', got "
                f"{self.granularity!r}"
            )
        if self.scale_format not in (None, "e8m0", "fp8_e4m3"):
            raise UserError(
                f"AbsMax: scale_format must be None, 'e8m0' or 'fp8_e4m3', got "
                f"{self.scale_format!r}"
            )
        if self.scale_format is not None and self.granularity != "block":
            raise UserError(
                f"AbsMax: scale_format {self.scale_format!r} is for granularity='block', got "
                f"{self.granularity!r}"
            )
        if self.power_of_two and self.scale_format is not None:
            raise UserError("AbsMax: power_of_two is for float32 scales; leave scale_format=None")
        if self.axis is not None and self.granularity in ("tensor", "row"):
            raise UserError(f"AbsMax: granularity {self.granularity!r} takes no axis")
        if self.block < 1:
            raise UserError(f"AbsMax: block must be at least 1, got {self.block}")

    @classmethod
    def mx(cls, axis: int = -1) -> AbsMax:
        """MX: blocks of 32 with E8M0 scales."""
        return cls("block", axis=axis, block=32, scale_format="e8m0")

    @classmethod
    def nv(cls, axis: int = -1) -> AbsMax:
        """NV: blocks of 16 with E4M3 scales times one float32 a tensor."""
        return cls("block", axis=axis, block=16, scale_format="fp8_e4m3")

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
        if x.dim() == 0:
            raise UserError(f"AbsMax: granularity {self.granularity!r} needs at least 1 dimension")
        if self.granularity == "row":
            axis = 0 if x.dim() == 2 else None
            return self._fit(_max_over(x, [x.dim() - 1]), format, granularity="row", axis=axis)
        axis = self._axis(x)
        if self.granularity == "channel":
            others = [d for d in range(x.dim()) if d != axis]
            return self._fit(_max_over(x, others), format, granularity="channel", axis=axis)
        top = block_max(x, axis, self.block)
        info: dict[str, Any] = {"granularity": "block", "axis": axis, "blocks": self.block}
        if self.scale_format == "e8m0":
            return mx_fit(top, format, info)
        if self.scale_format == "fp8_e4m3":
            return nv_fit(top, format, info)
        return self._fit(top, format, **info)

    def _fit(self, top: Tensor, format: Format, **info: Any) -> Fit:
        if self.power_of_two:
            inv = warm_start(top, format.max_value)
            inv = torch.where(torch.isfinite(top), inv, float("nan"))
            return Fit(scale=torch.reciprocal(inv), inv=inv, **info)
        return Fit.of_array(scale_of(to_array(top), format.max_value), **info)

    def _axis(self, x: Tensor) -> int:
        default = 0 if self.granularity == "channel" else -1
        axis = default if self.axis is None else self.axis
        if not -x.dim() <= axis < x.dim():
            raise UserError(f"AbsMax: axis {axis} of a tensor with {x.dim()} dimensions")
        return axis % x.dim()

    @property
    def short(self) -> str:
        if self.granularity == "block":
            name = {None: "block", "e8m0": "mx", "fp8_e4m3": "nv"}[self.scale_format]
            text = f"{name}{self.block}"
            default = -1
        else:
            text, default = self.granularity, 0
        axis = "" if self.axis in (None, default) else f", axis {self.axis}"
        power = ", power of two" if self.power_of_two else ""
        return f"absmax({text}{axis}{power})"


def _max_over(x: Tensor, dims: list[int]) -> Tensor:
    """max|x| over some dimensions, kept as size 1; 0 where they are empty, x itself without any."""
    if not dims:
        return x.abs()
    if any(x.shape[d] == 0 for d in dims):
        shape = [1 if d in dims else size for d, size in enumerate(x.shape)]
        return x.new_zeros(shape)
    return torch.maximum(x.amax(dims, keepdim=True), -x.amin(dims, keepdim=True))
