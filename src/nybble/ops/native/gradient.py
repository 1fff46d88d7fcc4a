"""The output gradient's two operands as packed codes: `ops/reference/gradient.py`, natively.

Each operand comes back as `Kept` where its slot is codes, else as the reference's `Operand` (FP8
and wider, float32). Under a delayed GradScale the gradient is read once: both phases and max|dy|
come out of the same pass. Slots whose scale has no state (AbsMax) are packed as any operand is.
See the reference for the formulas, and for what `amax` and `state` are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nybble.formats import LogFormat, Stochastic
from nybble.ops.gradients import gradient_key
from nybble.ops.native import quantize, streams
from nybble.ops.native.buffers import NO_BYTES, NO_FLOATS
from nybble.ops.native.operand import Kept, quantize_kept
from nybble.ops.native.plan import is_code_slot
from nybble.ops.native.rules import gradient_rule
from nybble.ops.reference import gradient as reference
from nybble.ops.reference.operand import Draw, Operand, quantize_operand, store
from nybble.ops.spec import LayerSpec, Slot
from nybble.quantizers import Quantizer, StatefulScale
from nybble.quantizers.scales.gradscale import usable

__all__ = ["quantize_gradient"]

Gradient = Kept | Operand | None


def quantize_gradient(
    grad: Tensor,
    spec: LayerSpec,
    grad_scale: Tensor,
    draw: Draw,
    wanted: tuple[bool, bool],
    sample: int = 0,
) -> tuple[Gradient, Gradient, Tensor, Tensor]:
    """(operand of grad_input, operand of grad_weight, amax, state used); grad is dense."""
    slots = (spec.grad_input_grad, spec.grad_weight_grad)
    plain = [not want or _packs(slot) for slot, want in zip(slots, wanted, strict=True)]
    if spec.grad_scale is None and grad.numel():
        return _without_state(grad, spec, draw, wanted, sample)
    if spec.grad_scale is None or not grad.numel():
        return _by_reference(grad, spec, grad_scale, draw, wanted, sample)
    if not all(plain):
        return _one_of_two(grad, spec, grad_scale, draw, wanted, sample)
    config, top = spec.grad_scale
    state = grad_scale.item()
    if config.mode == "delayed" and state > 0:
        found = _in_one_pass(grad, state, slots, wanted)
        if found is not None:
            return found
    amax: Tensor | None = None
    if config.mode == "delayed" and state > 0:
        used = grad_scale.reshape(1).clone()
    else:
        amax = quantize.absmax(grad).reshape(1)
        used = config.step(grad_scale, amax, top)[0].reshape(1)
    inv, scale = config.factors(used, top)
    first, second, largest = _pack(grad, spec, inv.item(), draw, wanted, sample)
    if amax is None:
        amax = torch.tensor([largest], dtype=torch.float32)
    kept = used if state > 0 or bool(usable(amax)) else grad_scale.clone()
    # amax * 0 is 0, or NaN where the gradient is not finite.
    scale = scale + amax * 0.0
    operands: list[Gradient] = []
    for codes, slot in zip((first, second), slots, strict=True):
        if codes is None or slot is None:
            operands.append(None)
            continue
        unit = slot.format.unit or 1.0
        operands.append([codes, scale * unit, NO_FLOATS, NO_BYTES])
    return operands[0], operands[1], amax, kept


def _without_state(
    grad: Tensor, spec: LayerSpec, draw: Draw, wanted: tuple[bool, bool], sample: int
) -> tuple[Gradient, Gradient, Tensor, Tensor]:
    """Slots whose scales are fitted to this gradient, each by itself."""
    slots = (spec.grad_input_grad, spec.grad_weight_grad)
    nothing = NO_FLOATS
    if not any(want and is_code_slot(slot) for slot, want in zip(slots, wanted, strict=True)):
        return _by_reference(grad, spec, nothing, draw, wanted, sample)
    found: list[Gradient] = []
    for i, slot in enumerate(slots):
        if not wanted[i]:
            found.append(None)
        elif i == 1 and found[0] is not None and reference.shared(spec):
            found.append(found[0])
        elif slot is not None and is_code_slot(slot):
            found.append(_kept(grad, slot, draw, gradient_key(spec, i, sample)))
        else:
            only = (i == 0, i == 1)
            one = reference.quantize_gradient(grad, spec, nothing, draw, only, sample=sample)
            found.append(one[0] if i == 0 else one[1])
    return found[0], found[1], NO_FLOATS.clone(), NO_FLOATS.clone()


def _kept(grad: Tensor, slot: Quantizer, draw: Draw, number: int) -> Kept:
    """The codes of one operand; 8 bits have no packing kernel, but their random bits have one."""
    if quantize.packs(slot.format) or not isinstance(slot.rounding, Stochastic):
        return quantize_kept(grad, slot, draw, number, None, want_inside=False)
    bits = streams.random24(grad.numel(), draw.key(number)).view(grad.shape)
    return store(
        quantize_operand(grad, slot, draw, number, None, want_inside=False, random=bits), slot, None
    )


def _in_one_pass(
    grad: Tensor, used: float, slots: tuple[Slot, Slot], wanted: tuple[bool, bool]
) -> tuple[Gradient, Gradient, Tensor, Tensor] | None:
    """What `quantize_gradient` returns, from one call; None where no kernel does it all."""
    left, right = slots
    first, second = (left, right if wanted[1] else None) if wanted[0] else (right, None)
    rule = None if first is None else gradient_rule(first, second)
    if rule is None:
        return None
    codes, others, numbers = quantize.quantize_gradient(grad, used, rule)
    amax, scale, one, two = numbers.split(1)
    operands: list[Gradient] = [
        [codes, one, NO_FLOATS, NO_BYTES],
        [others, two, NO_FLOATS, NO_BYTES] if wanted[0] else [codes, one, NO_FLOATS, NO_BYTES],
    ]
    return operands[0] if wanted[0] else None, operands[1] if wanted[1] else None, amax, scale


def _pack(
    grad: Tensor,
    spec: LayerSpec,
    scale: float,
    draw: Draw,
    wanted: tuple[bool, bool],
    sample: int,
) -> tuple[Tensor | None, Tensor | None, float]:
    """(codes of each slot, or None where it is not wanted; max|grad|)."""
    slots = first, second = spec.grad_input_grad, spec.grad_weight_grad
    if all(wanted) and first is not None and second is not None and _one_pass(first, second):
        return quantize.pack_two_phase(
            grad,
            scale,
            first.format,  # type: ignore[arg-type]
            second.format,  # type: ignore[arg-type]
            first.rounding,
        )
    codes: list[Tensor | None] = [None, None]
    amax = 0.0
    for i, slot in enumerate(slots):
        if not wanted[i] or slot is None:
            continue
        draws = isinstance(slot.rounding, Stochastic)
        if i == 1 and codes[0] is not None and reference.shared(spec):
            codes[1] = codes[0]
            continue
        key = draw.key(gradient_key(spec, i, sample)) if draws else None
        packed = quantize.pack(grad, scale, slot.format, slot.rounding, key=key)
        codes[i], amax = packed.codes, packed.amax
    return codes[0], codes[1], amax


def _one_pass(first: Quantizer, second: Quantizer) -> bool:
    return (
        first.rounding == second.rounding
        and not isinstance(first.rounding, Stochastic)
        and isinstance(first.format, LogFormat)
        and isinstance(second.format, LogFormat)
    )


def _packs(slot: Slot) -> bool:
    return (
        slot is not None and isinstance(slot.scale, StatefulScale) and quantize.packs(slot.format)
    )


def _one_of_two(
    grad: Tensor,
    spec: LayerSpec,
    grad_scale: Tensor,
    draw: Draw,
    wanted: tuple[bool, bool],
    sample: int,
) -> tuple[Gradient, Gradient, Tensor, Tensor]:
    """One operand as codes and the other, which has no state, as the reference rounds it (a
    convolution of 1x1 whose grad_weight takes FP8, say)."""
    slots = (spec.grad_input_grad, spec.grad_weight_grad)
    coded = [want and _packs(slot) for slot, want in zip(slots, wanted, strict=True)]
    scaled = [
        want and slot is not None and isinstance(slot.scale, StatefulScale)
        for slot, want in zip(slots, wanted, strict=True)
    ]
    if not any(coded) or coded != scaled:
        return _by_reference(grad, spec, grad_scale, draw, wanted, sample)
    mine = (coded[0], coded[1])
    theirs = (wanted[0] and not coded[0], wanted[1] and not coded[1])
    codes = quantize_gradient(grad, spec, grad_scale, draw, mine, sample)
    wide = reference.quantize_gradient(grad, spec, grad_scale, draw, theirs, sample=sample)
    first = codes[0] if coded[0] else wide[0]
    second = codes[1] if coded[1] else wide[1]
    return first, second, codes[2], codes[3]


def _by_reference(
    grad: Tensor,
    spec: LayerSpec,
    grad_scale: Tensor,
    draw: Draw,
    wanted: tuple[bool, bool],
    sample: int,
) -> tuple[Gradient, Gradient, Tensor, Tensor]:
    first, second, amax, scale = reference.quantize_gradient(
        grad, spec, grad_scale, draw, wanted, sample=sample
    )
    slots = (spec.grad_input_grad, spec.grad_weight_grad)
    kept: list[Gradient] = []
    for operand, slot in zip((first, second), slots, strict=True):
        codes = operand is not None and slot is not None and is_code_slot(slot)
        kept.append(store(operand, slot, None) if codes and operand is not None else operand)
    return kept[0], kept[1], amax, scale
