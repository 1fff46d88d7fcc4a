"""A look-up table of few bits: `nn.Embedding`'s two halves, for both backends.

    forward    q = quantise(table);  y_i = q[index_i] m               m = fl(scale unit)
    backward   g = quantise(dy);  dtable_v = float32(sum of g_i where index_i = v) m_g

The slots are `output_weight` and `grad_weight_grad`, with scales along the dimensions of a linear
layer's; nothing else of a spec is used, and no transform, since a look-up is no Gemm. The sums are
exact integers in both modes of accumulation; where the gradient has no integers (8 bits and wider,
float32) they are float32 sums in ascending order of i. Gradients at the padding index are left out,
also of GradScale's statistic. The backends differ in who quantises; the bits are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nybble.ops.exactness import check_exact, finish_
from nybble.ops.geometry import Geometry
from nybble.ops.gradients import gradient_key
from nybble.ops.native import gradient as native_gradient
from nybble.ops.native.operand import quantize_kept
from nybble.ops.native.plan import is_code_slot
from nybble.ops.reference import composite_operand as composite
from nybble.ops.reference import gradient as reference_gradient
from nybble.ops.reference.operand import (
    WEIGHT,
    Draw,
    Operand,
    quantize_operand,
    restore,
)
from nybble.ops.reference.places import places
from nybble.ops.reference.storage import pack_mask, unpack_mask
from nybble.ops.spec import LayerSpec
from nybble.quantizers.packing import unpack_codes

__all__ = ["embedding_backward", "embedding_forward"]

_LINEAR = Geometry("linear")
_TABLE, _GRADIENT = places(_LINEAR, "output")[1], places(_LINEAR, "grad_weight")[0]


def embedding_forward(
    weight: Tensor, index: Tensor, spec: LayerSpec, draw: Draw, save: bool, native: bool
) -> tuple[Tensor, Tensor]:
    """(rows of the quantised table, packed bits of what the clip let through or empty)."""
    slot = spec.output_weight
    rows = index.reshape(-1)
    shape = (*index.shape, weight.shape[1])
    mask = weight.new_empty(0, dtype=torch.uint8)
    if spec.composite:
        operand, _ = composite.quantize(
            weight, slot, _TABLE, composite.Streams(draw, WEIGHT), want_inside=save
        )
        if operand.inside is not None:
            mask = pack_mask(operand.inside)
        found, scale = composite.values(operand)[rows], weight.new_empty(0)
    elif native and slot is not None and is_code_slot(slot):
        kept = quantize_kept(weight, slot, draw, WEIGHT, None, want_inside=save)
        codes = unpack_codes(kept[0], weight.numel(), slot.format.bits).view(weight.shape)[rows]
        found, scale, mask = slot.format.integers(codes), kept[1], kept[3].clone()
    else:
        operand = quantize_operand(weight, slot, draw, WEIGHT, None, want_inside=save)
        if operand.inside is not None:
            mask = pack_mask(operand.inside)
        found = operand.tensor[rows]
        scale = weight.new_empty(0) if operand.multiplier is None else operand.multiplier
    if scale.numel() > 1 and scale.shape[0] > 1:
        scale = scale[rows]
    y = finish_(found, scale.reshape(-1, 1) if scale.numel() else None, None)
    return y.reshape(shape), mask


def embedding_backward(
    grad: Tensor,
    index: Tensor,
    mask: Tensor,
    grad_scale: Tensor,
    size: list[int],
    padding: int,
    spec: LayerSpec,
    draw: Draw,
    native: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dtable, amax, scale); the last two as `layer_backward`'s. padding: -1 for none."""
    rows = index.reshape(-1)
    flat = grad.reshape(rows.numel(), size[1])
    if padding >= 0:
        flat = flat.masked_fill((rows == padding).unsqueeze(1), 0.0)
    flat = flat.contiguous()
    slot = spec.grad_weight_grad
    found: Operand | list[Tensor] | None
    if spec.composite and spec.grad_scale is None:
        streams = composite.Streams(draw, gradient_key(spec, 1, 0))
        found, _ = composite.quantize(flat, slot, _GRADIENT, streams)
        if isinstance(found, composite.Blocks):
            found = Operand(composite.values(found))
        amax, scale = grad.new_empty(0), grad.new_empty(0)
    else:
        backend = native_gradient if native else reference_gradient
        _, found, amax, scale = backend.quantize_gradient(
            flat, spec, grad_scale, draw, (False, True)
        )
    if isinstance(found, list):
        found = restore(found, slot, None, tuple(flat.shape), False)
    if found is None:
        found = Operand(flat)
    table = grad.new_zeros(size)
    if rows.numel():
        used, place = torch.unique(rows, return_inverse=True)
        table[used] = _sums(found, used.numel(), place)
    if mask.numel():
        table.mul_(unpack_mask(mask, table.numel()).view(table.shape))
    return table, amax, scale


def _sums(found: Operand, count: int, place: Tensor) -> Tensor:
    values, multiplier = found.tensor, found.multiplier
    if multiplier is not None and multiplier.numel() > 1:
        values, multiplier = values * multiplier, None
    limit = found.limit if multiplier is not None else None
    if limit is None:
        acc = values.new_zeros(count, values.shape[1]).index_add_(0, place, values)
    else:
        check_exact(limit, 1, place.numel())
        acc = values.new_zeros(count, values.shape[1], dtype=torch.float64)
        acc = acc.index_add_(0, place, values.double()).float().add_(0.0)
    return finish_(acc, None if multiplier is None else multiplier.reshape(()), None)
