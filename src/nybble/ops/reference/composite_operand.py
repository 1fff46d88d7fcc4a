"""An operand whose scale follows the sum, or that is turned before it is quantised.

    t = x R                       the slot's transform along the contraction, both operands' signs
    codes, fit = encode(t)        the slot's scale along the contraction or the free dimension
    multiplier = scale x unit     spread over the blocks of the scale: it stays inside of the sum

What is kept for backward: codes, and the scales in their stored form (a byte a block for E4M3 and
E8M0 scales, with the tensor's float32 scale, or the headroom of MX scales, beside it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.formats import Stochastic, get_format
from nybble.ops.reference import operand as plain
from nybble.ops.reference.operand import Draw, Operand, rereads
from nybble.ops.reference.places import FIRST_SLOT, Place
from nybble.quantizers import PACT, Fit, Quantizer, ScaleConfig, SplitRows, Unit, random24
from nybble.quantizers.transforms import ELEMENTS, SIGNS, STREAM, Bits, Hadamard

__all__ = ["Streams", "quantize", "restore", "spread", "store"]


@dataclass(frozen=True)
class Streams:
    """The random bits of one operand of one call.

    rows, total: a step's part of a sequence: its bits are those rows of the whole's. sample: which
    of several independent roundings.
    """

    draw: Draw
    slot: int
    rows: slice | None = None
    total: int = 0
    sample: int = 0

    def __call__(self, stream: int, shape: Sequence[int], device: torch.device) -> Tensor:
        """24 random bits an element."""
        key = self.draw.key(self.slot + STREAM * (stream + 3 * self.sample))
        if self.rows is None or stream == SIGNS or not shape:
            return random24(shape, key, device)
        return random24((self.total, *shape[1:]), key, device)[self.rows]

    def on(self, device: torch.device) -> Bits:
        """As scales and transforms take them."""
        return lambda stream, shape: self(stream, shape, device)


def turn(
    x: Tensor, transform: Hadamard | None, place: Place, draw: Draw, *, back: bool = False
) -> Tensor:
    """x in (or `back` from) the basis of a Gemm's transform."""
    if transform is None:
        return x
    bits = Streams(draw, FIRST_SLOT[place.gemm]).on(x.device)
    turned = transform.inverse if back else transform.apply
    return turned(x, place.contraction, bits, place.groups)


def quantize(
    x: Tensor,
    slot: Quantizer | None,
    place: Place,
    streams: Streams,
    alpha: Tensor | None = None,
    *,
    want_inside: bool = False,
) -> tuple[Operand, Fit | None]:
    """The operand, and its fit where that is not one of those that `operand.store` keeps."""
    if slot is None:
        return Operand(x), None
    x = turn(x, slot.transform, place, streams.draw)
    bits = streams.on(x.device)
    fmt, rounding = slot.format, slot.rounding or slot.format.default_rounding
    scale = slot.scale.along(place.contraction, place.free)
    if isinstance(scale, PACT | Unit):
        random = bits(ELEMENTS, x.shape) if isinstance(rounding, Stochastic) else None
        found = plain.quantize_operand(
            x, slot, streams.draw, streams.slot, alpha, want_inside=want_inside, random=random
        )
        return found, None
    if isinstance(scale, SplitRows):
        along = place.contraction if place.gemm == "grad_input" else place.free
        return Operand(scale.estimate(x, -1 if along is None else along, bits)), None
    want_inside = want_inside and getattr(scale, "ste", "pass") == "clip"
    if type(scale).encode is ScaleConfig.encode:
        fit = scale.fit(x, fmt)
        random = bits(ELEMENTS, x.shape) if isinstance(rounding, Stochastic) else None
        found = plain.round_operand(fit.scaled(x), fmt, slot, random, fit, want_inside=want_inside)
    else:
        codes, fit = scale.encode(x, fmt, rounding, bits)
        ints = fmt.decode(codes) if fmt.unit is None else fmt.integers(codes)
        limit = None if fmt.unit is None else fmt.max_integer
        found = Operand(ints, fit.scale * (fmt.unit or 1.0), limit)
        if want_inside:
            found.inside = (fit.scaled(x).abs() <= fmt.max_value).float()
    if found.multiplier is not None and not _broadcasts(found.multiplier, x.shape):
        found.multiplier = spread(found.multiplier, x.shape, slot.scale)
        return found, fit
    return found, None


def spread(scale: Tensor, shape: Sequence[int], config: ScaleConfig) -> Tensor:
    """A scale of blocks with one number for each element of a tensor of `shape`.

    >>> from nybble.quantizers import AbsMax
    >>> spread(torch.tensor([[1.0, 2.0]]), (1, 3), AbsMax("block", block=2))
    tensor([[1., 1., 2.]])
    """
    for dim, (have, want) in enumerate(zip(scale.shape, shape, strict=True)):
        if have not in (1, want):
            block = _block(config, have, want)
            scale = scale.repeat_interleave(block, dim=dim).narrow(dim, 0, want)
    return scale


def _block(config: ScaleConfig, have: int, want: int) -> int:
    block: int = getattr(config, "block", 0)
    if block < 1 or -(-want // block) != have:
        raise NybbleError(f"{config.short}: {have} scales for {want} elements")
    return block


def _broadcasts(scale: Tensor, shape: Sequence[int]) -> bool:
    return scale.dim() == 0 or (
        scale.dim() == len(shape)
        and all(have in (1, want) for have, want in zip(scale.shape, shape, strict=True))
    )


# ---- what is kept for backward ------------------------------------------------------------------


def store(found: Operand, slot: Quantizer | None, fit: Fit | None) -> list[Tensor]:
    """[codes, scales, a second scale or zero point, mask], in the order of contiguous tensors."""
    inside = None if found.inside is None else found.inside.contiguous()
    lined = Operand(found.tensor.contiguous(), found.multiplier, found.limit, None)
    lined.zero_point = found.zero_point
    if fit is None:
        return plain.store(lined, slot, inside)
    lined.multiplier = None
    codes, _, none, mask = plain.store(lined, slot, inside)
    if fit.scale_codes is None:
        return [codes, fit.scale.clone(), none, mask]
    whole = fit.factor if fit.global_scale is None else fit.global_scale
    return [codes, fit.scale_codes.clone(), none if whole is None else whole.clone(), mask]


def restore(
    saved: list[Tensor],
    slot: Quantizer | None,
    raw: Tensor | None,
    shape: tuple[int, ...],
    like: torch.memory_format = torch.contiguous_format,
) -> Operand:
    """The operand of `store`; `raw`: the tensor of a slot that keeps no codes. `like`: the layout
    that the Gemm wants."""
    blocks = slot is not None and raw is None and _keeps_scales(saved, shape)
    if not blocks or slot is None:
        found = plain.restore(saved, slot, raw, shape, False)
    else:
        found = plain.restore(
            [saved[0], *[_empty(saved[0])] * 2, saved[3]], slot, None, shape, False
        )
        scale = _scale(saved[1], saved[2], slot.scale)
        found.multiplier = spread(scale, shape, slot.scale) * (slot.format.unit or 1.0)
    if like is torch.channels_last and len(shape) == 4:
        found.tensor = found.tensor.contiguous(memory_format=like)
    return found


def keeps(slot: Quantizer | None) -> bool:
    """Whether codes of a weight are kept (and not the weight read again)."""
    return not rereads(slot)


def _keeps_scales(saved: list[Tensor], shape: tuple[int, ...]) -> bool:
    scale = saved[1]
    return scale.dtype is torch.uint8 or (scale.numel() > 0 and not _broadcasts(scale, shape))


def _scale(codes: Tensor, whole: Tensor, config: Any) -> Tensor:
    """float32 scales of their stored form: fl(decoded code x the float32 scale or factor)."""
    if codes.dtype is not torch.uint8:
        return codes
    scale = get_format(config.scale_format).decode(codes)
    if not whole.numel():
        return scale
    outer = getattr(config, "outer", None)
    if whole.dim() and outer is not None:
        for dim, (have, want) in enumerate(zip(whole.shape, scale.shape, strict=True)):
            if have != want:  # the last outer block may be shorter
                whole = whole.repeat_interleave(outer // config.block, dim).narrow(dim, 0, want)
    return whole * scale


def _empty(like: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.float32, device=like.device)
