"""A convolution's backward step where scales follow images and channels: composite.py for conv2d.

    z1 = dy s_w (by output channel),  a scale for each image       dx = g1 qw s_g1
    z2 = dy s_x (by image),           a scale for each channel     dw = g2 qx s_g2 + e_tap mu

Where the gradient lies channels-last, its maxima are those of a folded matrix [pixels, channels];
else those of its planes, since max|dy s| = fl(max|dy| s). The control variate's e_tap are sums of
one plane, that of the rounding error summed over the images (ops/reference/taps.py).

Not done here: other convolutions than conv2d (integers.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nybble.errors import NybbleError
from nybble.ops.calls import BackwardCall
from nybble.ops.geometry import Geometry
from nybble.ops.native import convolution, lines, quantize, taps
from nybble.ops.native.buffers import NO_FLOATS
from nybble.ops.native.codes import Codes
from nybble.ops.native.composite import (
    column_means,
    forward_slots,
    gradient_of,
    layer_backward,
    scales_of_maxima,
    times_unit,
)
from nybble.ops.native.layout import reuse, torch_layout
from nybble.ops.native.operand import codes_of
from nybble.ops.native.pool import hollow_
from nybble.ops.reference.operand import Draw
from nybble.ops.reference.storage import is_channels_last
from nybble.ops.spec import LayerSpec
from nybble.quantizers import Quantizer

__all__ = ["composite_backward"]


@dataclass(frozen=True)
class _Step:
    """What the two products share."""

    grad: Tensor
    last: bool  # of the gradient's memory
    spec: LayerSpec
    geometry: Geometry
    draw: Draw
    x: Codes  # [N, H, W, C]
    w: Codes  # [O, kh, kw, C / groups]
    scale_x: Tensor | None  # [N] or one number
    scale_w: Tensor | None  # [O] or one number

    @property
    def folds_x(self) -> Tensor | None:
        return self.scale_x if self.scale_x is not None and self.scale_x.numel() > 1 else None

    @property
    def folds_w(self) -> Tensor | None:
        return self.scale_w if self.scale_w is not None and self.scale_w.numel() > 1 else None


def composite_backward(
    grad: Tensor, call: BackwardCall, memory: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`conv_backward`, or composite.py's for a linear layer."""
    of = layer_backward if call.geometry.kind == "linear" else conv_backward
    return of(grad, call, memory)


def conv_backward(grad: Tensor, call: BackwardCall, memory: Tensor | None) -> tuple[Tensor, Tensor]:
    """(dx, dw), empty where not `wanted`; grad is dense. memory: the gradient's, where dx may be
    written over it."""
    saved, spec, geometry, wanted = call.saved, call.spec, call.geometry, call.wanted
    x_shape, weight_shape, channels_last = call.x_shape, call.weight_shape, call.channels_last
    slot_x, slot_w = forward_slots(spec, geometry)
    step = _Step(
        grad,
        is_channels_last(grad),
        spec,
        geometry,
        call.draw,
        codes_of(saved[:4], slot_x, x_shape, channels_last[0], geometry),
        codes_of(saved[4:8], slot_w, weight_shape, channels_last[1], geometry),
        _flat(saved[1]),
        _flat(saved[5]),
    )
    first, second = spec.grad_input_grad, spec.grad_weight_grad
    if first is None or second is None:
        raise NybbleError("a native Gemm needs a quantizer in each slot")
    images, channels = _maxima(step)
    by_image, image_inverse = scales_of_maxima(images, first)
    by_channel, channel_inverse = scales_of_maxima(channels, second)
    one = _for_input(step, image_inverse) if wanted[0] else None
    two = _for_weight(step, channel_inverse) if wanted[1] else None
    packed = _pack(step, one, two)
    dx = dw = NO_FLOATS
    if packed[1] is not None:
        codes = [packed[1]]
        for sample in range(1, spec.samples):
            more = _pack(step, None, _for_weight(step, channel_inverse, sample))[1]
            codes.append(more if more is not None else packed[1])
        last = step.last or (any(channels_last) and _has_order(x_shape))
        dw = _grad_weight(step, codes, second, times_unit(by_channel, second), weight_shape, last)
    if packed[0] is not None:
        g = _codes(step, packed[0], first)
        n, c, h, width = x_shape
        last = step.last or (any(channels_last) and _has_order(weight_shape))
        out = reuse(memory, (n, h, width, c), step.last) if last else None
        if memory is not None and out is None and last:
            hollow_(memory)
        scale = times_unit(by_image, first)
        left = None if step.folds_w is not None else step.scale_w
        dx = convolution.grad_input(g, step.w, geometry, (n, h, width, c), scale, left, out)
        dx = torch_layout(dx, last, memory)
    return dx, dw


def _has_order(shape: tuple[int, ...]) -> bool:
    """Whether channels-last is another order than the contiguous one."""
    return shape[1] > 1 and shape[2] * shape[3] > 1


def _flat(multiplier: Tensor) -> Tensor | None:
    return multiplier.reshape(-1) if multiplier.numel() else None


def _maxima(step: _Step) -> tuple[Tensor, Tensor]:
    """(of every image of z1, of every channel of z2)."""
    n, c, h, w = step.grad.shape
    pixels = h * w
    if not step.grad.numel():
        return step.grad.new_zeros(n), step.grad.new_zeros(c)
    if step.last:
        matrix = step.grad.permute(0, 2, 3, 1).view(n * pixels, c)
        across = None if step.folds_x is None else step.folds_x.repeat_interleave(pixels)
        rows, channels, _ = lines.folded_statistics(matrix, step.folds_w, across, want_sums=False)
        return rows.view(n, pixels).amax(1), channels
    planes = quantize.absmax_rows(step.grad, n * c).view(n, c)
    one = planes if step.folds_w is None else planes * step.folds_w
    two = planes if step.folds_x is None else planes * step.folds_x[:, None]
    return one.amax(1), two.amax(0)


def _runs(step: _Step) -> tuple[int, int]:
    """For how many neighbours in memory an image lasts, and a channel."""
    _, c, h, w = step.grad.shape
    return c * h * w, 1 if step.last else h * w


def _for_input(step: _Step, inverse: Tensor) -> lines.Folded:
    image, channel = _runs(step)
    fold = None if step.folds_w is None else lines.Factors(step.folds_w, channel)
    return gradient_of(step.spec, 0, step.draw, lines.Factors(inverse, image), fold)


def _for_weight(step: _Step, inverse: Tensor, sample: int = 0) -> lines.Folded:
    image, channel = _runs(step)
    fold = None if step.folds_x is None else lines.Factors(step.folds_x, image)
    return gradient_of(step.spec, 1, step.draw, lines.Factors(inverse, channel), fold, sample)


def _pack(
    step: _Step, one: lines.Folded | None, two: lines.Folded | None
) -> tuple[Tensor | None, Tensor | None]:
    _, c, h, w = step.grad.shape
    if step.last:
        return lines.folded_pack(step.grad, c, one, two, (c, h * w))
    return lines.folded_pack(step.grad, h * w, one, two)


def _codes(step: _Step, packed: Tensor, slot: Quantizer) -> Codes:
    kept = [packed, NO_FLOATS, NO_FLOATS, NO_FLOATS]
    return codes_of(kept, slot, tuple(step.grad.shape), step.last, step.geometry)


def _grad_weight(
    step: _Step,
    packed: list[Tensor],
    slot: Quantizer,
    scale: Tensor,
    weight_shape: tuple[int, ...],
    last: bool,
) -> Tensor:
    """The mean of the products of each rounding."""
    o, c, h, w = weight_shape
    left = None if step.folds_x is not None else step.scale_x
    total: Tensor | None = None
    for codes in packed:
        g = _codes(step, codes, slot)
        dw = convolution.grad_weight(g, step.x, step.geometry, (o, h, w, c), scale, left)
        if step.spec.control_variate:
            error, mean = _control_variate(step, codes, slot, scale, left, weight_shape)
            _add_outer_(dw.view(o * h * w, c), error, mean, step.geometry.groups)
        dw = torch_layout(dw, last, lasting=True)
        total = dw if total is None else total.add_(dw)
    if total is None:
        raise NybbleError("there is at least one sample")
    return total if len(packed) == 1 else total.mul_(1.0 / len(packed))


def _add_outer_(dw: Tensor, error: Tensor, mean: Tensor, groups: int) -> None:
    """`lines.add_outer_` for each group's rows of dw and its own part of the input's means."""
    if groups == 1:
        lines.add_outer_(dw, error, mean)
        return
    # By torch, and all groups at once: a depthwise convolution has as many as it has channels.
    dw.view(groups, -1, dw.shape[1]).add_(error.view(groups, -1, 1) * mean.view(groups, 1, -1))


def _control_variate(
    step: _Step,
    packed: Tensor,
    slot: Quantizer,
    scale: Tensor,
    left: Tensor | None,
    weight_shape: tuple[int, ...],
) -> tuple[Tensor, Tensor]:
    """(the rounding error of each output channel, summed over what each tap sees; each input
    channel's mean): control_variate.py, with sums of codes where the reference sums integers."""
    n, c, h, w = step.grad.shape
    rounded = lines.column_sums(Codes.of(packed, (n, c * h * w), slot.format))
    error = taps.image_error(step.grad, step.last, step.folds_x, rounded, scale)
    size = tuple(step.x.shape)
    kernel = (weight_shape[2], weight_shape[3])
    seen = (size[1], size[2])
    rest = taps.tap_sums(error, (c, h, w), step.last, step.geometry, seen, kernel)
    pixels = size[0] * size[1] * size[2]
    rows = Codes(step.x.packed, (pixels, size[3]), step.x.table, step.x.low, step.x.high)
    return rest.reshape(-1), column_means(rows, left)
