"""One layer's forward and backward step on the reference backend.

    forward    qx, qw = quantise(x), quantise(w);  y = qx qw  (s_x s_w) + bias
    backward   g1, g2 = both phases of dy in one pass
               dx = g1 qw (s_g s_w), zero where x was clipped;  dw = g2 qx (s_g s_x)
               dalpha = tree sum of the unmasked dx where x was clipped (PACT)
               more than one g a Gemm: the mean of its products (ops/gradients.py)

What forward saves is a fixed list of tensors, empty where there is nothing to keep:
codes, multiplier, zero point and mask of the input; the same four of the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nybble.ops.calls import BackwardCall, ForwardCall, Gradients
from nybble.ops.exactness import finish_
from nybble.ops.geometry import Geometry
from nybble.ops.gradients import drawn, gradient_operands, mean_
from nybble.ops.reference import gemm
from nybble.ops.reference.gradient import quantize_gradient
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
from nybble.ops.reference.storage import flatten
from nybble.ops.spec import LayerSpec
from nybble.quantizers import PACT, Quantizer, tree_sum


def layer_forward(x: Tensor, weight: Tensor, call: ForwardCall) -> tuple[Tensor, list[Tensor]]:
    """Output of the layer, and what its backward needs."""
    spec, geometry, draw, bias, save = call.spec, call.geometry, call.draw, call.bias, call.save
    qx = quantize_operand(x, spec.output_input, draw, INPUT, call.alpha, want_inside=save)
    qw = quantize_operand(weight, spec.output_weight, draw, WEIGHT, None, want_inside=save)
    rank = x.dim()
    follow_x, follow_w = geometry.follow("output")
    tx, mx, limit_x = qx.facing(*follow_x, rank)
    tw, mw, limit_w = qw.facing(*follow_w, rank)
    acc = gemm.output(
        tx,
        tw,
        geometry,
        max_x=limit_x,
        max_weight=limit_w,
        accumulate=call.accumulate,
        accumulator=spec.accumulator,
    )
    shaped = None if bias is None else bias.reshape(_bias_shape(geometry, rank))
    y = finish_(acc, mx, mw, shaped)
    if not save:
        return y, []
    return y, keep(x, weight, qx, qw, call.alpha, spec, draw)


def keep(
    x: Tensor,
    weight: Tensor,
    qx: Operand,
    qw: Operand,
    alpha: Tensor | None,
    spec: LayerSpec,
    draw: Draw,
) -> list[Tensor]:
    """What the backward of a layer needs of its operands, quantised for the output Gemm as `qx`
    and `qw`: see the module."""
    bx = _backward_operand(
        x, spec.grad_weight_input, qx, spec.output_input, draw, GRAD_WEIGHT_INPUT, alpha
    )
    slot_x, slot_w = spec.slot("grad_weight_input"), spec.slot("grad_input_weight")
    kept_x = store(bx, slot_x, qx.inside)
    if rereads(slot_w):
        return [*kept_x, *store(Operand(weight), None, qw.inside)]
    bw = _backward_operand(
        weight, spec.grad_input_weight, qw, spec.output_weight, draw, GRAD_INPUT_WEIGHT, None
    )
    return [*kept_x, *store(bw, slot_w, qw.inside)]


def layer_backward(grad: Tensor, call: BackwardCall) -> Gradients:
    """(dx, dw, dalpha, amax, scale), for layers that are not `composite`."""
    need_dx, _, need_dalpha = call.needs
    spec, geometry, saved = drawn(call.spec, call.draw), call.geometry, call.saved
    x_shape, weight_shape, channels_last = call.x_shape, call.weight_shape, call.channels_last
    for_input, for_weight, amax, scale = gradient_operands(
        quantize_gradient, grad, spec, call.grad_scale, call.draw, call.wanted
    )
    slot_x, slot_w = spec.slot("grad_weight_input"), spec.slot("grad_input_weight")
    qx = restore(saved[:4], slot_x, call.x if slot_x is None else None, x_shape, channels_last[0])
    qw = restore(
        saved[4:], slot_w, call.weight if rereads(slot_w) else None, weight_shape, channels_last[1]
    )
    # Three tensors, not one thrice: an operator may not return the same memory twice.
    dx, dw, dalpha = grad.new_empty(0), grad.new_empty(0), grad.new_empty(0)
    if for_input:
        rank = len(x_shape)
        follow_g, follow_w = geometry.follow("grad_input")
        tw, mw, limit_w = qw.facing(*follow_w, rank)
        products = []
        for g, _ in for_input:
            tg, mg, limit_g = g.facing(*follow_g, rank)
            acc = gemm.grad_input(
                tg,
                tw,
                geometry,
                x_shape,
                max_grad=limit_g,
                max_weight=limit_w,
                accumulate=call.accumulate,
                accumulator=spec.accumulator,
            )
            products.append(finish_(acc, mg, mw))
        dx = mean_(products)
        if qx.inside is not None:
            if need_dalpha:
                dalpha = poisoned(clip_gradient(dx, qx, spec.output_input), qx.multiplier)
            dx.mul_(qx.inside)
    if for_weight:
        rank = len(weight_shape)
        follow_g, follow_x = geometry.follow("grad_weight")
        tx, mx, limit_x = qx.facing(*follow_x, rank)
        products = []
        for g, _ in for_weight:
            tg, mg, limit_g = g.facing(*follow_g, rank)
            acc = gemm.grad_weight(
                tg,
                tx,
                geometry,
                weight_shape,
                max_grad=limit_g,
                max_x=limit_x,
                accumulate=call.accumulate,
                accumulator=spec.accumulator,
            )
            products.append(finish_(acc, mg, mx))
        dw = mean_(products)
        if qw.inside is not None:
            dw = dw.mul_(qw.inside)
    return dx if need_dx else grad.new_empty(0), dw, dalpha, amax, scale


def poisoned(dalpha: Tensor, multiplier: Tensor | None) -> Tensor:
    """The clip's gradient, NaN where the operand held NaN or infinity (its multiplier is NaN
    then): such a number is on neither side of the clip, and its code is on some.

    >>> poisoned(torch.ones(1), torch.tensor(float("nan")))
    tensor([nan])
    """
    if multiplier is None or not dalpha.numel():
        return dalpha
    return dalpha + (multiplier * 0.0).sum()


def clip_gradient(dx: Tensor, qx: Operand, slot: Quantizer | None) -> Tensor:
    """PACT's gradient of the clip(s), a tree sum of grad_input over the clipped elements.

    unsigned: those above the clip. symmetric: above minus below. two_sided: (above, minus below),
    as the clips (upper, lower). A clipped element's integer has the sign of its side; an unsigned
    one's is 0 below the range. The factors are exactly 0, 1 and -1, so nothing is rounded. The
    order of the sum is that of x in memory.
    """
    if slot is None or not isinstance(slot.scale, PACT) or qx.inside is None:
        return dx.new_empty(0)
    if qx.limit is not None:
        side = qx.tensor.clamp(-1.0, 1.0)  # the sign of integers; torch.sign is far slower
    else:
        side = qx.tensor.sign()
        if slot.scale.kind == "unsigned":
            side.clamp_(min=0.0)  # a float32 operand still shows what lies below the range
    torch.addcmul(side, side, qx.inside, value=-1.0, out=side)  # 0 where it was not clipped
    if slot.scale.kind == "two_sided":
        above = tree_sum(flatten(side.clamp(min=0.0).mul_(dx)))
        return torch.stack([above, tree_sum(flatten(side.clamp_(max=0.0).mul_(dx)))])
    return tree_sum(flatten(side.mul_(dx))).reshape(1)


def _backward_operand(
    tensor: Tensor,
    slot: Quantizer | str | None,
    forward: Operand,
    forward_slot: Quantizer | None,
    draw: Draw,
    operand: int,
    alpha: Tensor | None,
) -> Operand:
    if slot == "same" or slot == forward_slot:
        return forward
    if slot is None or isinstance(slot, Quantizer):
        return quantize_operand(tensor, slot, draw, operand, alpha, want_inside=False)
    raise TypeError(f"a slot holds a Quantizer, None or 'same', not {slot!r}")


def _bias_shape(geometry: Geometry, rank: int) -> tuple[int, ...]:
    return (1, -1, *[1] * (rank - 2)) if geometry.convolves else (-1,)
