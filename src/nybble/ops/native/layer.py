"""One layer's forward and backward step on packed codes: `ops/reference/layer.py`, natively.

The same function with the same result, bit for bit, as the reference backend with exact sums; see
there for the formulas. Each Gemm runs on the integer kernels where `plan.why_not` has no objection,
else through the reference backend's own Gemm on the codes that were kept.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from nybble.errors import NybbleError
from nybble.ops.calls import BackwardCall, ForwardCall, Gradients
from nybble.ops.exactness import finish_
from nybble.ops.geometry import Geometry
from nybble.ops.gradients import drawn, gradient_operands, mean_
from nybble.ops.native import block_operand, convolution, integers, shaped
from nybble.ops.native.buffers import NO_FLOATS
from nybble.ops.native.composite import forward_slots
from nybble.ops.native.composite_conv import composite_backward
from nybble.ops.native.gemm import gemm
from nybble.ops.native.gradient import quantize_gradient
from nybble.ops.native.layout import image, reuse, torch_layout
from nybble.ops.native.operand import Kept, codes_of, mask_, mask_gradient_, quantize_kept
from nybble.ops.native.plan import has_lines, why_not
from nybble.ops.native.pool import hollow_
from nybble.ops.native.shaped import Stored
from nybble.ops.reference import composite
from nybble.ops.reference import composite_backward as rounded_again
from nybble.ops.reference import gemm as reference_gemm
from nybble.ops.reference import sliced as reference
from nybble.ops.reference.layer import poisoned
from nybble.ops.reference.operand import (
    GRAD_INPUT_WEIGHT,
    GRAD_WEIGHT_INPUT,
    INPUT,
    WEIGHT,
    Draw,
    Operand,
    quantize_operand,
    rereads,
    restore,
    store,
)
from nybble.ops.reference.storage import is_channels_last
from nybble.ops.spec import BackwardSlot, LayerSpec, Slot
from nybble.quantizers import Quantizer

__all__ = ["layer_backward", "layer_forward"]


def layer_forward(x: Tensor, weight: Tensor, call: ForwardCall) -> tuple[Tensor, list[Tensor]]:
    """Output of the layer, and what its backward needs; all sums are exact."""
    spec, geometry, draw, bias, save = call.spec, call.geometry, call.draw, call.bias, call.save
    call = call if call.accumulate == "exact" else replace(call, accumulate="exact")
    if why_not(spec, geometry, "output") is not None:
        return reference.layer_forward(x, weight, call, image, block_operand)
    if spec.composite and not has_lines(geometry):
        return composite.layer_forward(x, weight, call, block_operand, integers)
    slot_x, slot_w = forward_slots(spec, geometry)
    x, weight = _dense(x), _dense(weight)
    out_last = is_channels_last(x) or is_channels_last(weight)
    last_x, last_w = is_channels_last(x), is_channels_last(weight)
    kept_x = quantize_kept(x, slot_x, draw, INPUT, call.alpha, want_inside=save)
    kept_w = quantize_kept(weight, slot_w, draw, WEIGHT, None, want_inside=save)
    x_shape, w_shape = tuple(x.shape), tuple(weight.shape)
    scale_x, scale_w = _scales(kept_x, kept_w, geometry, "output")
    if geometry.kind not in ("linear", "conv2d"):
        shape = geometry.output_shape(x_shape, w_shape)
        a = Stored(kept_x[0], slot_x, kept_x[2], x_shape, last_x, scale_x)
        b = Stored(kept_w[0], slot_w, kept_w[2], w_shape, last_w, scale_w)
        y = shaped.output(a, b, geometry, shape, bias)
    else:
        codes_x = codes_of(kept_x, slot_x, x_shape, last_x, geometry)
        codes_w = codes_of(kept_w, slot_w, w_shape, last_w, geometry)
        if geometry.kind == "linear":
            y = gemm(codes_x, codes_w, trans_b=True, scale_a=scale_x, scale_b=scale_w, bias=bias)
        else:
            y = convolution.output(codes_x, codes_w, geometry, scale_x, scale_w, bias)
            y = torch_layout(y, out_last)
    if not save:
        return y, []
    if spec.composite:  # all its backward slots are "same", or made from the forward codes
        return y, [*kept_x, *kept_w]
    return y, keep(x, weight, kept_x, kept_w, call.alpha, spec, draw)


def keep(
    x: Tensor,
    weight: Tensor,
    kept_x: Kept,
    kept_w: Kept,
    alpha: Tensor | None,
    spec: LayerSpec,
    draw: Draw,
) -> list[Tensor]:
    """What backward needs of the operands of an output Gemm with quantizers in both slots, as the
    reference's `keep`."""
    slot_x, slot_w = _known(spec.output_input), _known(spec.output_weight)
    back_x = _for_backward(
        x, kept_x, slot_x, spec.grad_weight_input, draw, GRAD_WEIGHT_INPUT, alpha
    )
    if rereads(spec.slot("grad_input_weight")):
        return [*back_x, *[NO_FLOATS] * 3, kept_w[3]]
    back_w = _for_backward(
        weight, kept_w, slot_w, spec.grad_input_weight, draw, GRAD_INPUT_WEIGHT, None
    )
    return [*back_x, *back_w]


def layer_backward(grad: Tensor, call: BackwardCall, overwrite: bool = False) -> Gradients:
    """(dx, dw, dalpha, amax, scale), as the reference's `layer_backward`.

    `overwrite`: dx may be written over `grad`, which nobody needs once it is quantised.
    """
    need_dx, _, need_dalpha = call.needs
    spec, geometry, wanted = drawn(call.spec, call.draw), call.geometry, call.wanted
    call = replace(call, spec=spec, accumulate="exact")
    native_dx = wanted[0] and why_not(spec, geometry, "grad_input") is None
    native_dw = wanted[1] and why_not(spec, geometry, "grad_weight") is None
    if not (native_dx or native_dw):
        return reference.layer_backward(grad, call, image, block_operand)
    given, grad = grad, _dense(grad)
    overwrite = overwrite or grad is not given
    if spec.composite and (spec.double or not has_lines(geometry)):
        return rounded_again.layer_backward(grad, call, integers, block_operand)
    step, saved = _Backward(grad, call), call.saved
    dx = dw = dalpha = NO_FLOATS
    if spec.composite:
        dx, dw = composite_backward(grad, call, grad if overwrite else None)
        if wanted[1] and saved[7].numel():
            mask_(dw, saved[4:], call.channels_last[1], step.operand_w)
        if wanted[0] and saved[3].numel():
            dalpha = step.masked_input_(dx, saved, need_dalpha=need_dalpha)
        return dx if need_dx else NO_FLOATS, dw, dalpha, NO_FLOATS, NO_FLOATS
    for_input, for_weight, amax, scale = gradient_operands(
        quantize_gradient, grad, spec, call.grad_scale, call.draw, wanted
    )
    # grad_weight first: its working memory is then gone when grad_input's result is made.
    if for_weight:
        weight_gemm = step.native_weight if native_dw else step.reference_weight
        dw = mean_([weight_gemm(*entry) for entry in for_weight])
        if saved[7].numel():
            mask_(dw, saved[4:], call.channels_last[1], step.operand_w)
        for_weight = []
    if for_input:
        memory = grad if overwrite else None  # of the first product alone
        products: list[Tensor] = []
        for entry in for_input:
            if native_dx:
                products.append(step.native_input(*entry, memory if not products else None))
            else:
                products.append(step.reference_input(*entry))
        dx = mean_(products)
        if saved[3].numel():
            dalpha = step.masked_input_(dx, saved, need_dalpha=need_dalpha)
    return dx if need_dx else NO_FLOATS, dw, dalpha, amax, scale


class _Backward:
    """The two Gemms of one backward call, each natively or by the reference's operators."""

    def __init__(self, grad: Tensor, call: BackwardCall) -> None:
        self.grad_shape, self.grad_last = tuple(grad.shape), is_channels_last(grad)
        self.x, self.weight = call.x, call.weight
        self.kept_x, self.kept_w = call.saved[:4], call.saved[4:]
        self.x_shape, self.weight_shape = call.x_shape, call.weight_shape
        self.spec, self.geometry, self.last = call.spec, call.geometry, call.channels_last
        self.slot_x = call.spec.slot("grad_weight_input")
        self.slot_w = call.spec.slot("grad_input_weight")
        self._operand_x: Operand | None = None

    def native_input(self, gradient: Kept | Operand, slot_g: Slot, memory: Tensor | None) -> Tensor:
        """dx, in `memory` (the gradient's) where it is as large."""
        slot_w = self.slot_w
        kept = _kept(gradient)
        scale_g, scale_w = _scales(kept, self.kept_w, self.geometry, "grad_input")
        if self.geometry.kind not in ("linear", "conv2d"):
            a = self._stored(kept, slot_g, self.grad_shape, self.grad_last, scale_g)
            b = self._stored(self.kept_w, slot_w, self.weight_shape, self.last[1], scale_w)
            return shaped.grad_input(a, b, self.geometry, self.x_shape, memory)
        g = codes_of(kept, _known(slot_g), self.grad_shape, self.grad_last, self.geometry)
        w = codes_of(self.kept_w, _known(slot_w), self.weight_shape, self.last[1], self.geometry)
        if self.geometry.kind == "linear":
            rows = self._reuse(memory, (g.shape[0], w.shape[1]))
            return gemm(g, w, scale_a=scale_g, scale_b=scale_w, out=rows)
        n, c, h, width = self.x_shape
        last = self.last[1] or self.grad_last
        out = self._reuse(memory, (n, h, width, c), self.grad_last) if last else None
        dx = convolution.grad_input(g, w, self.geometry, (n, h, width, c), scale_g, scale_w, out)
        return torch_layout(dx, last, memory)

    @staticmethod
    def _reuse(memory: Tensor | None, shape: tuple[int, ...], last: bool = False) -> Tensor | None:
        """`reuse`, or None: then the memory goes to whoever needs it while its tensor lives."""
        out = reuse(memory, shape, last)
        if memory is not None and out is None:
            hollow_(memory)
        return out

    def native_weight(self, gradient: Kept | Operand, slot_g: Slot) -> Tensor:
        slot_x = self.slot_x
        kept = _kept(gradient)
        scale_g, scale_x = _scales(kept, self.kept_x, self.geometry, "grad_weight")
        if self.geometry.kind not in ("linear", "conv2d"):
            a = self._stored(kept, slot_g, self.grad_shape, self.grad_last, scale_g)
            b = self._stored(self.kept_x, slot_x, self.x_shape, self.last[0], scale_x)
            return shaped.grad_weight(a, b, self.geometry, self.weight_shape)
        g = codes_of(kept, _known(slot_g), self.grad_shape, self.grad_last, self.geometry)
        x = codes_of(self.kept_x, _known(slot_x), self.x_shape, self.last[0], self.geometry)
        if self.geometry.kind == "linear":
            return gemm(g, x, trans_a=True, scale_a=scale_g, scale_b=scale_x)
        o, c, h, width = self.weight_shape
        dw = convolution.grad_weight(g, x, self.geometry, (o, h, width, c), scale_g, scale_x)
        return torch_layout(dw, self.last[0] or self.grad_last, lasting=True)

    def _stored(
        self, kept: Kept, slot: Slot, shape: tuple[int, ...], last: bool, scale: Tensor | None
    ) -> Stored:
        return Stored(kept[0], _known(slot), kept[2], shape, last, scale)

    def reference_input(self, gradient: Kept | Operand, slot_g: Slot) -> Tensor:
        g = self._gradient(gradient, slot_g)
        rank = len(self.x_shape)
        follow_g, follow_w = self.geometry.follow("grad_input")
        tg, mg, limit_g = g.facing(*follow_g, rank)
        tw, mw, limit_w = self.operand_w().facing(*follow_w, rank)
        acc = reference_gemm.grad_input(
            tg,
            tw,
            self.geometry,
            self.x_shape,
            max_grad=limit_g,
            max_weight=limit_w,
            accumulate="exact",
            accumulator=self.spec.accumulator,
        )
        return finish_(acc, mg, mw)

    def reference_weight(self, gradient: Kept | Operand, slot_g: Slot) -> Tensor:
        g = self._gradient(gradient, slot_g)
        rank = len(self.weight_shape)
        follow_g, follow_x = self.geometry.follow("grad_weight")
        tg, mg, limit_g = g.facing(*follow_g, rank)
        tx, mx, limit_x = self.operand_x().facing(*follow_x, rank)
        acc = reference_gemm.grad_weight(
            tg,
            tx,
            self.geometry,
            self.weight_shape,
            max_grad=limit_g,
            max_x=limit_x,
            accumulate="exact",
            accumulator=self.spec.accumulator,
        )
        return finish_(acc, mg, mx)

    def masked_input_(self, dx: Tensor, saved: list[Tensor], *, need_dalpha: bool) -> Tensor:
        """Zero dx where the input was clipped, in place; returns the clip's gradient."""
        dalpha = mask_gradient_(
            dx,
            saved[:4],
            self.slot_x,
            self.spec.output_input,
            self.last[0],
            self.operand_x,
            need_dalpha=need_dalpha,
        )
        return poisoned(dalpha, saved[1] if saved[1].numel() else None)

    def operand_x(self) -> Operand:
        """The input as the reference backend decodes it."""
        if self._operand_x is None:
            raw = self.x if self.slot_x is None else None
            self._operand_x = restore(self.kept_x, self.slot_x, raw, self.x_shape, self.last[0])
        return self._operand_x

    def operand_w(self) -> Operand:
        """The weight as the reference backend decodes it."""
        raw = self.weight if rereads(self.slot_w) else None
        return restore(self.kept_w, self.slot_w, raw, self.weight_shape, self.last[1])

    def _gradient(self, gradient: Kept | Operand, slot: Slot) -> Operand:
        if isinstance(gradient, Operand):
            return gradient
        return restore(gradient, slot, None, self.grad_shape, self.grad_last)


def _for_backward(
    tensor: Tensor,
    kept: Kept,
    forward_slot: Quantizer,
    slot: BackwardSlot,
    draw: Draw,
    operand: int,
    alpha: Tensor | None,
) -> Kept:
    """What backward reads: the forward codes, or the tensor quantised by a slot of its own."""
    if slot == "same" or slot == forward_slot:
        return kept
    if slot is not None and not isinstance(slot, Quantizer):
        raise NybbleError(f"a slot holds a Quantizer, None or 'same', not {slot!r}")
    found = quantize_operand(tensor, slot, draw, operand, alpha, want_inside=False)
    return [*store(found, slot, None)[:3], kept[3]]


def facing(multiplier: Tensor, free: int) -> Tensor | None:
    """A multiplier as the kernels take it: one number, or one for each index of `free`."""
    if multiplier.numel() <= 1:
        return multiplier if multiplier.numel() else None
    if [d for d, size in enumerate(multiplier.shape) if size > 1] != [free]:
        raise NybbleError(f"a scale of shape {tuple(multiplier.shape)} cannot leave the sum")
    return multiplier.reshape(-1)


def _scales(
    a: Kept, b: Kept, geometry: Geometry, gemm_name: str
) -> tuple[Tensor | None, Tensor | None]:
    (free_a, _), (free_b, _) = geometry.follow(gemm_name)
    return facing(a[1], free_a), facing(b[1], free_b)


def _dense(x: Tensor) -> Tensor:
    """Codes follow the memory, so there must be no gaps in it."""
    return x if x.is_contiguous() or is_channels_last(x) else x.contiguous()


def _kept(gradient: Kept | Operand) -> Kept:
    if isinstance(gradient, Operand):
        raise NybbleError("a native Gemm needs codes")
    return gradient


def _known(slot: Slot) -> Quantizer:
    if slot is None:
        raise NybbleError("a native Gemm needs a quantizer in each slot")
    return slot
