"""Operands of native Gemms: what is kept of a tensor, and its codes as the kernels take them.

    kept    [codes, multiplier, zero point, mask], the very tensors of the reference backend's
            `store`: packed in the order in which the tensor lies in memory
    Codes   the same codes as matrices, images [N, H, W, C] or weights [O, kh, kw, I / groups]

Both backends keep the same bytes, so either can compute a Gemm from them. A contiguous (NCHW)
tensor's codes are transposed to channels-last as codes, at an eighth of the cost of floats.
"""

from __future__ import annotations

from math import prod

from torch import Tensor

from nybble.ops.geometry import Geometry
from nybble.ops.native.codes import Codes
from nybble.ops.reference.layer import clip_gradient
from nybble.ops.reference.operand import Draw, Operand, quantize_operand, store
from nybble.ops.spec import Slot
from nybble.quantizers import Quantizer
from nybble.quantizers.packing import pack4, unpack4

__all__ = ["Kept", "codes_of", "mask_gradient_", "quantize_kept", "relayout"]

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
    found = quantize_operand(x, slot, draw, operand, alpha, want_inside=want_inside)
    return store(found, slot, found.inside)


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

    >>> relayout(torch.arange(6, dtype=torch.uint8), 1, 2, 3, 8).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    count = prod((n, rows, columns))
    codes = unpack4(packed, count) if bits <= 4 else packed[:count]
    moved = codes.view(n, rows, columns).transpose(1, 2).contiguous().view(-1)
    return pack4(moved) if bits <= 4 else moved


def mask_gradient_(dx: Tensor, operand: Operand, slot: Slot, *, need_dalpha: bool) -> Tensor:
    """Zero `dx` where the clip stopped the number, in place; returns the clip's gradient (empty
    where it is not needed). `operand`: the input as kept; `slot`: the output Gemm's input slot."""
    dalpha = clip_gradient(dx, operand, slot) if need_dalpha else dx.new_empty(0)
    if operand.inside is not None:
        dx.mul_(operand.inside)
    return dalpha
