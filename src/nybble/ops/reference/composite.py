"""One layer's step where recipes do more than one scale and one rounding to an operand.

    forward    qx, qw = quantise(x R), quantise(w R)         R: the output Gemm's transform, or 1
               y = qx qw^T + outliers + bias                 outliers (OCC): (x - clamp(x)) w^T
    backward   dx = Q(dy s_w R') (w R') R^T                  R': grad_input's own transform
               dw = Q(dy s_x R'') (x R'') R^T                the mean over `samples` roundings
               dw += (sum dy - sum Q(dy)) (x) mean(x)        control variate

Where R is not 1 and a backward Gemm takes the forward codes (`same`, or `double`), it works in the
rotated basis, and its result is turned back. `fold` puts s_w, s_x into the gradient; without it
they are multiplied into the codes, and the Gemm runs on values. Each slot's scale lies along the
sum or the free dimension of its own Gemm: see places.py.

The control variate of a convolution is a Gemm of its own: the gradient's rounding error with an
input of ones, so that a tap counts what it sees; it is left out with groups.

Not done: native kernels (a spec that fits them goes there), outliers inside a time loop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nybble.ops.exactness import finish_
from nybble.ops.geometry import Geometry
from nybble.ops.reference import gemm
from nybble.ops.reference.composite_operand import Streams, quantize, restore, store, turn
from nybble.ops.reference.estimator import weight_factor
from nybble.ops.reference.gradient import quantize_gradient
from nybble.ops.reference.layer import clip_gradient, poisoned
from nybble.ops.reference.operand import (
    GRAD_INPUT_GRAD,
    GRAD_INPUT_WEIGHT,
    GRAD_WEIGHT_GRAD,
    GRAD_WEIGHT_INPUT,
    INPUT,
    WEIGHT,
    Draw,
    Operand,
    rereads,
)
from nybble.ops.reference.outliers import keep_outliers, multiply_outliers, split_outliers
from nybble.ops.reference.places import Place, places
from nybble.ops.spec import LayerSpec
from nybble.quantizers import Fit, Quantizer, StatefulScale, per_channel_sum

__all__ = [
    "from_rotated",
    "grad_input_operands",
    "keep",
    "kept_slot",
    "layer_backward",
    "layer_forward",
    "output_operands",
    "partner_of_steps",
]

_LINEAR = Geometry("linear")
Quantized = tuple[Operand, Fit | None]


def output_operands(
    x: Tensor,
    weight: Tensor,
    alpha: Tensor | None,
    spec: LayerSpec,
    geometry: Geometry,
    draw: Draw,
    *,
    want_inside: bool,
) -> tuple[Quantized, Quantized]:
    """Both operands of the output Gemm."""
    place_x, place_w = places(geometry, "output")
    qx = quantize(
        x, spec.output_input, place_x, Streams(draw, INPUT), alpha, want_inside=want_inside
    )
    qw = quantize(
        weight, spec.output_weight, place_w, Streams(draw, WEIGHT), want_inside=want_inside
    )
    return qx, qw


def layer_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    alpha: Tensor | None,
    spec: LayerSpec,
    geometry: Geometry,
    accumulate: str,
    draw: Draw,
    save: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Output of the layer and, if `save`, what its backward needs (else an empty list)."""
    inner, outer = split_outliers(x, spec.outliers)
    qx, qw = output_operands(inner, weight, alpha, spec, geometry, draw, want_inside=save)
    rank = x.dim()
    follow_x, follow_w = geometry.follow("output")
    tx, mx, limit_x = qx[0].facing(*follow_x, rank)
    tw, mw, limit_w = qw[0].facing(*follow_w, rank)
    acc = gemm.output(
        tx,
        tw,
        geometry,
        max_x=limit_x,
        max_weight=limit_w,
        accumulate=accumulate,
        accumulator=spec.accumulator,
    )
    y = finish_(acc, mx, mw)
    if outer is not None:
        y += multiply_outliers(outer, decoded_weight(qw[0], spec, geometry, draw), geometry)
    if bias is not None:
        y += bias.reshape((1, -1, *[1] * (rank - 2)) if geometry.convolves else (-1,))
    if not save:
        return y, []
    return y, keep(inner, weight, qx, qw, spec, geometry, draw) + keep_outliers(outer)


def decoded_weight(qw: Operand, spec: LayerSpec, geometry: Geometry, draw: Draw) -> Tensor:
    """The weight's values, in its own basis."""
    values = qw.tensor if qw.multiplier is None else qw.tensor * qw.multiplier
    slot = spec.output_weight
    transform = None if slot is None else slot.transform
    return turn(values, transform, places(geometry, "output")[1], draw, back=True)


# ---- what is kept ------------------------------------------------------------------------------


def keep(
    x: Tensor,
    weight: Tensor,
    qx: Quantized,
    qw: Quantized,
    spec: LayerSpec,
    geometry: Geometry,
    draw: Draw,
) -> list[Tensor]:
    """Four tensors of the input and four of the weight, as `layer.keep` has them."""
    _, place_x = places(geometry, "grad_weight")
    _, place_w = places(geometry, "grad_input")
    kept_x = _keep(
        x, qx, spec.output_input, spec.grad_weight_input, spec, place_x, draw, GRAD_WEIGHT_INPUT
    )
    if rereads(kept_slot(spec, "grad_input_weight")):
        mask = store(Operand(weight, None, None, qw[0].inside), None, None)
        return [*kept_x, *mask]
    kept_w = _keep(
        weight,
        qw,
        spec.output_weight,
        spec.grad_input_weight,
        spec,
        place_w,
        draw,
        GRAD_INPUT_WEIGHT,
    )
    return [*kept_x, *kept_w]


def _keep(
    tensor: Tensor,
    forward: Quantized,
    forward_slot: Quantizer | None,
    slot: object,
    spec: LayerSpec,
    place: Place,
    draw: Draw,
    number: int,
) -> list[Tensor]:
    if slot == "same" or (spec.double and slot is not None):
        return store(forward[0], forward_slot, forward[1])
    if slot is None:
        return store(Operand(tensor, None, None, forward[0].inside), None, None)
    assert isinstance(slot, Quantizer)  # a LayerSpec has checked its slots
    found, fit = quantize(tensor, slot, place, Streams(draw, number))
    found.inside = forward[0].inside
    return store(found, slot, fit)


def kept_slot(spec: LayerSpec, name: str) -> Quantizer | None:
    """The quantizer whose codes are kept for a backward operand: `grad_input_weight` or
    `grad_weight_input`."""
    if spec.double and spec.slot(name) is not None:
        return spec.output_weight if name == "grad_input_weight" else spec.output_input
    return spec.slot(name)


# ---- backward ----------------------------------------------------------------------------------


def layer_backward(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    saved: list[Tensor],
    grad_scale: Tensor,
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    spec: LayerSpec,
    geometry: Geometry,
    accumulate: str,
    draw: Draw,
    channels_last: tuple[bool, bool],
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(dx, dw, dalpha, amax, scale), as `layer.layer_backward`."""
    need_dx, need_dw, need_dalpha = needs
    step = _Backward(x, weight, saved, x_shape, weight_shape, spec, geometry, accumulate, draw)
    step.like = torch.channels_last if any(channels_last) else torch.contiguous_format
    wanted = (need_dx or need_dalpha, need_dw)
    scaled = [
        want and slot is not None and isinstance(slot.scale, StatefulScale)
        for slot, want in zip((spec.grad_input_grad, spec.grad_weight_grad), wanted, strict=True)
    ]
    amax, scale = grad.new_empty(0), grad.new_empty(0)
    operands: list[Operand | None] = [None, None]
    if any(scaled):
        first, second, amax, scale = quantize_gradient(
            grad, spec, grad_scale, draw, (scaled[0], scaled[1])
        )
        operands = [first, second]
    dx, dw, dalpha = grad.new_empty(0), grad.new_empty(0), grad.new_empty(0)
    if need_dw:
        dw = step.grad_weight(grad, operands[1])
    if wanted[0]:
        dx, dalpha = step.grad_input(grad, operands[0], need_dalpha=need_dalpha)
    return dx if need_dx else grad.new_empty(0), dw, dalpha, amax, scale


class _Backward:
    """The two backward Gemms of one call."""

    like: torch.memory_format = torch.contiguous_format

    def __init__(
        self,
        x: Tensor | None,
        weight: Tensor | None,
        saved: list[Tensor],
        x_shape: tuple[int, ...],
        weight_shape: tuple[int, ...],
        spec: LayerSpec,
        geometry: Geometry,
        accumulate: str,
        draw: Draw,
    ) -> None:
        self.x, self.weight, self.saved = x, weight, saved
        self.x_shape, self.weight_shape = x_shape, weight_shape
        self.spec, self.geometry = spec, geometry
        self.accumulate, self.draw = accumulate, draw

    # -- operands

    def _restored(self, name: str) -> Operand:
        """A kept operand as the forward pass left it."""
        slot = kept_slot(self.spec, name)
        if name == "grad_input_weight":
            raw = self.weight if rereads(slot) else None
            return restore(self.saved[4:8], slot, raw, self.weight_shape, self.like)
        raw = self.x if slot is None else None
        return restore(self.saved[:4], slot, raw, self.x_shape, self.like)

    def _partner(self, name: str, place: Place, number: int) -> Operand:
        """The weight or input of a backward Gemm."""
        kept = self._restored(name)
        slot = self.spec.slot(name)
        if not self.spec.double or slot is None or getattr(self.spec, name) == "same":
            return kept
        values = kept.tensor if kept.multiplier is None else kept.tensor * kept.multiplier
        found, _ = quantize(values, slot, place, Streams(self.draw, number))
        found.inside = kept.inside
        return found

    def _fold(self, grad: Tensor, partner: Operand, place: Place) -> tuple[Tensor, Operand]:
        """The gradient with the partner's scales in it, and the partner without them."""
        m = partner.multiplier
        if not self.spec.fold or m is None or m.numel() == 1:
            return grad, partner
        along = [d for d, size in enumerate(m.shape) if size > 1]
        if along != [place.contraction]:
            return grad, partner
        shape = [1] * grad.dim()
        axis = places(self.geometry, place.gemm)[0].contraction
        shape[axis] = -1
        bare = Operand(partner.tensor, None, partner.limit, partner.inside, partner.zero_point)
        return grad * m.reshape(shape), bare

    # -- Gemms

    def grad_input(
        self, grad: Tensor, given: Operand | None, *, need_dalpha: bool
    ) -> tuple[Tensor, Tensor]:
        """(dx, dalpha). `given`: the gradient's operand where a scale with a state has made it."""
        spec, geometry, rank = self.spec, self.geometry, len(self.x_shape)
        place_g, place_w = places(geometry, "grad_input")
        partner = self._partner("grad_input_weight", place_w, GRAD_INPUT_WEIGHT)
        g = given
        if g is None:
            z, partner = self._fold(grad, partner, place_w)
            streams = Streams(self.draw, GRAD_INPUT_GRAD)
            g, _ = quantize(z, spec.grad_input_grad, place_g, streams)
        follow_g, follow_w = geometry.follow("grad_input")
        tg, mg, limit_g = g.facing(*follow_g, rank)
        tw, mw, limit_w = partner.facing(*follow_w, rank)
        acc = gemm.grad_input(
            tg,
            tw,
            geometry,
            self.x_shape,
            max_grad=limit_g,
            max_weight=limit_w,
            accumulate=self.accumulate,
            accumulator=spec.accumulator,
        )
        dx = finish_(acc, mg, mw)
        dalpha = grad.new_empty(0)
        if self.saved[3].numel():
            kept = self._restored("grad_weight_input")
            if need_dalpha:
                found = clip_gradient(dx, kept, spec.output_input)
                dalpha = poisoned(found, self.saved[1] if self.saved[1].numel() else None)
            if kept.inside is not None:
                dx.mul_(kept.inside)
        return from_rotated(dx, spec, "grad_input_weight", self.draw, geometry), dalpha

    def grad_weight(self, grad: Tensor, given: Operand | None) -> Tensor:
        """dw."""
        spec, geometry, rank = self.spec, self.geometry, len(self.weight_shape)
        place_g, place_x = places(geometry, "grad_weight")
        partner = self._partner("grad_weight_input", place_x, GRAD_WEIGHT_INPUT)
        z = grad
        if given is None:
            z, partner = self._fold(grad, partner, place_x)
        follow_g, follow_x = geometry.follow("grad_weight")
        tx, mx, limit_x = partner.facing(*follow_x, rank)
        total: Tensor | None = None
        count = 1 if given is not None else spec.samples
        for sample in range(count):
            g = given
            if g is None:
                streams = Streams(self.draw, GRAD_WEIGHT_GRAD, sample=sample)
                g, _ = quantize(z, spec.grad_weight_grad, place_g, streams)
            tg, mg, limit_g = g.facing(*follow_g, rank)
            acc = gemm.grad_weight(
                tg,
                tx,
                geometry,
                self.weight_shape,
                max_grad=limit_g,
                max_x=limit_x,
                accumulate=self.accumulate,
                accumulator=spec.accumulator,
            )
            dw = finish_(acc, mg, mx)
            if spec.control_variate:
                dw += self._control_variate(z, g, partner)
            total = dw if total is None else total.add_(dw)
        assert total is not None  # there is at least one sample
        dw = total if count == 1 else total.mul_(1.0 / count)
        if self.saved[7].numel():
            inside = self._restored("grad_input_weight").inside
            if inside is not None:
                dw.mul_(inside)
        dw = from_rotated(dw, spec, "grad_weight_input", self.draw, geometry)
        if len(self.saved) > 8:
            dw = dw + self._outlier_weight(grad)
        if spec.weight_gradient is not None and self.weight is not None:
            place = places(geometry, "output")[1]
            dw = dw * weight_factor(self.weight, spec.output_weight, place, spec.weight_gradient)
        return dw

    def _outlier_weight(self, grad: Tensor) -> Tensor:
        outer = torch.zeros(self.x_shape, dtype=grad.dtype, device=grad.device)
        outer.view(-1)[self.saved[8].long()] = self.saved[9]
        return gemm.grad_weight(grad, outer, self.geometry, self.weight_shape)

    def _control_variate(self, z: Tensor, g: Operand, partner: Operand) -> Tensor:
        """(sum of z - sum of Q(z)) of each output channel times the input's mean."""
        if self.geometry.kind == "bmm":
            values = g.tensor if g.multiplier is None else g.tensor * g.multiplier
            x = (
                partner.tensor
                if partner.multiplier is None
                else partner.tensor * partner.multiplier
            )
            return (z - values).sum(1).unsqueeze(2) * x.mean(1, keepdim=True)
        mean = _channel_means(partner)
        if not self.geometry.convolves:
            m = g.multiplier
            if m is None or m.numel() == 1 or m.numel() == m.shape[1]:
                codes = per_channel_sum(g.tensor, 1)  # exact: integers
                rest = per_channel_sum(z, 1) - (codes if m is None else codes * m.reshape(-1))
            else:
                rest = per_channel_sum(z, 1) - per_channel_sum(g.tensor * m, 1)
            return rest.unsqueeze(1) * mean.unsqueeze(0)
        if self.geometry.groups > 1 or self.geometry.mirror is not None:
            return z.new_zeros(())
        values = g.tensor if g.multiplier is None else g.tensor * g.multiplier
        ones = z.new_ones((self.x_shape[0], 1, *self.x_shape[2:]))
        one = (self.weight_shape[0], 1, *self.weight_shape[2:])
        rest = gemm.grad_weight(z - values, ones, self.geometry, one)
        return rest * mean.reshape(1, -1, *[1] * (len(one) - 2))


def _channel_means(partner: Operand) -> Tensor:
    """The mean of each input channel's values, from the exact sum of its integers."""
    x = partner.tensor
    dims = [d for d in range(x.dim()) if d != 1]
    count = x.numel() // max(x.shape[1], 1)
    whole = partner.multiplier is None or partner.multiplier.numel() == 1
    values = x if whole or partner.multiplier is None else x * partner.multiplier
    mean = values.sum(dims, dtype=torch.float64).to(torch.float32) / float(max(count, 1))
    if whole and partner.multiplier is not None:
        mean = mean * partner.multiplier.reshape(())
    return mean


def from_rotated(
    result: Tensor, spec: LayerSpec, name: str, draw: Draw, geometry: Geometry = _LINEAR
) -> Tensor:
    """A backward Gemm's result in the layer's own basis. It is in that of the output Gemm's
    transform where the Gemm's weight or input (`name`) are forward codes."""
    slot = spec.output_weight
    codes = getattr(spec, name) == "same" or (spec.double and spec.slot(name) is not None)
    if slot is None or slot.transform is None or not codes:
        return result
    side = 0 if name == "grad_input_weight" else 1
    return turn(result, slot.transform, places(geometry, "output")[side], draw, back=True)


def partner_of_steps(kept: list[Tensor], weight: Tensor, spec: LayerSpec, draw: Draw) -> Operand:
    """The weight of the grad_input Gemm of every step of a time loop."""
    shape = tuple(weight.shape)
    step = _Backward(None, weight, kept, (), shape, spec, _LINEAR, "fast", draw)
    return step._partner("grad_input_weight", places(_LINEAR, "grad_input")[1], GRAD_INPUT_WEIGHT)


def grad_input_operands(
    gradient: Tensor, spec: LayerSpec, geometry: Geometry, streams: Streams, partner: Operand
) -> tuple[Operand, Operand]:
    """The gradient's operand and its partner for one step of a time loop."""
    step = _Backward(None, None, [], (), (), spec, geometry, "fast", streams.draw)
    place_g, place_w = places(geometry, "grad_input")
    z, bare = step._fold(gradient, partner, place_w)
    found, _ = quantize(z, spec.grad_input_grad, place_g, streams)
    return found, bare
