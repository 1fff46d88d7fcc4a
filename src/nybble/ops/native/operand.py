"""Operands of native Gemms: what is kept of a tensor, and its codes as the kernels take them.

    kept    [codes, multiplier, zero point, mask], the very tensors of the reference backend's
            `store`: packed in the order in which the tensor lies in memory
    Codes   the same codes as matrices, images [N, H, W, C] or weights [O, kh, kw, I / groups]

Both backends keep the same bytes, so either can compute a Gemm from them. A contiguous (NCHW)
tensor's codes are transposed to channels-last as codes, at an eighth of the cost of floats.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nybble.ops.geometry import Geometry
from nybble.ops.native import mask, quantize, streams
from nybble.ops.native.buffers import NO_BYTES, NO_FLOATS
from nybble.ops.native.codes import Codes
from nybble.ops.native.lines import best_of_two
from nybble.ops.native.rules import fit_rule
from nybble.ops.reference.layer import clip_gradient
from nybble.ops.reference.operand import Draw, Operand, fit_slot, quantize_operand, store
from nybble.ops.spec import Slot
from nybble.quantizers import PACT, SAWB, AbsMax, BestOfTwo, Fit, Quantizer, Stochastic, Unit
from nybble.quantizers.layout import in_memory_order, is_channels_last

__all__ = ["Kept", "codes_of", "mask_", "mask_gradient_", "quantize_kept", "relayout"]

Kept = list[Tensor]


def quantize_kept(
    x: Tensor,
    slot: Quantizer,
    draw: Draw,
    operand: int,
    alpha: Tensor | None,
    *,
    want_inside: bool,
) -> Kept:
    """[codes, multiplier, zero point, mask] of a dense tensor, as `store` gives them."""
    if not quantize.packs(slot.format) or isinstance(slot.scale, Unit):
        found = quantize_operand(x, slot, draw, operand, alpha, want_inside=want_inside)
        return store(found, slot, found.inside)
    clips = isinstance(slot.scale, PACT) or (
        isinstance(slot.scale, SAWB) and slot.scale.ste == "clip"
    )
    rule = fit_rule(slot)
    learned = isinstance(slot.scale, PACT)
    clip = alpha if learned else NO_FLOATS
    # A clip that is missing, or not one number, is for the scale to refuse.
    if rule is not None and clip is not None and clip.numel() == int(learned):
        codes, multiplier, inside = quantize.quantize_integer(
            x, rule, clip, want_inside=clips and want_inside
        )
        return [codes, multiplier, NO_FLOATS, NO_BYTES if inside is None else inside]
    fit = _fit(x, slot, alpha)
    packed = quantize.pack(
        x,
        fit.inv,
        slot.format,
        slot.rounding,
        key=draw.key(operand) if isinstance(slot.rounding, Stochastic) else None,
        zero_point=fit.zero_point,
        want_inside=clips and want_inside,
    )
    scale = fit.scale
    if isinstance(slot.scale, PACT):  # scales that read the tensor themselves are NaN already
        scale = scale + packed.poison
    multiplier = scale.clone() if slot.format.unit == 1.0 else scale * (slot.format.unit or 1.0)
    zero = NO_FLOATS if fit.zero_point is None else fit.zero_point.clone()
    mask = NO_BYTES if packed.mask is None else packed.mask
    return [packed.codes, multiplier, zero, mask]


def _fit(x: Tensor, slot: Quantizer, alpha: Tensor | None) -> Fit:
    """`fit_slot`, with the tensor read by the native kernels where they have the statistic."""
    if isinstance(slot.scale, SAWB):
        return slot.scale.fit(x, slot.format, _sawb_statistics)
    if isinstance(slot.scale, AbsMax) and slot.scale.granularity == "tensor":
        return slot.scale.fit(quantize.absmax(x), slot.format)  # the maximum of one number
    if _lines(x, slot):
        rows = x.shape[0]
        if isinstance(slot.scale, AbsMax):
            tops = quantize.absmax_rows(x, rows)
            return slot.scale.fit(tops.view(rows, *[1] * (x.dim() - 1)), slot.format)
        shape = (rows, *[1] * (x.dim() - 1))
        if isinstance(slot.scale, BestOfTwo):
            matrix = in_memory_order(x).reshape(rows, -1)
            scale, inv = best_of_two(matrix, slot.format, slot.scale.rms)
            return Fit(scale.view(shape), inv.view(shape), granularity="channel", axis=0)
    return fit_slot(x, slot, alpha)


def _lines(x: Tensor, slot: Quantizer) -> bool:
    """Whether the scales are those of runs of memory: the indices of the first dimension."""
    scale = slot.scale
    return (
        isinstance(scale, AbsMax | BestOfTwo)
        and scale.granularity == "channel"
        and scale.axis in (None, 0)
        and x.numel() > 0
        and x.dtype is torch.float32
    )


def _sawb_statistics(
    w: Tensor,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    squares, magnitudes, largest = quantize.sawb_statistics(w.contiguous())
    if w.shape[0] == 1:
        return squares[0], magnitudes[0], largest[0]
    return squares, magnitudes, largest


def codes_of(
    kept: Kept, slot: Quantizer, shape: tuple[int, ...], channels_last: bool, geometry: Geometry
) -> Codes:
    """The codes in the order of the kernels; `shape` is the tensor's (NCHW, OIHW or a matrix)."""
    zero = int(kept[2].item()) if kept[2].numel() else 0
    if geometry.kind == "linear":
        return Codes.of(kept[0], shape, slot.format, zero)
    n, c, h, w = shape
    packed = kept[0]
    if not channels_last and c > 1 and h * w > 1:
        packed = relayout(packed, n, c, h * w, slot.format.bits)
    return Codes.of(packed, (n, h, w, c), slot.format, zero)


def relayout(packed: Tensor, n: int, rows: int, columns: int, bits: int) -> Tensor:
    """Transpose each of `n` matrices [rows, columns] of codes.

    >>> import torch
    >>> relayout(torch.arange(6, dtype=torch.uint8), 1, 2, 3, 8).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    if bits <= 4:
        return streams.relayout(packed, n, rows, columns)
    codes = packed[: n * rows * columns].view(n, rows, columns)
    return codes.transpose(1, 2).contiguous().view(-1)


def mask_gradient_(
    dx: Tensor,
    kept: Kept,
    kept_slot: Slot,
    slot: Slot,
    channels_last: bool,
    operand: Callable[[], Operand],
    *,
    need_dalpha: bool,
) -> Tensor:
    """Zero `dx` where the clip stopped the number, in place; returns the clip's gradient (empty
    where it is not needed), in one pass.

    `kept`, `kept_slot`: the input as kept; `slot`: the output Gemm's input slot, whose clip it is;
    `operand`: the input as the reference decodes it, for layouts and codes that have no kernel.
    """
    pact = slot.scale if slot is not None and isinstance(slot.scale, PACT) else None
    coded = kept_slot is not None and quantize.packs(kept_slot.format) and kept[0].numel() > 0
    if not dx.numel() or is_channels_last(dx) != channels_last or (need_dalpha and not coded):
        found = operand()
        dalpha = clip_gradient(dx, found, slot) if need_dalpha else dx.new_empty(0)
        if found.inside is not None:
            dx.mul_(found.inside)
        return dalpha
    if not need_dalpha or pact is None or kept_slot is None:
        mask.mask_gradient_(dx, kept[3])
        return NO_FLOATS
    zero = int(kept[2].item()) if kept[2].numel() else 0
    clips = mask.mask_gradient_(
        dx, kept[3], kept[0], kept_slot.format, zero, two_sided=pact.kind == "two_sided"
    )
    return NO_FLOATS if clips is None else clips


def mask_(dw: Tensor, kept: Kept, channels_last: bool, operand: Callable[[], Operand]) -> None:
    """Zero `dw` where the weight was clipped, in place."""
    if dw.numel() and is_channels_last(dw) == channels_last:
        mask.mask_gradient_(dw, kept[3])
        return
    inside = operand().inside
    if inside is not None:
        dw.mul_(inside)
