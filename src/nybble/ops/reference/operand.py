"""One quantised operand: what a Gemm multiplies, and what is kept of it for the backward pass.

    tensor        float32: integers (value / format unit, zero point subtracted) or, for formats
                  without an integer form and for float32 slots, values
    multiplier    float32, fl(scale * unit), or None (float32 slots, and wide formats at scale 1)
    limit         largest |integer|, or None for values
    inside        1.0 where the clip of PACT (or of SAWB with ste="clip") let the number through,
                  else 0.0 (float, because torch multiplies floats faster than booleans)

A multiplier that varies along the contracted dimension cannot leave the sum; `facing` then
multiplies it in first, and the Gemm runs on values. `store` and `restore` keep codes: two a byte
up to 4 bits, one a byte up to 8, two bytes beyond; mask bits eight a byte.

NaN or infinity in an operand makes its multiplier NaN, hence the whole result: it never becomes a
code. What the codes of such an operand are is unspecified. Values of 8 bits without a scale (HFP8),
which saturate and may have no code for NaN, keep a NaN where the number was; what is stored of them
has a multiplier, 1 or NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.formats import Format, Integer, Stochastic
from nybble.ops.reference.storage import (
    flatten,
    is_channels_last,
    pack_integers,
    pack_mask,
    unflatten,
    unpack_integers,
    unpack_mask,
)
from nybble.quantizers import PACT, SAWB, Fit, Quantizer, RandomKey, StatefulScale, Unit, random24
from nybble.quantizers.packing import pack_codes, unpack_codes

# Formats that torch stores itself; their casts are exact on the format's own values.
_TORCH_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

# The `operand` of a random key: one number for each slot that draws its own bits.
INPUT, WEIGHT, GRAD_INPUT_GRAD, GRAD_WEIGHT_GRAD, GRAD_INPUT_WEIGHT, GRAD_WEIGHT_INPUT = range(6)
PAIR = 6  # which of the two gradient slots a Gemm takes, where that is drawn
SAMPLE = 1 << 12  # times the number of a further sample of the gradient


@dataclass(frozen=True)
class Draw:
    """Which random bits a call uses; see `quantizers/random.py`."""

    seed: int
    layer: int
    call: int

    def key(self, operand: int) -> RandomKey:
        """The key of one operand of this call."""
        return RandomKey(seed=self.seed, rank=0, layer=self.layer, call=self.call, operand=operand)


@dataclass
class Operand:
    """See the module."""

    tensor: Tensor
    multiplier: Tensor | None = None
    limit: int | None = None
    inside: Tensor | None = None
    zero_point: Tensor | None = None

    def facing(
        self, free: int, result_dim: int, result_rank: int
    ) -> tuple[Tensor, Tensor | None, int | None]:
        """(tensor, multiplier, limit) for one Gemm.

        `free`: the dimension of this operand that becomes dimension `result_dim` of the result of
        `result_rank` dimensions; -1 where there is none that a multiplier may follow.
        """
        m = self.multiplier
        if m is None or m.numel() == 1:
            return self.tensor, None if m is None else m.reshape(()), self.limit
        if [d for d, size in enumerate(m.shape) if size > 1] == [free]:
            shape = [1] * result_rank
            shape[result_dim] = -1
            return self.tensor, m.reshape(shape), self.limit
        return self.tensor * m, None, None


def quantize_operand(
    x: Tensor,
    slot: Quantizer | None,
    draw: Draw,
    operand: int,
    alpha: Tensor | None,
    *,
    want_inside: bool,
    random: Tensor | None = None,
) -> Operand:
    """Quantise one operand of the forward pass (gradients: `gradient.py`).

    `random`: the bits of stochastic rounding where the caller has drawn them (a step's part of a
    sequence).

    The order of operations is the quantizers' contract: y = fl(x * inv), inv = fl(1 / scale); an
    affine slot adds its zero point before rounding. A number is inside the clip when y is inside
    the format's range, ends included.
    """
    if slot is None:
        return Operand(x)
    fmt = slot.format
    if isinstance(slot.rounding, Stochastic) and random is None:
        random = random24(x.shape, draw.key(operand), x.device)
    if isinstance(slot.scale, Unit):
        clips = slot.scale.ste == "clip"
        return round_operand(x, fmt, slot, random, None, want_inside=clips and want_inside)
    fit = fit_slot(x, slot, alpha)
    y = fit.scaled(x)
    clips = isinstance(slot.scale, PACT) or (
        isinstance(slot.scale, SAWB) and slot.scale.ste == "clip"
    )
    # Scales that read the tensor themselves are NaN already.
    propagate = isinstance(slot.scale, PACT)
    return round_operand(
        y, fmt, slot, random, fit, want_inside=clips and want_inside, propagate=propagate
    )


def round_operand(
    y: Tensor,
    fmt: Format,
    slot: Quantizer,
    random: Tensor | None,
    fit: Fit | None,
    want_inside: bool = False,
    propagate: bool = False,
) -> Operand:
    """`y` on the format's grid. With a fit, `y` is this module's own and may be overwritten."""
    inside: Tensor | None = None
    scale = None if fit is None else fit.scale
    if fmt.unit is None:
        values = fmt.round(y, slot.rounding, random)
        if _hides(fmt) and (scale is None or propagate):
            values = torch.where(y.isfinite(), values, torch.nan)
        return Operand(values, scale)
    if isinstance(fmt, Integer) and random is None:
        # The same numbers as round_to_integers, whose clamped intermediate tells what was inside.
        clamped = y.clamp(fmt.low, fmt.high)
        poison = _poison(y) if scale is None or propagate else None
        if want_inside:
            inside = (y == clamped).float() if fit is None else y.eq_(clamped)
        ints = clamped.round_().add_(0.0)  # an encoder has no -0
    else:
        if want_inside:
            inside = (y.abs() <= fmt.max_value).float()
        poison = _poison(y) if scale is None or propagate else None
        ints = fmt.round_to_integers(y, slot.rounding, random)
        if is_channels_last(y):  # table look-ups give C order, codes are kept in that of y
            ints = ints.contiguous(memory_format=torch.channels_last)
    if scale is None:
        scale = y.new_ones(())
    if poison is not None:
        scale = scale + poison
    limit = fmt.max_integer
    zero_point = None if fit is None else fit.zero_point
    if zero_point is not None:
        ints.sub_(zero_point)
        limit = 2 * (limit or 0)
    multiplier = scale if fmt.unit == 1.0 else scale * fmt.unit
    return Operand(ints, multiplier, limit, inside, zero_point)


def fit_slot(x: Tensor, slot: Quantizer, alpha: Tensor | None) -> Fit:
    """The scale of a forward slot: from the learned clip for PACT, else from the tensor."""
    if isinstance(slot.scale, PACT):
        if alpha is None:
            raise NybbleError(f"{slot.short} needs a clip: none was passed")
        return slot.scale.fit_alpha(alpha, slot.format)
    if isinstance(slot.scale, StatefulScale):
        raise NybbleError(f"{slot.short}: the scale has a state and serves gradients only")
    return slot.scale.fit(x, slot.format)


def _hides(fmt: Format) -> bool:
    """Whether a format of values makes finite numbers of infinity, or of NaN."""
    return fmt.bits <= 8


def _poison(y: Tensor) -> Tensor:
    """0, or NaN if an element of `y` is not finite; no synchronisation with the host."""
    if y.numel() == 0:
        return y.new_zeros(())
    low, high = torch.aminmax(y)
    return (low * 0.0).add_(high * 0.0)


# ---- what is kept for backward ------------------------------------------------------------------


def store(operand: Operand, slot: Quantizer | None, inside: Tensor | None) -> list[Tensor]:
    """[codes, multiplier, zero point, mask]: what `restore` needs; empty where there is nothing."""
    tensor = operand.tensor
    mask = tensor.new_empty(0, dtype=torch.uint8) if inside is None else pack_mask(inside)
    if slot is None:
        return [tensor.new_empty(0) for _ in range(3)] + [mask]
    fmt = slot.format
    if fmt.name in _TORCH_DTYPES:
        codes = tensor.to(_TORCH_DTYPES[fmt.name])
    elif fmt.bits > 8:
        # Codes of 9 to 16 bits are int32: their low half holds them.
        codes = fmt.encode(tensor).to(torch.int16)
    elif fmt.unit is None:
        codes = fmt.encode(tensor)
    else:
        zero = operand.zero_point
        ints = tensor if zero is None else tensor + zero
        if isinstance(fmt, Integer) and fmt.bits <= 4:
            codes = pack_integers(ints, fmt)
        else:
            codes = pack_codes(fmt.integers_to_codes(flatten(ints)), fmt.bits)
    kept = [codes]
    multiplier = operand.multiplier
    if multiplier is None and fmt.unit is None and _hides(fmt):
        multiplier = 1.0 + _poison(tensor)
    for part in (multiplier, operand.zero_point):
        # A clone, because an operator may not return one of its own inputs.
        kept.append(tensor.new_empty(0) if part is None else part.clone())
    return [*kept, mask]


_NO_DRAW = Draw(0, 0, 0)  # what is read again rounds to nearest


def rereads(slot: Quantizer | None) -> bool:
    """Whether backward quantises a weight again instead of keeping its codes.

    Weights outlive the step anyway, so a reference to them is free, while codes of 16 bits would
    take half their size once more. The same function of the same tensor gives the same operand.
    """
    if slot is None:
        return True
    return slot.format.bits > 8 and not isinstance(slot.rounding, Stochastic)


def restore(
    saved: list[Tensor],
    slot: Quantizer | None,
    raw: Tensor | None,
    shape: tuple[int, ...],
    channels_last: bool,
) -> Operand:
    """The operand of `store`'s four tensors; `raw` is the tensor of a slot that is not stored."""
    codes, multiplier, zero, mask = saved
    count = prod(shape)
    inside = None
    if mask.numel():
        inside = unflatten(unpack_mask(mask, count), shape, channels_last)
    if slot is None:
        if raw is None:
            return Operand(codes, None, None, inside)
        return Operand(raw, None, None, inside)
    if raw is not None:
        operand = quantize_operand(raw, slot, _NO_DRAW, WEIGHT, None, want_inside=False)
        operand.inside = inside
        return operand
    fmt = slot.format
    scale = multiplier if multiplier.numel() else None
    if fmt.name in _TORCH_DTYPES:
        return Operand(codes.float(), scale, None, inside)
    if fmt.bits > 8:
        wide = codes.to(torch.int32).bitwise_and_((1 << fmt.bits) - 1)
        return Operand(fmt.decode(wide), scale, None, inside)
    if fmt.unit is None:
        return Operand(fmt.decode(codes), scale, None, inside)
    if isinstance(fmt, Integer) and fmt.bits <= 4:
        flat = unpack_integers(codes, count, fmt)
    else:
        flat = fmt.integers(unpack_codes(codes, count, fmt.bits))
    ints = unflatten(flat, shape, channels_last)
    limit = fmt.max_integer
    if zero.numel():
        ints.sub_(zero)
        limit = 2 * (limit or 0)
        return Operand(ints, scale, limit, inside, zero)
    return Operand(ints, scale, limit, inside)
