"""One layer's step where scales follow the lines of a Gemm, on packed codes: the part of
`ops/reference/composite.py` that integer kernels compute, with the same bits.

    forward    qx, qw with a scale for each row and output channel;  y = qx qw^T (s_x s_w) + bias
    backward   z1 = dy s_w,  z2 = dy s_x                   folded: one read for both
               g1, g2 = Q(z1), Q(z2)                       a scale for each row, each output channel
               dx = g1 qw s_g1,  dw = g2^T qx s_g2 + e mu^T
               e = sum z2 - s_g2 sum g2,  mu = mean of qx  the control variate, where asked for

Sums over rows of dy come out of the read that finds the maxima; sums of codes are integers.

Convolutions: composite_conv.py. Not done here: transforms, block scales, outliers, gradients with
a GradScale (see `plan.why_not`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.ops.calls import BackwardCall
from nybble.ops.geometry import Geometry
from nybble.ops.gradients import gradient_key
from nybble.ops.native import lines
from nybble.ops.native.buffers import NO_FLOATS
from nybble.ops.native.codes import Codes
from nybble.ops.native.gemm import gemm
from nybble.ops.native.layout import reuse
from nybble.ops.native.operand import Kept
from nybble.ops.native.pool import hollow_
from nybble.ops.reference.operand import Draw
from nybble.ops.reference.places import places
from nybble.ops.spec import LayerSpec
from nybble.quantizers import Quantizer, per_channel_sum
from nybble.quantizers.packing import unpack4

__all__ = [
    "column_means",
    "forward_slots",
    "gradient_of",
    "layer_backward",
    "scales_of_maxima",
    "times_unit",
]

_LINEAR = Geometry("linear")


@lru_cache(maxsize=256)
def forward_slots(spec: LayerSpec, geometry: Geometry) -> tuple[Quantizer, Quantizer]:
    """The output Gemm's quantizers, with scales that know their dimension.

    >>> from nybble.recipes import get_recipe
    >>> [slot.scale.short for slot in forward_slots(get_recipe("nybble4").spec, _LINEAR)]
    ['absmax(channel)', 'bestoftwo(channel, 0.1362)']
    """
    left, right = spec.output_input, spec.output_weight
    if left is None or right is None:
        raise NybbleError("a native Gemm needs a quantizer in each slot")
    if not spec.composite:
        return left, right
    place_x, place_w = places(geometry, "output")
    return (
        replace(left, scale=left.scale.along(place_x.contraction, place_x.free)),
        replace(right, scale=right.scale.along(place_w.contraction, place_w.free)),
    )


@dataclass(frozen=True)
class _Partner:
    """The weight or input of a backward Gemm: its codes, the scale that is folded into the
    gradient, and the one that is left for the result."""

    codes: Codes
    folded: Tensor | None
    left: Tensor | None


def _partner(kept: Kept, slot: Quantizer, shape: tuple[int, ...]) -> _Partner:
    """Both partners of a linear layer vary, if at all, along the dimension that is summed."""
    codes = Codes.of(kept[0], shape, slot.format)
    multiplier = kept[1].reshape(-1)
    if multiplier.numel() <= 1:
        return _Partner(codes, None, multiplier if multiplier.numel() else None)
    return _Partner(codes, multiplier, None)


@dataclass(frozen=True)
class _Gradient:
    """The gradient's operands: scales of rows [M] and of columns [N], codes, column sums."""

    rows: Tensor
    columns: Tensor
    inverse: Tensor  # what columns are multiplied by
    for_input: Tensor | None
    for_weight: Tensor | None
    sums: Tensor | None


def layer_backward(
    grad: Tensor, call: BackwardCall, memory: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(dx, dw) of a linear layer, empty where not `wanted`; grad is contiguous. `memory`: the
    gradient's, where dx may be written over it."""
    saved, spec, draw, wanted = call.saved, call.spec, call.draw, call.wanted
    slot_x, slot_w = forward_slots(spec, _LINEAR)
    w = _partner(saved[4:8], slot_w, call.weight_shape)
    x = _partner(saved[:4], slot_x, call.x_shape)
    g = _quantize(grad, w, x, spec, draw, wanted)
    dx = dw = NO_FLOATS
    if wanted[1]:
        dw = _grad_weight(grad, g, x, spec, draw)
    if g.for_input is not None and spec.grad_input_grad is not None:
        codes = Codes.of(g.for_input, tuple(grad.shape), spec.grad_input_grad.format)
        rows = reuse(memory, call.x_shape)
        if memory is not None and rows is None:
            hollow_(memory)
        dx = gemm(codes, w.codes, scale_a=g.rows, scale_b=w.left, out=rows)
    return dx, dw


def _quantize(
    grad: Tensor,
    w: _Partner,
    x: _Partner,
    spec: LayerSpec,
    draw: Draw,
    wanted: tuple[bool, bool],
) -> _Gradient:
    first, second = spec.grad_input_grad, spec.grad_weight_grad
    if first is None or second is None:
        raise NybbleError("a native Gemm needs a quantizer in each slot")
    tops, column_tops, sums = lines.folded_statistics(
        grad, w.folded, x.folded, want_sums=spec.control_variate and wanted[1]
    )
    rows, row_inverse = scales_of_maxima(tops, first)
    columns, column_inverse = scales_of_maxima(column_tops, second)
    n = grad.shape[1]
    one = two = None
    if wanted[0]:
        fold = None if w.folded is None else lines.Factors(w.folded)
        one = gradient_of(spec, 0, draw, _each_row(row_inverse, n), fold)
    if wanted[1]:
        two = _for_weight(spec, column_inverse, x, draw, 0, n)
    codes = lines.folded_pack(grad, n, one, two)
    return _Gradient(
        times_unit(rows, first), times_unit(columns, second), column_inverse, *codes, sums
    )


def scales_of_maxima(tops: Tensor, slot: Quantizer) -> tuple[Tensor, Tensor]:
    """AbsMax's scales of lines with those maxima, and their inverses."""
    headroom: float = getattr(slot.scale, "headroom", 1.0)
    return lines.line_scales(tops, slot.format.max_value / headroom)


def times_unit(scale: Tensor, slot: Quantizer) -> Tensor:
    """What an operand's integers are multiplied by."""
    return scale if slot.format.unit == 1.0 else scale * (slot.format.unit or 1.0)


def _each_row(values: Tensor, columns: int) -> lines.Factors:
    return lines.Factors(values, max(columns, 1))


def gradient_of(
    spec: LayerSpec,
    index: int,
    draw: Draw,
    inverse: lines.Factors,
    fold: lines.Factors | None,
    sample: int = 0,
) -> lines.Folded:
    """The gradient as the operand of Gemm `index` (0: grad_input), in one of several roundings."""
    slot = spec.grad_weight_grad if index else spec.grad_input_grad
    if slot is None:
        raise NybbleError("a native Gemm needs a quantizer in each slot")
    return lines.Folded(slot.format, draw.key(gradient_key(spec, index, sample)), inverse, fold)


def _for_weight(
    spec: LayerSpec, inverse: Tensor, x: _Partner, draw: Draw, sample: int, columns: int
) -> lines.Folded:
    fold = None if x.folded is None else _each_row(x.folded, columns)
    return gradient_of(spec, 1, draw, lines.Factors(inverse), fold, sample)


def _grad_weight(grad: Tensor, g: _Gradient, x: _Partner, spec: LayerSpec, draw: Draw) -> Tensor:
    """The mean of `samples` products, the first of which has its codes already."""
    slot = spec.grad_weight_grad
    if slot is None:
        raise NybbleError("a native Gemm needs a quantizer in each slot")
    mean = column_means(x.codes, x.left) if spec.control_variate else None
    total: Tensor | None = None
    for sample in range(spec.samples):
        packed = g.for_weight
        if sample:
            folded = _for_weight(spec, g.inverse, x, draw, sample, grad.shape[1])
            _, packed = lines.folded_pack(grad, grad.shape[1], None, folded)
        if packed is None:
            raise NybbleError("grad_weight has no codes")
        codes = Codes.of(packed, tuple(grad.shape), slot.format)
        dw = gemm(codes, x.codes, trans_a=True, scale_a=g.columns, scale_b=x.left)
        if mean is not None and g.sums is not None:
            lines.add_outer_(dw, g.sums - _sums(codes, slot) * g.columns, mean)
        total = dw if total is None else total.add_(dw)
    if total is None:
        raise NybbleError("there is at least one sample")
    return total if spec.samples == 1 else total.mul_(1.0 / spec.samples)


def _sums(codes: Codes, slot: Quantizer) -> Tensor:
    """Sums of the columns of integers as a tree of float32 adds: exact up to 2^24."""
    rows, columns = codes.shape
    if rows * codes.limit < 1 << 24:
        return lines.column_sums(codes).to(torch.float32)
    integers = slot.format.integers(unpack4(codes.packed, rows * columns))
    return per_channel_sum(integers.view(rows, columns), 1)


def column_means(codes: Codes, multiplier: Tensor | None) -> Tensor:
    """Mean of every column of the values, from the exact sum of the integers."""
    count = float(max(codes.shape[0], 1))
    mean = lines.column_sums(codes).to(torch.float64).to(torch.float32) / count
    return mean if multiplier is None else mean * multiplier.reshape(())
