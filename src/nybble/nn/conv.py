"""`nn.Conv2d` with its three Gemms in few bits: any stride, padding, dilation, groups; depthwise.

Padding other than zeros, and `padding="same"` where it is uneven, are applied before the input is
quantised, as torch does; zero padding is exact in every format, since its integer is 0.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.nn.state import QuantizedLayer
from nybble.ops.geometry import Geometry


class Conv2d(QuantizedLayer, nn.Conv2d):
    """A converted `torch.nn.Conv2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] or [C, H, W], as torch's own."""
        if input.dim() == 3 and input.shape[0] == self.in_channels:
            return self._batched(input.unsqueeze(0)).squeeze(0)
        if input.dim() != 4 or input.shape[1] != self.in_channels:
            raise UserError(
                f"{type(self).__name__}: the input's shape is {tuple(input.shape)}, but it must be"
                f" [N, {self.in_channels}, H, W] or [{self.in_channels}, H, W]"
            )
        return self._batched(input)

    def _batched(self, x: Tensor) -> Tensor:
        padding = (0, 0)
        # _reversed_padding_repeated_twice is torch's own resolution of "same" and of numbers.
        pads = [int(p) for p in self._reversed_padding_repeated_twice]
        if self.padding_mode != "zeros":
            x = F.pad(x, pads, mode=self.padding_mode)
        elif pads[0] == pads[1] and pads[2] == pads[3]:
            padding = (pads[2], pads[0])
        else:
            x = F.pad(x, pads)
        geometry = Geometry(
            "conv2d",
            tuple(self.stride),
            padding,
            tuple(self.dilation),
            self.groups,
        )
        return self._gemm(x, self.weight, self.bias, geometry)
