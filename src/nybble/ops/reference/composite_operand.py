"""An operand whose scale follows the sum, or that is turned before it is quantised.

    t = x R                       the slot's transform along the contraction, both operands' signs
    codes, fit = encode(t)        the slot's scale along the contraction or the free dimension
    multiplier = scale x unit     of blocks: it stays inside of the sum (`Blocks`)

What is kept for backward: codes, and the scales in their stored form (a byte a block for E4M3 and
E8M0 scales, with the tensor's float32 scale, or the headroom of MX scales, beside it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from nybble.formats import Stochastic, get_format
from nybble.ops.reference import operand as plain
from nybble.ops.reference.operand import SAMPLE, Draw, Operand
from nybble.ops.reference.places import FIRST_SLOT, Place
from nybble.ops.reference.storage import unflatten, unpack_mask
from nybble.quantizers import PACT, Fit, Quantizer, ScaleConfig, SplitRows, Unit, random24
from nybble.quantizers.scales.fit import times_blocks
from nybble.quantizers.transforms import ELEMENTS, SIGNS, STREAM, Bits, Hadamard

__all__ = [
    "Blocks",
    "Make",
    "Products",
    "Streams",
    "quantize",
    "restore",
    "store",
    "turn",
    "values",
    "with_blocks",
]


@dataclass
class Blocks(Operand):
    """Integers whose multiplier has one number for each `block` elements: the Gemm runs on values.

    >>> Blocks(torch.ones(1, 3), torch.tensor([[1.0, 2.0]]), 7, block=2).facing(0, 0, 2)
    (tensor([[1., 1., 2.]]), None, None)
    """

    block: int = 0

    def facing(
        self, free: int, result_dim: int, result_rank: int
    ) -> tuple[Tensor, Tensor | None, int | None]:
        return values(self), None, None


def values(found: Operand) -> Tensor:
    """What an operand's codes stand for."""
    if found.multiplier is None:
        return found.tensor
    if isinstance(found, Blocks):
        return times_blocks(found.tensor, found.multiplier, found.block)
    return found.tensor * found.multiplier


@dataclass(frozen=True)
class Streams:
    """The random bits of one operand of one call.

    rows, total: a step's part of a sequence: its bits are those rows of the whole's, which are
    drawn once for all that `step` makes. sample: which of several independent roundings.
    """

    draw: Draw
    slot: int
    rows: slice | None = None
    total: int = 0
    sample: int = 0
    drawn: dict[tuple[int, ...], Tensor] = field(default_factory=dict, compare=False)

    def step(self, row: int, count: int) -> Streams:
        """The part of the `count` rows from `row` on."""
        return replace(self, rows=slice(row, row + count))

    def __call__(self, stream: int, shape: Sequence[int], device: torch.device) -> Tensor:
        """24 random bits an element."""
        key = self.draw.key(self.slot + STREAM * stream + SAMPLE * self.sample)
        if self.rows is None or stream == SIGNS or not shape:
            return random24(shape, key, device)
        known = (stream, *shape[1:])
        if known not in self.drawn:
            self.drawn[known] = random24((self.total, *shape[1:]), key, device)
        return self.drawn[known][self.rows]

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
    return with_blocks(found, slot, fit)


def with_blocks(
    found: Operand, slot: Quantizer, fit: Fit, kind: type[Blocks] = Blocks
) -> tuple[Operand, Fit | None]:
    """An operand with its fit: as `kind` where its scales vary within its lines."""
    if found.multiplier is not None and not _broadcasts(found.multiplier, found.tensor.shape):
        return _of_blocks(found, found.multiplier, slot, kind), fit
    return found, fit if fit.scale_codes is not None else None


class Make(Protocol):
    """This module, or another with its results: who makes the operands of a layer."""

    @property
    def quantize(self) -> Quantize: ...
    @property
    def turn(self) -> Turn: ...


class Products(Protocol):
    """The module gemm.py, or another with its results: who multiplies integers."""

    @property
    def output(self) -> Callable[..., Tensor]: ...
    @property
    def grad_input(self) -> Callable[..., Tensor]: ...
    @property
    def grad_weight(self) -> Callable[..., Tensor]: ...


class Quantize(Protocol):
    """`quantize`."""

    def __call__(
        self,
        x: Tensor,
        slot: Quantizer | None,
        place: Place,
        streams: Streams,
        alpha: Tensor | None = None,
        *,
        want_inside: bool = False,
    ) -> tuple[Operand, Fit | None]: ...


class Turn(Protocol):
    """`turn`."""

    def __call__(
        self,
        x: Tensor,
        transform: Hadamard | None,
        place: Place,
        draw: Draw,
        *,
        back: bool = False,
    ) -> Tensor: ...


def _of_blocks(
    found: Operand, multiplier: Tensor, slot: Quantizer, kind: type[Blocks] = Blocks
) -> Blocks:
    block = int(getattr(slot.scale, "block", 0))
    return kind(found.tensor, multiplier, found.limit, found.inside, block=block)


def _broadcasts(scale: Tensor, shape: Sequence[int]) -> bool:
    return scale.dim() == 0 or (
        scale.dim() == len(shape)
        and all(have in (1, want) and have for have, want in zip(scale.shape, shape, strict=True))
    )


# ---- what is kept for backward ------------------------------------------------------------------


def store(
    found: Operand, slot: Quantizer | None, fit: Fit | None, last: bool = False
) -> list[Tensor]:
    """[codes, scales, a second scale or zero point, mask]; codes and mask in the order of a tensor
    that lies channels-last (`last`) or contiguous, as the layer's own does."""
    form = torch.channels_last if last else torch.contiguous_format
    inside = None if found.inside is None else found.inside.contiguous(memory_format=form)
    tensor = found.tensor.contiguous(memory_format=form)
    lined = Operand(tensor, found.multiplier, found.limit, None)
    lined.zero_point = found.zero_point
    if fit is None:
        return plain.store(lined, slot, inside)
    lined.multiplier = None
    codes, _, none, mask = plain.store(lined, slot, inside)
    if fit.scale_codes is None:
        return [codes, fit.scale.clone(), none, mask]
    times = fit.factor if fit.global_scale is None else fit.global_scale
    return [codes, fit.scale_codes.clone(), none if times is None else times.clone(), mask]


def restore(
    saved: list[Tensor],
    slot: Quantizer,
    shape: tuple[int, ...],
    last: bool = False,
    like: torch.memory_format | None = None,
) -> Operand:
    """The operand of `store`. `like`: the layout that a Gemm wants; None leaves it as it was."""
    if _keeps_scales(saved, shape):
        none = torch.empty(0, dtype=torch.float32, device=saved[0].device)
        found = plain.restore([saved[0], none, none, saved[3]], slot, None, shape, last)
        scale = _scale(saved[1], saved[2], slot.scale) * (slot.format.unit or 1.0)
        if _broadcasts(scale, shape):
            found.multiplier = scale
        else:
            found = _of_blocks(found, scale, slot)
    else:
        found = plain.restore(saved, slot, None, shape, last)
    if like is not None and len(shape) == 4:
        found.tensor = found.tensor.contiguous(memory_format=like)
    return found


def restore_mask(mask: Tensor, shape: tuple[int, ...], last: bool = False) -> Tensor | None:
    """1.0 where the clip let a number through, as `store` kept it; None where it kept nothing."""
    if not mask.numel():
        return None
    return unflatten(unpack_mask(mask, prod(shape)), shape, last)


def _keeps_scales(saved: list[Tensor], shape: tuple[int, ...]) -> bool:
    scale = saved[1]
    return scale.dtype is torch.uint8 or (scale.numel() > 0 and not _broadcasts(scale, shape))


def _scale(codes: Tensor, times: Tensor, config: Any) -> Tensor:
    """float32 scales of their stored form: fl(decoded code x the float32 scale or factor)."""
    if codes.dtype is not torch.uint8:
        return codes
    scale = get_format(getattr(config, "scale_format", "fp8_e4m3")).decode(codes)
    if not times.numel():
        return scale
    if times.dim() and times.shape != scale.shape:  # one number for each `outer` elements
        return times_blocks(scale, times, config.outer // config.block)
    return scale * times
