"""The two backward Gemms of composite.py, whose docstring has the formulas, and what a time loop
needs of them step by step.

`products` and `make` are the integer Gemms and the operands of either backend.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.ops.calls import BackwardCall, Gradients
from nybble.ops.exactness import finish_
from nybble.ops.geometry import Geometry
from nybble.ops.gradients import gradient_key, mean_
from nybble.ops.reference import composite_operand as operands
from nybble.ops.reference import gemm
from nybble.ops.reference.composite_operand import (
    Blocks,
    Make,
    Products,
    Streams,
    restore,
    restore_mask,
    values,
)
from nybble.ops.reference.control_variate import control_variate
from nybble.ops.reference.estimator import weight_factor
from nybble.ops.reference.gradient import quantize_gradient
from nybble.ops.reference.layer import clip_gradient, poisoned
from nybble.ops.reference.operand import (
    GRAD_INPUT_GRAD,
    GRAD_INPUT_WEIGHT,
    GRAD_WEIGHT_INPUT,
    WEIGHT,
    Draw,
    Operand,
    rereads,
)
from nybble.ops.reference.outliers import (
    restore_outliers,
)
from nybble.ops.reference.places import Place, places
from nybble.ops.spec import DGE, SAME, LayerSpec
from nybble.quantizers import Quantizer, StatefulScale

__all__ = [
    "from_rotated",
    "grad_input_operands",
    "input_of_steps",
    "layer_backward",
    "partner_of_steps",
]

_LINEAR = Geometry("linear")


def layer_backward(
    grad: Tensor, call: BackwardCall, products: Products = gemm, make: Make = operands
) -> Gradients:
    """(dx, dw, dalpha, amax, scale). products: who multiplies; make: who quantises."""
    need_dx, need_dw, need_dalpha = call.needs
    spec, wanted, step = call.spec, call.wanted, _Backward(call, products, make)
    scaled = [
        want and slot is not None and isinstance(slot.scale, StatefulScale)
        for slot, want in zip((spec.grad_input_grad, spec.grad_weight_grad), wanted, strict=True)
    ]
    amax, scale = grad.new_empty(0), grad.new_empty(0)
    first: Operand | None = None
    samples: list[Operand | None] = [None] * spec.samples
    if any(scaled):
        wants, state = (scaled[0], scaled[1]), call.grad_scale
        first, samples[0], amax, scale = quantize_gradient(grad, spec, state, call.draw, wants)
    if scaled[1]:
        for i in range(1, spec.samples):
            wants = (False, True)
            _, samples[i], *_ = quantize_gradient(
                grad, spec, call.grad_scale, call.draw, wants, sample=i
            )
    dx, dw, dalpha = grad.new_empty(0), grad.new_empty(0), grad.new_empty(0)
    if need_dw:
        dw = step.grad_weight(grad, samples)
    if wanted[0]:
        dx, dalpha = step.grad_input(grad, first, need_dalpha=need_dalpha)
    return dx if need_dx else grad.new_empty(0), dw, dalpha, amax, scale


class _Backward:
    """The two backward Gemms of one call; `last`: how input and weight lay, and their codes lie."""

    def __init__(self, call: BackwardCall, products: Products, make: Make) -> None:
        self.x, self.weight, self.saved = call.x, call.weight, call.saved
        self.x_shape, self.weight_shape = call.x_shape, call.weight_shape
        self.spec, self.geometry = call.spec, call.geometry
        self.accumulate, self.draw, self.last = call.accumulate, call.draw, call.channels_last
        self.products, self.make = products, make

    # -- operands

    @property
    def like(self) -> torch.memory_format | None:
        """The layout that the Gemms want."""
        return torch.channels_last if any(self.last) else None

    def _restored(self, name: str, *, in_place: bool = False) -> Operand:
        """A kept operand as the forward pass left it; `in_place`: in its own layout."""
        spec, like = self.spec, None if in_place else self.like
        slot = spec.kept(name)
        if name == "grad_weight_input":
            if slot is None:
                return Operand(_given(self.x))
            return restore(self.saved[:4], slot, self.x_shape, self.last[0], like)
        if slot is not None and not rereads(slot):
            return restore(self.saved[4:8], slot, self.weight_shape, self.last[1], like)
        weight = _given(self.weight)
        if spec.reuses(name):
            place, number = places(self.geometry, "output")[1], WEIGHT
        else:
            place, number = places(self.geometry, "grad_input")[1], GRAD_INPUT_WEIGHT
        return self.make.quantize(weight, slot, place, Streams(self.draw, number))[0]

    def _partner(self, name: str, place: Place, number: int) -> Operand:
        """The weight or input of a backward Gemm."""
        kept, slot = self._restored(name), self.spec.slot(name)
        if not self.spec.double or slot is None or getattr(self.spec, name) == SAME:
            return kept
        return self.make.quantize(values(kept), slot, place, Streams(self.draw, number))[0]

    def _fold(
        self, grad: Tensor, slot: Quantizer | None, partner: Operand, place: Place
    ) -> tuple[Tensor, Operand]:
        """The gradient with the partner's scales in it, and the partner without them. Scales of
        blocks, and those in a basis that the gradient is yet to be turned into, stay."""
        m = partner.multiplier
        turned = slot is not None and slot.transform is not None
        if not self.spec.fold or m is None or turned or isinstance(partner, Blocks):
            return grad, partner
        lines = {0, place.contraction} if place.free is None else {place.contraction}
        along = {d for d, size in enumerate(m.shape) if size > 1}
        if place.contraction not in along or not along <= lines:
            return grad, partner
        axis = places(self.geometry, place.gemm)[0].contraction
        if place.free is None:
            factor = m.movedim(place.contraction, axis)
        else:  # each of the groups that cut the sum has the same scales
            numbers = m.reshape(-1)
            shape = [-1 if d == axis else 1 for d in range(grad.dim())]
            factor = numbers.repeat(grad.shape[axis] // numbers.numel()).reshape(shape)
        bare = Operand(partner.tensor, None, partner.limit, None, partner.zero_point)
        return grad * factor, bare

    # -- Gemms

    def grad_input(
        self, grad: Tensor, given: Operand | None, *, need_dalpha: bool
    ) -> tuple[Tensor, Tensor]:
        """(dx, dalpha). `given`: the gradient's operand where a scale with a state has made it."""
        spec, geometry, rank = self.spec, self.geometry, len(self.x_shape)
        place_g, place_w = places(geometry, "grad_input")
        partner = self._partner("grad_input_weight", place_w, GRAD_INPUT_WEIGHT)
        slot = spec.grad_input_grad
        z, partner = self._fold(grad, slot, partner, place_w)
        g = given
        if g is None:
            g, _ = self.make.quantize(z, slot, place_g, Streams(self.draw, GRAD_INPUT_GRAD))
        follow_g, follow_w = geometry.follow("grad_input")
        tg, mg, limit_g = g.facing(*follow_g, rank)
        tw, mw, limit_w = partner.facing(*follow_w, rank)
        acc = self.products.grad_input(
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
        inside = restore_mask(self.saved[3], self.x_shape, self.last[0])
        if inside is not None:
            if need_dalpha:
                # The sum's order is that in which the input lay.
                kept = self._restored("grad_weight_input", in_place=True)
                kept.inside = inside
                dalpha = poisoned(clip_gradient(dx, kept, spec.output_input), kept.multiplier)
            dx.mul_(inside)
        return self._from_rotated(dx, "grad_input_weight"), dalpha

    def grad_weight(self, grad: Tensor, given: list[Operand | None]) -> Tensor:
        """dw. `given`: the gradient's operand for each sample where GradScale has made it."""
        spec, geometry, rank = self.spec, self.geometry, len(self.weight_shape)
        place_g, place_x = places(geometry, "grad_weight")
        partner = self._partner("grad_weight_input", place_x, GRAD_WEIGHT_INPUT)
        slot = spec.grad_weight_grad
        z, partner = self._fold(grad, slot, partner, place_x)
        follow_g, follow_x = geometry.follow("grad_weight")
        tx, mx, limit_x = partner.facing(*follow_x, rank)
        products = []
        for sample, g in enumerate(given):
            if g is None:
                streams = Streams(self.draw, gradient_key(spec, 1, sample))
                g, _ = self.make.quantize(z, slot, place_g, streams)
            tg, mg, limit_g = g.facing(*follow_g, rank)
            acc = self.products.grad_weight(
                tg,
                tx,
                geometry,
                self.weight_shape,
                max_grad=limit_g,
                max_x=limit_x,
                accumulate=self.accumulate,
                accumulator=spec.accumulator,
            )
            product = finish_(acc, mg, mx)
            if spec.control_variate:
                product += self._control_variate(z, g, partner)
            products.append(product)
        dw = mean_(products)
        inside = restore_mask(self.saved[7], self.weight_shape, self.last[1])
        if inside is not None:
            dw.mul_(inside)
        dw = self._from_rotated(dw, "grad_weight_input")
        if len(self.saved) > 8:
            dw = dw + self._outlier_weight(grad)
        return dw if spec.weight_gradient is None else self._estimated(dw, spec.weight_gradient)

    def _from_rotated(self, result: Tensor, name: str) -> Tensor:
        return from_rotated(result, self.spec, name, self.draw, self.geometry, self.make)

    def _estimated(self, dw: Tensor, config: DGE) -> Tensor:
        """dw by the quantiser's estimated gradient, in the basis in which weights are rounded."""
        place, transform = places(self.geometry, "output")[1], self.spec.transform
        turn = self.make.turn
        dw, weight = (turn(t, transform, place, self.draw) for t in (dw, _given(self.weight)))
        dw = dw * weight_factor(weight, self.spec.output_weight, place, config)
        return turn(dw, transform, place, self.draw, back=True)

    def _outlier_weight(self, grad: Tensor) -> Tensor:
        outer = restore_outliers(self.saved[8:], self.x_shape)
        return gemm.grad_weight(grad, outer, self.geometry, self.weight_shape)

    def _control_variate(self, z: Tensor, g: Operand, partner: Operand) -> Tensor:
        slot = self.spec.grad_weight_grad
        if slot is not None and slot.transform is not None:  # means are those of the batch itself
            pair = zip((g, partner), places(self.geometry, "grad_weight"), strict=True)
            g, partner = (
                Operand(self.make.turn(values(t), slot.transform, place, self.draw, back=True))
                for t, place in pair
            )
        return control_variate(z, g, partner, self.geometry, self.weight_shape)


def _given(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise NybbleError("a float32 operand of a backward Gemm was not passed")
    return tensor


def from_rotated(
    result: Tensor,
    spec: LayerSpec,
    name: str,
    draw: Draw,
    geometry: Geometry = _LINEAR,
    make: Make = operands,
) -> Tensor:
    """A backward Gemm's result in the layer's own basis. It is in that of the output Gemm's
    transform where the Gemm's weight or input (`name`) are forward codes."""
    if spec.transform is None or not spec.reuses(name):
        return result
    side = 0 if name == "grad_input_weight" else 1
    place = places(geometry, "output")[side]
    return make.turn(result, spec.transform, place, draw, back=True)


def _of_steps(
    spec: LayerSpec,
    draw: Draw,
    geometry: Geometry = _LINEAR,
    *,
    x: Tensor | None = None,
    weight: Tensor | None = None,
    saved: Sequence[Tensor] = (),
    x_shape: tuple[int, ...] = (),
    weight_shape: tuple[int, ...] = (),
    make: Make = operands,
) -> _Backward:
    """What a time loop needs of a layer's backward step: operands, no Gemm."""
    call = BackwardCall(
        x,
        weight,
        list(saved),
        torch.empty(0),
        x_shape,
        weight_shape,
        spec,
        geometry,
        "fast",
        draw,
        (False, False),
        [False, False, False],
    )
    return _Backward(call, gemm, make)


def partner_of_steps(
    kept: list[Tensor], weight: Tensor, spec: LayerSpec, draw: Draw, make: Make = operands
) -> Operand:
    """The weight of the grad_input Gemm of every step of a time loop."""
    shape = tuple(weight.shape)
    step = _of_steps(spec, draw, weight=weight, saved=kept, weight_shape=shape, make=make)
    return step._partner("grad_input_weight", places(_LINEAR, "grad_input")[1], GRAD_INPUT_WEIGHT)


def input_of_steps(
    kept: list[Tensor], x: Tensor | None, shape: tuple[int, int], spec: LayerSpec, draw: Draw
) -> Operand:
    """The input of all steps of a time loop as it was kept, with the clip's mask."""
    step = _of_steps(spec, draw, x=x, saved=kept, x_shape=shape)
    found = step._restored("grad_weight_input")
    found.inside = restore_mask(kept[3], shape)
    return found


def grad_input_operands(
    gradient: Tensor,
    spec: LayerSpec,
    geometry: Geometry,
    streams: Streams,
    partner: Operand,
    make: Make = operands,
) -> tuple[Operand, Operand]:
    """The gradient's operand and its partner for one step of a time loop."""
    step = _of_steps(spec, streams.draw, geometry)
    place_g, place_w = places(geometry, "grad_input")
    z, bare = step._fold(gradient, spec.grad_input_grad, partner, place_w)
    found, _ = make.quantize(z, spec.grad_input_grad, place_g, streams)
    return found, bare
