"""`nn.Conv1d`, `nn.Conv3d` and the transposed convolutions with their three Gemms in few bits.

A 1-d convolution is a 2-d one of one line, whose codes and results lie in memory as they would
anyway. A transposed convolution multiplies as its mirror image does (ops/geometry.py): its output
is the mirror's grad_input. Padding other than zeros, and `padding="same"` where it is uneven, are
applied before the input is quantised, as torch does.
"""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.nn.state import QuantizedLayer
from nybble.ops.geometry import Geometry, Kind


def _checked(layer: Any, x: Tensor, dims: int) -> tuple[Tensor, bool]:
    """(a batch, whether it was one)."""
    if x.dim() == dims + 1 and x.shape[0] == layer.in_channels:
        return x.unsqueeze(0), False
    if x.dim() != dims + 2 or x.shape[1] != layer.in_channels:
        axes = ", ".join("DHW"[3 - dims :]) if dims > 1 else "L"
        raise UserError(
            f"{type(layer).__name__}: the input's shape is {tuple(x.shape)}, but it must be"
            f" [N, {layer.in_channels}, {axes}] or [{layer.in_channels}, {axes}]"
        )
    return x, True


def _padded(layer: Any, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """(the input, the zero padding that the Gemm does)."""
    # _reversed_padding_repeated_twice is torch's own resolution of "same" and of numbers.
    pads = [int(p) for p in layer._reversed_padding_repeated_twice]
    none = (0,) * (len(pads) // 2)
    if layer.padding_mode != "zeros":
        return F.pad(x, pads, mode=layer.padding_mode), none
    if pads[::2] == pads[1::2]:
        return x, tuple(pads[::-2])
    return F.pad(x, pads), none


def _lined(kind: Kind, sizes: tuple[tuple[int, ...], ...], groups: int) -> Geometry:
    """The 2-d geometry of a 1-d (stride, padding, dilation, output_padding)."""
    (stride,), (padding,), (dilation,), *more = sizes
    return Geometry(
        kind,
        (1, stride),
        (0, padding),
        (1, dilation),
        groups,
        tuple(n for (size,) in more for n in (0, size)),
    )


class Conv1d(QuantizedLayer, nn.Conv1d):
    """A converted `torch.nn.Conv1d`."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, L] or [C, L], as torch's own."""
        x, batched = _checked(self, input, 1)
        x, padding = _padded(self, x)
        geometry = _lined("conv2d", (self.stride, padding, self.dilation), self.groups)
        y = self._gemm(x.unsqueeze(2), self.weight.unsqueeze(2), self.bias, geometry).squeeze(2)
        return y if batched else y.squeeze(0)


class Conv3d(QuantizedLayer, nn.Conv3d):
    """A converted `torch.nn.Conv3d`."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, D, H, W] or [C, D, H, W], as torch's own."""
        x, batched = _checked(self, input, 3)
        x, padding = _padded(self, x)
        geometry = Geometry(
            "conv3d", tuple(self.stride), padding, tuple(self.dilation), self.groups
        )
        y = self._gemm(x, self.weight, self.bias, geometry)
        return y if batched else y.squeeze(0)


class _Transposed(QuantizedLayer):
    """What the three transposed convolutions share."""

    dims: int

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[N, C, ...] or [C, ...], as torch's own."""
        layer = cast(Any, self)
        dims = self.dims
        more = layer._output_padding(
            input,
            output_size,
            layer.stride,
            layer.padding,
            layer.kernel_size,
            dims,
            layer.dilation,
        )
        x, batched = _checked(self, input, dims)
        # Output padding up to the dilation is allowed; from the stride on no product reaches it.
        within = [min(int(n), int(s) - 1) for n, s in zip(more, layer.stride, strict=True)]
        beyond = [int(n) - m for n, m in zip(more, within, strict=True)]
        bias = None if any(beyond) else layer.bias
        sizes = tuple(
            tuple(int(n) for n in size)
            for size in (layer.stride, layer.padding, layer.dilation, within)
        )
        if dims == 1:
            geometry = _lined("conv_transpose2d", sizes, layer.groups)
            weight = self.weight.unsqueeze(2)
            y = self._gemm(x.unsqueeze(2), weight, bias, geometry).squeeze(2)
        else:
            kind: Kind = "conv_transpose2d" if dims == 2 else "conv_transpose3d"
            stride, padding, dilation, output_padding = sizes
            geometry = Geometry(kind, stride, padding, dilation, layer.groups, output_padding)
            y = self._gemm(x, self.weight, bias, geometry)
        if any(beyond):
            y = F.pad(y, [n for size in reversed(beyond) for n in (0, size)])
            if layer.bias is not None:
                y = y + layer.bias.to(y.dtype).view(-1, *[1] * dims)
        return y if batched else y.squeeze(0)


class ConvTranspose1d(_Transposed, nn.ConvTranspose1d):
    """A converted `torch.nn.ConvTranspose1d`."""

    dims = 1


class ConvTranspose2d(_Transposed, nn.ConvTranspose2d):
    """A converted `torch.nn.ConvTranspose2d`."""

    dims = 2


class ConvTranspose3d(_Transposed, nn.ConvTranspose3d):
    """A converted `torch.nn.ConvTranspose3d`."""

    dims = 3
