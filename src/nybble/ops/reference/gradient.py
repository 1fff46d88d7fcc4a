"""The output gradient's two operands: one read of dy, both phases, and GradScale's statistic.

    y = fl(dy * inv)          inv: what the layer's state says; a power of two under GradScale
    g1, g2 = round(y)         on the grids of grad_input and grad_weight
    multiplier                fl(scale * unit): undone in the Gemm's output; scale = 1 / inv
    amax = max|dy|            what moves the state, later (`delayed`) or now (`immediate`, `fit`)

Slots without a state (AbsMax, Unit) are quantised as any operand is.

A gradient with NaN or infinity in it makes the multiplier NaN, so that grad_input and grad_weight
are NaN, as a loss scaler expects; it never becomes a code and never moves the scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nybble.formats import LogFormat, Stochastic, two_phase_integers
from nybble.ops.gradients import gradient_key
from nybble.ops.reference.operand import Draw, Operand, quantize_operand
from nybble.ops.spec import LayerSpec
from nybble.quantizers import Quantizer, StatefulScale, random24
from nybble.quantizers.scales.gradscale import absolute_max, usable


def quantize_gradient(
    grad: Tensor,
    spec: LayerSpec,
    grad_scale: Tensor,
    draw: Draw,
    wanted: tuple[bool, bool],
    random: Tensor | None = None,
    sample: int = 0,
) -> tuple[Operand | None, Operand | None, Tensor, Tensor]:
    """(operand of grad_input, operand of grad_weight, amax, state used).

    `random`: the bits of stochastic rounding where only one operand is wanted and the caller has
    drawn its bits. `sample`: the number of grad_weight's sample, which has bits of its own.

    `grad_scale`: the scale's state, one number, 0 before the first gradient. Operands that are
    not wanted are None; amax and state are empty when no wanted slot has a scale with a state.
    """
    slots = (spec.grad_input_grad, spec.grad_weight_grad)
    scaled = [
        want and slot is not None and isinstance(slot.scale, StatefulScale)
        for slot, want in zip(slots, wanted, strict=True)
    ]
    amax, state, scale, y = (grad.new_empty(0) for _ in range(4))
    if spec.grad_scale is not None and any(scaled):
        amax, state, inv, scale = _move(grad, grad_scale, *spec.grad_scale)
        y = grad * inv
    if all(scaled) and _one_pass(slots[0], slots[1]):
        first, second = slots
        assert first is not None and second is not None  # both are scaled
        g1, g2 = two_phase_integers(
            y,
            first.format,  # type: ignore[arg-type]
            second.format,  # type: ignore[arg-type]
            first.rounding,
            overwrite=True,
        )
        return (
            Operand(g1, scale * _unit(first), first.format.max_integer),
            Operand(g2, scale * _unit(second), second.format.max_integer),
            amax,
            state,
        )
    operands: list[Operand | None] = []
    for i, slot in enumerate(slots):
        if not wanted[i]:
            operands.append(None)
        elif i == 1 and operands[0] is not None and shared(spec):
            operands.append(operands[0])
        elif slot is not None and scaled[i]:
            bits = random
            if _random(slot) and bits is None:
                bits = random24(y.shape, draw.key(gradient_key(spec, i, sample)), y.device)
            ints = slot.format.round_to_integers(y, slot.rounding, bits)
            operands.append(Operand(ints, scale * _unit(slot), slot.format.max_integer))
        else:
            number = gradient_key(spec, i, sample)
            found = quantize_operand(
                grad, slot, draw, number, None, want_inside=False, random=random
            )
            operands.append(found)
    return operands[0], operands[1], amax, state


def _move(
    grad: Tensor, state: Tensor, config: StatefulScale, top: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(amax, the state with which this call was made, inv, scale), each one number; the scale is
    NaN for a bad gradient. Moving a delayed state is the layer's work, once an iteration."""
    if grad.numel() == 0:
        inv, scale = config.factors(torch.where(state > 0, state, torch.ones_like(state)), top)
        return torch.zeros_like(state), state.clone(), inv, scale
    amax = absolute_max(grad).reshape(1)
    used, _ = config.step(state, amax, top)
    # An all-zero or bad first gradient fits nothing: it is multiplied by 1, and the state stays 0.
    kept = torch.where((state > 0) | usable(amax), used, state)
    inv, scale = config.factors(used, top)
    # amax * 0 is 0, or NaN where the gradient is not finite.
    return amax, kept, inv, scale + amax * 0.0


def shared(spec: LayerSpec) -> bool:
    """Whether one operand serves both Gemms: equal slots, and the same random bits if any."""
    first, second = spec.grad_input_grad, spec.grad_weight_grad
    return first == second and (spec.gradient_pair == "one" or not _random(first))


def _one_pass(first: Quantizer | None, second: Quantizer | None) -> bool:
    return (
        first is not None
        and second is not None
        and first.rounding == second.rounding
        and not _random(first)
        and first.format != second.format
        and isinstance(first.format, LogFormat)
        and isinstance(second.format, LogFormat)
    )


def _random(slot: Quantizer | None) -> bool:
    return slot is not None and isinstance(slot.rounding, Stochastic)


def _unit(slot: Quantizer) -> float:
    return 1.0 if slot.format.unit is None else slot.format.unit
