"""A convolution's three Gemms by the faster of two exact ways: Winograd or direct.

Both give the same bits, so the choice is a matter of speed and of the bounds that `supports`
proves. Shapes as in `conv.py`: images NHWC, weights OHWI.
"""

from __future__ import annotations

from torch import Tensor

from nybble.ops.geometry import Geometry
from nybble.ops.native import conv, winograd
from nybble.ops.native.codes import Codes

__all__ = ["grad_input", "grad_weight", "output"]


def output(
    x: Codes,
    w: Codes,
    geometry: Geometry,
    scale_x: Tensor | None,
    scale_w: Tensor | None,
    bias: Tensor | None = None,
) -> Tensor:
    """float32 [N, OH, OW, O]."""
    if winograd.supports("output", x, w, geometry, x.shape):
        return winograd.output(x, w, _padding(geometry), scale_x, scale_w, bias)
    return conv.conv_output(x, w, geometry, scale_x, scale_w, bias)


def grad_input(
    g: Codes,
    w: Codes,
    geometry: Geometry,
    x_shape: tuple[int, ...],
    scale_g: Tensor | None,
    scale_w: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """float32 [N, H, W, C], in `x_shape`; written to `out` if that is given."""
    if winograd.supports("grad_input", g, w, geometry, x_shape):
        return winograd.grad_input(g, w, _padding(geometry), x_shape, scale_g, scale_w, out)
    return conv.conv_grad_input(g, w, geometry, x_shape, scale_g, scale_w, out)


def grad_weight(
    g: Codes,
    x: Codes,
    geometry: Geometry,
    w_shape: tuple[int, ...],
    scale_g: Tensor | None,
    scale_x: Tensor | None,
) -> Tensor:
    """float32 [O, kh, kw, C / groups], in `w_shape`."""
    three = w_shape[1:3] == (3, 3)
    if three and winograd.supports("grad_weight", g, x, geometry, x.shape):
        return winograd.grad_weight(g, x, _padding(geometry), scale_g, scale_x)
    return conv.conv_grad_weight(g, x, geometry, w_shape, scale_g, scale_x)


def _padding(geometry: Geometry) -> tuple[int, int]:
    return geometry.padding[0], geometry.padding[1]
