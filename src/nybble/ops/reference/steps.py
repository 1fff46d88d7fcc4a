"""A Gemm whose first operand comes step by step: the weights are quantised once a sequence.

    StepOutput    out = quantise(x_t) qw (s_x s_w) + bias, row by row of the sequence
    StepGradient  dx_t = quantise(dz_t) qw (s_g s_w), zero where x was clipped; notes max|dz|
    FloatGradient the same with dz_t in float32: what a gradient scale is fitted to

The scale of an input is fitted to its step, unless it is a learned clip, and so are the quantiles
beyond which outliers are split off. The same holds for
gradients, but GradScale has one scale a sequence. Random bits are those of the element's place in
the whole sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nybble.ops.exactness import finish_
from nybble.ops.geometry import Geometry
from nybble.ops.recurrent import StepGemm
from nybble.ops.reference import composite_operand as operands
from nybble.ops.reference import gemm as products
from nybble.ops.reference.composite import decoded_weight as decoded_output_weight
from nybble.ops.reference.composite import keep as keep_composite
from nybble.ops.reference.composite_backward import (
    from_rotated,
    grad_input_operands,
    input_of_steps,
    partner_of_steps,
)
from nybble.ops.reference.composite_operand import Make, Streams, values
from nybble.ops.reference.gradient import quantize_gradient
from nybble.ops.reference.layer import clip_gradient, keep
from nybble.ops.reference.operand import (
    GRAD_INPUT_GRAD,
    INPUT,
    WEIGHT,
    Operand,
    fit_slot,
    quantize_operand,
    rereads,
    restore,
    round_operand,
)
from nybble.ops.reference.outliers import keep_outliers, multiply_outliers, split_outliers
from nybble.ops.reference.places import places
from nybble.ops.spec import Slot
from nybble.quantizers import PACT, StatefulScale, Stochastic, random24
from nybble.quantizers.scales.gradscale import absolute_max

__all__ = ["FloatGradient", "StepGradient", "StepOutput"]

LINEAR = Geometry("linear")


class StepOutput:
    """The output Gemm; see the module."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        alpha: Tensor | None,
        gemm: StepGemm,
        accumulate: str,
        rows: int,
        save: bool,
        make: Make = operands,
    ) -> None:
        self.weight, self.bias, self.alpha = weight, bias, alpha
        self.gemm, self.accumulate, self.rows, self.make = gemm, accumulate, rows, make
        spec, draw = gemm.spec, gemm.draw
        if spec.composite:
            streams, place = Streams(draw, WEIGHT), places(LINEAR, "output")[1]
            self.composite = make.quantize(
                weight, spec.output_weight, place, streams, want_inside=save
            )
            self.streams = Streams(draw, INPUT, total=rows)
            self.facing = self.composite[0].facing(0, 1, 2)
            self.fit = self.random = None
            return
        self.qw = quantize_operand(weight, spec.output_weight, draw, WEIGHT, None, want_inside=save)
        self.facing = self.qw.facing(0, 1, 2)
        slot = spec.output_input
        self.random = _random(slot, gemm, INPUT, (rows, weight.shape[1]), weight)
        learned = slot is not None and isinstance(slot.scale, PACT)
        self.fit = fit_slot(weight, slot, alpha) if slot is not None and learned else None

    def __call__(self, x: Tensor, row: int) -> Tensor:
        slot = self.gemm.spec.output_input
        random = _part(self.random, row, x)
        outer: Tensor | None = None
        if self.gemm.spec.composite:
            streams = self.streams.step(row, x.shape[0])
            inner, outer = split_outliers(x, self.gemm.spec.outliers)
            qx, _ = self.make.quantize(
                inner, slot, places(LINEAR, "output")[0], streams, self.alpha
            )
        elif self.fit is not None and slot is not None:
            y = self.fit.scaled(x)
            qx = round_operand(y, slot.format, slot, random, self.fit, propagate=True)
        else:
            draw = self.gemm.draw
            qx = quantize_operand(
                x, slot, draw, INPUT, self.alpha, want_inside=False, random=random
            )
        tx, mx, limit_x = qx.facing(0, 0, 2)
        tw, mw, limit_w = self.facing
        acc = products.output(
            tx,
            tw,
            LINEAR,
            max_x=limit_x,
            max_weight=limit_w,
            accumulate=self.accumulate,
            accumulator=self.gemm.spec.accumulator,
        )
        y = finish_(acc, mx, mw, self.bias)
        if outer is not None:
            qw, spec = self.composite[0], self.gemm.spec
            weight = decoded_output_weight(qw, spec, LINEAR, self.gemm.draw, self.make)
            y += multiply_outliers(outer, weight, LINEAR)
        return y

    def kept(self, x: Tensor) -> list[Tensor]:
        """What backward needs, as `layer_forward` keeps it; `x`: the rows of all steps."""
        spec, draw = self.gemm.spec, self.gemm.draw
        if spec.composite:
            place, streams = places(LINEAR, "output")[0], Streams(draw, INPUT)
            inner, outer = split_outliers(x, spec.outliers)
            make, alpha = self.make, self.alpha
            found = make.quantize(inner, spec.output_input, place, streams, alpha, want_inside=True)
            operands = (inner, self.weight, found, self.composite)
            kept = keep_composite(*operands, spec, LINEAR, draw, make)
            return kept + keep_outliers(outer, spec.outliers)
        qx = quantize_operand(x, spec.output_input, draw, INPUT, self.alpha, want_inside=True)
        return keep(x, self.weight, qx, self.qw, self.alpha, spec, draw)


class StepGradient:
    """The grad_input Gemm; `scale`: GradScale's state that every step uses, or an unused number."""

    def __init__(
        self,
        kept: list[Tensor],
        weight: Tensor,
        x: Tensor | None,
        gemm: StepGemm,
        scale: Tensor,
        accumulate: str,
        rows: int,
        *,
        need_dalpha: bool,
        make: Make = operands,
    ) -> None:
        spec = gemm.spec
        self.gemm, self.scale, self.accumulate, self.make = gemm, scale, accumulate, make
        self.shape, self.need_dalpha = (rows, weight.shape[1]), need_dalpha
        self.rows = rows
        self.qw = decoded_weight(kept, weight, gemm, make)
        self.facing = self.qw.facing(1, 1, 2)
        self.qx: Operand | None = None
        if kept[3].numel():
            self.qx = decoded_input(kept, x, self.shape, gemm)
        slot_g = spec.grad_input_grad
        self.by_itself = spec.composite and not (
            slot_g is not None and isinstance(slot_g.scale, StatefulScale)
        )
        self.streams = Streams(gemm.draw, GRAD_INPUT_GRAD, total=rows)
        self.random = (
            None
            if self.by_itself
            else _random(slot_g, gemm, GRAD_INPUT_GRAD, (rows, weight.shape[0]), weight)
        )
        self.dalpha: Tensor | None = None
        self.amax: Tensor | None = None

    def __call__(self, dz: Tensor, row: int) -> Tensor:
        spec = self.gemm.spec
        facing = self.facing
        if self.by_itself:
            streams = self.streams.step(row, dz.shape[0])
            g, bare = grad_input_operands(dz, spec, LINEAR, streams, self.qw, self.make)
            amax, facing = dz.new_empty(0), bare.facing(1, 1, 2)
        else:
            found, _, amax, _ = quantize_gradient(
                dz,
                spec,
                self.scale,
                self.gemm.draw,
                (True, False),
                random=_part(self.random, row, dz),
            )
            assert found is not None  # it was wanted
            g = found
        if amax.numel():
            self.amax = amax if self.amax is None else torch.maximum(self.amax, amax)
        tg, mg, limit_g = g.facing(0, 0, 2)
        tw, mw, limit_w = facing
        acc = products.grad_input(
            tg,
            tw,
            LINEAR,
            (dz.shape[0], self.shape[1]),
            max_grad=limit_g,
            max_weight=limit_w,
            accumulate=self.accumulate,
            accumulator=spec.accumulator,
        )
        dx = finish_(acc, mg, mw)
        if self.qx is not None and self.qx.inside is not None:
            rows = slice(row, row + dz.shape[0])
            part = Operand(
                self.qx.tensor[rows],
                None,
                self.qx.limit,
                self.qx.inside[rows],
            )
            if self.need_dalpha:
                clips = clip_gradient(dx, part, spec.output_input)
                self.dalpha = clips if self.dalpha is None else clips.add_(self.dalpha)
            dx.mul_(self.qx.inside[rows])
        if spec.composite:
            dx = from_rotated(dx, spec, "grad_input_weight", self.gemm.draw, LINEAR, self.make)
        return dx


class FloatGradient:
    """See the module; the weights are the decoded codes."""

    def __init__(self, kept: list[Tensor], weight: Tensor, gemm: StepGemm) -> None:
        qw = decoded_weight(kept, weight, gemm)
        self.weight = values(qw)
        if gemm.spec.composite:
            self.weight = from_rotated(self.weight, gemm.spec, "grad_input_weight", gemm.draw)
        self.amax = weight.new_zeros(1)

    def __call__(self, dz: Tensor, row: int) -> Tensor:
        self.amax = torch.maximum(self.amax, absolute_max(dz))
        return dz @ self.weight


def decoded_weight(
    kept: list[Tensor], weight: Tensor, gemm: StepGemm, make: Make = operands
) -> Operand:
    """The operand of the grad_input Gemm from what `keep` kept."""
    if gemm.spec.composite:
        return partner_of_steps(kept, weight, gemm.spec, gemm.draw, make)
    slot = gemm.spec.slot("grad_input_weight")
    raw = weight if rereads(slot) else None
    return restore(kept[4:], slot, raw, tuple(weight.shape), False)


def decoded_input(
    kept: list[Tensor], x: Tensor | None, shape: tuple[int, int], gemm: StepGemm
) -> Operand:
    """The input of all steps as it was kept."""
    slot = gemm.spec.slot("grad_weight_input")
    raw = x if slot is None else None
    if gemm.spec.composite:
        return input_of_steps(kept, x, shape, gemm.spec, gemm.draw)
    return restore(kept[:4], slot, raw, shape, False)


def _random(
    slot: Slot, gemm: StepGemm, operand: int, shape: tuple[int, int], like: Tensor
) -> Tensor | None:
    if slot is None or not isinstance(slot.rounding, Stochastic):
        return None
    return random24(shape, gemm.draw.key(operand), like.device)


def _part(random: Tensor | None, row: int, x: Tensor) -> Tensor | None:
    return None if random is None else random[row : row + x.shape[0]]
