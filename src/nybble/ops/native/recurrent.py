"""The time loop of a recurrent layer on packed codes: `ops/reference/recurrent.py`, natively.

csrc/recurrent keeps the weights as panels across all steps and does the rest of a step (quantising,
the product, gates, the clip's mask) without leaving C++. The results are those of the reference
with exact sums, bit for bit, and so is what is kept for backward. Scales: a learned clip or
GradScale, which all steps share; SAWB or the largest magnitude of each step; the better of two, or
the largest magnitude, of each row (layers of scales by line, with the weights' scales folded into
the gradient). A loop whose quantizers the C++ does not have runs as the reference's;
`why_not_native` says which, and `nybble.summary` shows it:

    operands that are no integers of at most 8 bits, or an accumulator that rounds (by recipe)
    operands of more than 4 bits that come step by step, other scales, a transform, projections
    (fall-backs)
"""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.formats import Integer, LogFormat
from nybble.ops.geometry import Geometry
from nybble.ops.native import block_operand, quantize
from nybble.ops.native.buffers import require, span, threads
from nybble.ops.native.codes import Codes, table_of
from nybble.ops.native.composite import forward_slots, times_unit
from nybble.ops.native.layer import facing, keep
from nybble.ops.native.lines import best_rule
from nybble.ops.native.mask import sides
from nybble.ops.native.operand import codes_of, quantize_kept
from nybble.ops.native.plan import Reason, why_not
from nybble.ops.native.pool import kept as kept_bytes
from nybble.ops.native.pool import result
from nybble.ops.native.rules import log_rule, stochastic_rule, threshold_rule
from nybble.ops.native.streams import key_words
from nybble.ops.recurrent import GATES, Sequence, StepGemm
from nybble.ops.reference import recurrent as reference
from nybble.ops.reference.operand import GRAD_INPUT_GRAD, INPUT, WEIGHT, Draw, fit_slot, rereads
from nybble.ops.reference.recurrent import Gradients, Outputs, Weights
from nybble.ops.spec import LayerSpec, Slot
from nybble.quantizers import (
    PACT,
    SAWB,
    AbsMax,
    BestOfTwo,
    GradScale,
    Quantizer,
    RandomKey,
    StatefulScale,
    Stochastic,
)
from nybble.quantizers.scales.fit import value_range
from nybble.quantizers.scales.sawb import COEFFICIENTS

__all__ = ["CELLS", "backward", "forward", "step_rule", "why_not_native"]

_LINEAR = Geometry("linear")
CELLS = {"tanh": 0, "relu": 1, "lstm": 2, "gru": 3}
_NOTHING = (0, 0)


@lru_cache(maxsize=1024)
def why_not_native(spec: LayerSpec, gemm: str, projected: bool = False) -> Reason | None:
    """None if the loop of this Gemm (`output` or `grad_input`) runs in C++, else the reason.

    >>> why_not_native(LayerSpec(), "output").text
    'output_input is float32'
    """
    reason = why_not(spec, _LINEAR, gemm)
    if reason is not None:
        return reason
    if projected:
        return Reason("a projection inside the time loop", by_recipe=False)
    name = "output_input" if gemm == "output" else "grad_input_grad"
    slot = spec.slot(name)
    if spec.composite and (spec.double or slot is None or slot.transform is not None):
        return Reason("operands are made of codes in each step", by_recipe=False)
    if slot is None or not quantize.packs(slot.format):
        return Reason(f"{name} has more than 4 bits", by_recipe=False)
    if gemm == "output" and isinstance(slot.rounding, Stochastic):
        return Reason(f"{name} is rounded at random in each step", by_recipe=False)
    if _fit_of(slot, spec) is None:
        return Reason(f"the scale of {name} in each step", by_recipe=False)
    if gemm == "grad_input" and _clips(spec):
        kept = spec.slot("grad_weight_input")
        if kept is None or not quantize.packs(kept.format):
            return Reason("the clip of an input that is not kept in 4 bits", by_recipe=False)
    return None


_FIXED, _WHOLE, _ROWS, _BEST = range(4)


@lru_cache(maxsize=256)
def _fit_of(slot: Quantizer, spec: LayerSpec) -> tuple[int, bytes] | None:
    """(how the scale of a step is found, the rule of it), or None where C++ does not have it."""
    scale, fmt = slot.scale, slot.format
    if isinstance(scale, PACT | GradScale):
        return _FIXED, b""
    if isinstance(scale, BestOfTwo) and spec.composite and scale.granularity == "free":
        return _BEST, best_rule(fmt, scale.rms)
    if isinstance(scale, SAWB) and not scale.per_channel:
        if spec.composite or value_range(fmt)[1] != COEFFICIENTS[scale.coefficients][2]:
            return None  # the scale itself says what is wrong
        c1, c2, levels = COEFFICIENTS[scale.coefficients]
        return _WHOLE, _statistic(1, levels, c1, c2)
    if not isinstance(scale, AbsMax) or scale.power_of_two:
        return None
    levels = fmt.max_value / scale.headroom
    if scale.granularity == "tensor":
        return _WHOLE, _statistic(2, levels)
    by_row = spec.composite and scale.granularity == "free"
    return (_ROWS, _statistic(2, levels)) if by_row else None


def _statistic(kind: int, levels: float, c1: float = 0.0, c2: float = 0.0) -> bytes:
    """FitRule of csrc/quantize/fit.hpp, of which only the statistic counts here."""
    return struct.pack("<iffffiii", kind, levels, c1, c2, 1.0, 0, 0, 4)


def forward(
    gx: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    weights: Weights,
    sequence: Sequence,
    gemms: list[StepGemm],
    save: bool,
) -> Outputs:
    """As the reference's `forward`."""
    spec, draw = gemms[0].spec, gemms[0].draw
    if not _runs(spec, "output", weights, gx):
        exact = replace(sequence, accumulate="exact")
        return reference.forward(gx, h0, c0, weights, exact, gemms, save, block_operand)
    slot_x, slot_w = forward_slots(spec, _LINEAR)
    weight = weights.hh.contiguous()
    kept_w = quantize_kept(weight, slot_w, draw, WEIGHT, None, want_inside=save)
    w = codes_of(kept_w, slot_w, tuple(weight.shape), False, _LINEAR)
    rule = _forward_rule(spec, weight, weights.hh_alpha)
    hidden, rows = weight.shape[1], sequence.rows
    lstm, gated = sequence.mode == "lstm", sequence.mode in ("lstm", "gru")
    gx = gx.contiguous()
    h, c = h0.clone(), gx.new_empty(0) if c0 is None else c0.clone()
    y = result((rows, hidden))
    gates = _kept(rows if gated and save else 0, 4 * hidden)
    before = _kept(rows if lstm and save else 0, hidden)
    inputs = _kept(rows if save else 0, hidden)
    scale = facing(kept_w[1], 0)
    require().sequence_forward(
        _shape(sequence, hidden),
        rule,
        _operand(w, contiguous=True),
        _NOTHING if scale is None else span(scale.contiguous(), torch.float32, "scale"),
        _maybe(weights.hh_bias),
        *(span(x, torch.float32, "sequence") for x in (gx, h, c, y)),
        *(_maybe(x) for x in (gates, before, inputs)),
    )
    out = Outputs(y, h, c, gates, inputs if sequence.mode == "gru" and save else before)
    if save:
        kept_x = quantize_kept(inputs, slot_x, draw, INPUT, weights.hh_alpha, want_inside=True)
        out.inputs = [inputs]
        if spec.composite:  # its backward slots are "same"
            out.kept = [[*kept_x, *kept_w]]
        else:
            out.kept = [keep(inputs, weight, kept_x, kept_w, weights.hh_alpha, spec, draw)]
    return out


def backward(
    dy: Tensor | None,
    dh: Tensor,
    dc: Tensor | None,
    tape: Outputs,
    weights: Weights,
    sequence: Sequence,
    gemms: list[StepGemm],
    scales: list[Tensor],
    need_dalpha: list[bool],
) -> Gradients:
    """As the reference's `backward`."""
    spec, kept = gemms[0].spec, tape.kept[0]
    if not _runs(spec, "grad_input", weights, dh) or rereads(spec.slot("grad_input_weight")):
        exact = replace(sequence, accumulate="exact")
        return reference.backward(
            *(dy, dh, dc, tape, weights, exact, gemms, scales, need_dalpha), block_operand
        )
    slot_g, slot_w = _known(spec.grad_input_grad), _known(spec.slot("grad_input_weight"))
    wide, hidden = weights.hh.shape
    w = codes_of(kept[4:], slot_w, (wide, hidden), False, _LINEAR)
    rule, scale, _fold = _backward_rule(spec, gemms[0].draw, kept, scales[0])
    dh = dh.clone()
    dc = dh.new_empty(0) if dc is None else dc.clone()
    dgx = result((sequence.rows, wide))
    dgh = result((sequence.rows, wide)) if sequence.mode == "gru" else dgx
    mask, codes, by_side, two_sided = _clip(spec, kept, need_dalpha[0])
    empty = dh.new_empty(0)
    plain = sequence.mode in ("tanh", "relu")
    amax, first, second = require().sequence_backward(
        _shape(sequence, hidden),
        rule,
        _operand(w, contiguous=False),
        _NOTHING if scale is None else span(scale.contiguous(), torch.float32, "scale"),
        mask,
        codes,
        by_side,
        two_sided,
        _maybe(tape.y if plain else empty),
        *(_maybe(empty if plain else x) for x in (tape.gates, tape.before)),
        _maybe(dy),
        *(span(x, torch.float32, "sequence") for x in (dh, dc, dgx, dgh)),
    )
    dalpha: Tensor | None = None
    if codes != _NOTHING:
        values = [first, second] if two_sided else [first]
        dalpha = torch.tensor(values, dtype=torch.float32)
    stateful = isinstance(slot_g.scale, StatefulScale)
    noted = torch.tensor([amax], dtype=torch.float32) if stateful else None
    return Gradients(dgx, [dgh], dh, dc, [dalpha], [noted])


def _forward_rule(spec: LayerSpec, weight: Tensor, alpha: Tensor | None) -> tuple[Any, ...]:
    slot = _known(spec.output_input)
    if not isinstance(slot.scale, PACT):
        return step_rule(slot, spec)
    fit = fit_slot(weight, slot, alpha)
    zero = None if fit.zero_point is None else float(fit.zero_point)
    multiplier = times_unit(fit.scale, slot)
    return step_rule(slot, spec, float(fit.inv), float(multiplier), zero)


def _backward_rule(
    spec: LayerSpec, draw: Draw, kept: list[Tensor], state: Tensor
) -> tuple[tuple[Any, ...], Tensor | None, Tensor | None]:
    """(rule, what is left of the weights' scale for the result, memory that the rule points at)."""
    slot = _known(spec.grad_input_grad)
    key = draw.key(GRAD_INPUT_GRAD)
    if not isinstance(slot.scale, GradScale):
        fold = kept[5].reshape(-1).contiguous() if spec.composite else None
        if fold is not None and fold.numel() == 1:
            return step_rule(slot, spec, key=key), fold, None
        left = facing(kept[5], 1) if fold is None else None
        return step_rule(slot, spec, key=key, fold=fold), left, fold
    # The state that all steps use; 0 where no gradient has been fit for a scale: 1 then.
    used = state if float(state) > 0 else torch.ones_like(state)
    multiplier = times_unit(used.reciprocal(), slot)
    rule = step_rule(slot, spec, float(used), float(multiplier), key=key)
    return rule, facing(kept[5], 1), None


def _runs(spec: LayerSpec, gemm: str, weights: Weights, x: Tensor) -> bool:
    if why_not_native(spec, gemm, weights.hr is not None) is not None:
        return False
    if not x.numel() or not weights.hh.numel():
        return False
    left, right = (
        (spec.output_input, spec.output_weight)
        if gemm == "output"
        else (spec.grad_input_grad, spec.slot("grad_input_weight"))
    )
    # A zero point moves the integers by at most the range.
    bounds_a, bounds_b = (
        (2 * _limit(left), _limit(right))
        if gemm == "output"
        else (
            _limit(left),
            _limit(right),
        )
    )
    k = weights.hh.shape[1 if gemm == "output" else 0]
    return bool(require().sequence_fits(-bounds_a, bounds_a, -bounds_b, bounds_b, k))


def _kept(rows: int, columns: int) -> Tensor:
    return kept_bytes(4 * rows * columns).view(torch.float32).view(rows, columns)


def _limit(slot: Slot) -> int:
    return 0 if slot is None else int(slot.format.max_integer or 0)


def _known(slot: Slot) -> Quantizer:
    if slot is None:
        raise NybbleError("a native time loop needs a quantizer in each slot")
    return slot


def _shape(sequence: Sequence, hidden: int) -> tuple[int, list[int], bool, int, int]:
    assert sequence.mode in GATES
    return CELLS[sequence.mode], list(sequence.sizes), sequence.reverse, hidden, threads()


def _maybe(x: Tensor | None) -> tuple[int, int]:
    return _NOTHING if x is None or not x.numel() else span(x, torch.float32, "sequence")


def _operand(w: Codes, *, contiguous: bool) -> tuple[Any, ...]:
    packed = span(w.packed, torch.uint8, "weights")
    return packed, span(w.table, torch.int16, "table"), w.bits, w.low, w.high, contiguous


def step_rule(
    slot: Quantizer,
    spec: LayerSpec,
    factor: float = 1.0,
    multiplier: float = 1.0,
    zero: float | None = None,
    *,
    key: RandomKey | None = None,
    fold: Tensor | None = None,
) -> tuple[Any, ...]:
    """How a step's operand becomes codes, and integers: the `Rule` of csrc/recurrent."""
    fmt = slot.format
    rounding = slot.rounding or fmt.default_rounding
    values, low, high = table_of(fmt, int(zero or 0))
    found = _fit_of(slot, spec)
    if found is None:
        raise NybbleError(f"a native time loop does not have {slot.short}")
    tail = (
        *(factor, multiplier, span(values, torch.int16, "table"), low, high),
        *(*found, fmt.unit or 1.0),
        _NOTHING if fold is None else span(fold, torch.float32, "fold"),
        key_words(key or RandomKey()),
    )
    if isinstance(rounding, Stochastic):
        if key is None or zero is not None:
            raise NybbleError("a native time loop rounds at random without a zero point, by a key")
        return 3, stochastic_rule(fmt, 0.0), *tail
    if isinstance(fmt, Integer):
        nibble = (1 << fmt.bits) - 1
        packed = struct.pack("<iiI?3xf", fmt.low, fmt.high, nibble, zero is not None, zero or 0.0)
        return 0, packed, *tail
    rule = log_rule(fmt, None, rounding) if isinstance(fmt, LogFormat) else None
    if rule is not None:
        return 1, rule, *tail
    return 2, threshold_rule(fmt, rounding), *tail


def _clips(spec: LayerSpec) -> bool:
    return spec.output_input is not None and isinstance(spec.output_input.scale, PACT)


def _clip(
    spec: LayerSpec, kept: list[Tensor], need_dalpha: bool
) -> tuple[tuple[int, int], tuple[int, int], bytes, bool]:
    """(mask, codes, side of each code, whether there are two clips)."""
    slot = spec.output_input
    if slot is None or not kept[3].numel():
        return _NOTHING, _NOTHING, bytes(16), False
    mask = span(kept[3], torch.uint8, "mask")
    if not need_dalpha or not isinstance(slot.scale, PACT):
        return mask, _NOTHING, bytes(16), False
    zero = int(kept[2].item()) if kept[2].numel() else 0
    by_side = sides(_known(spec.slot("grad_weight_input")).format, zero)
    codes = span(kept[0], torch.uint8, "codes")
    return mask, codes, by_side, slot.scale.kind == "two_sided"
