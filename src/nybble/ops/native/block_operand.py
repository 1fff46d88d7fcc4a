"""Operands in blocks, and turned ones, as `ops/reference/composite_operand.py` makes them.

    turn        the Hadamard of a Gemm, as a kernel (blocks.py)
    quantize    the same function with the same result: the turn, the maxima, and the rounding of
                the elements are kernels; the scales of the blocks, one number in 16 or 32, are the
                reference's own code

The Gemm of such operands is one of values: torch's, on both backends, since scales vary along its
sum. What this does not have (scales that are tried out, learned or split; formats of more than 16
codes) goes to the reference's function, which is the definition.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import prod

import torch
from torch import Tensor, nn

from nybble.formats import Format, Nearest
from nybble.ops.native.blocks import block_tops, hadamard, has_levels, round_blocks, scale_blocks
from nybble.ops.reference import composite_operand as reference
from nybble.ops.reference.composite_operand import Blocks, Streams
from nybble.ops.reference.operand import SAMPLE, Draw, Operand
from nybble.ops.reference.places import FIRST_SLOT, Place
from nybble.quantizers import AbsMax, Fit, FourOverSix, Quantizer, Stochastic
from nybble.quantizers.layout import is_channels_last
from nybble.quantizers.scales.blocks import block_layout
from nybble.quantizers.transforms import ELEMENTS, STREAM, Hadamard

__all__ = ["quantize", "turn"]


class _Blocks(Blocks):
    """`Blocks` whose values a kernel multiplies."""

    def facing(
        self, free: int, result_dim: int, result_rank: int
    ) -> tuple[Tensor, Tensor | None, int | None]:
        assert self.multiplier is not None  # blocks have scales
        return scale_blocks(self.tensor, self.multiplier, self.block), None, None


def turn(
    x: Tensor, transform: Hadamard | None, place: Place, draw: Draw, *, back: bool = False
) -> Tensor:
    """x in (or `back` from) the basis of a Gemm's transform, as the reference's `turn`."""
    if transform is None or not _readable(x):
        return reference.turn(x, transform, place, draw, back=back)
    size = x.shape[place.contraction] // place.groups
    bits = Streams(draw, FIRST_SLOT[place.gemm]).on(x.device)
    signs = transform.sign_vector(size, bits, x.device)
    axis = place.contraction % x.dim()
    strided = transform.order == "strided"
    return hadamard(x, axis, transform.block, signs, place.groups, back=back, strided=strided)


def quantize(
    x: Tensor,
    slot: Quantizer | None,
    place: Place,
    streams: Streams,
    alpha: Tensor | None = None,
    *,
    want_inside: bool = False,
) -> tuple[Operand, Fit | None]:
    """The operand, and its fit, as the reference's `quantize`."""
    if slot is None or not _readable(x):
        return reference.quantize(x, slot, place, streams, alpha, want_inside=want_inside)
    if slot.transform is not None:
        x, slot = turn(x, slot.transform, place, streams.draw), _unturned(slot)
    if _in_blocks(slot) and x.numel():
        return _quantize(x, slot, place, streams)
    return reference.quantize(x, slot, place, streams, alpha, want_inside=want_inside)


def _readable(x: Tensor) -> bool:
    dense = x.is_contiguous() or is_channels_last(x)
    plain = type(x) in (Tensor, nn.Parameter) and x.is_cpu and x.dtype is torch.float32
    return plain and dense and not x.is_neg()


@lru_cache(maxsize=256)
def _unturned(slot: Quantizer) -> Quantizer:
    return replace(slot, transform=None)


@lru_cache(maxsize=256)
def _in_blocks(slot: Quantizer) -> bool:
    scale = slot.scale
    known = isinstance(scale, FourOverSix) or (
        isinstance(scale, AbsMax) and scale.granularity in ("block", "tile")
    )
    return known and has_levels(slot.format)


def _error(x: Tensor, fit: Fit, fmt: Format, scale: FourOverSix) -> Tensor:
    """Of every block, rounded to nearest with one of two scales."""
    values = round_blocks(x, fit.inv, scale.block, fmt, Nearest()).mul_(fmt.require_unit())
    return scale.error_of_(scale_blocks(values, fit.scale, scale.block).sub_(x), fit.axis or 0)


def _quantize(
    x: Tensor, slot: Quantizer, place: Place, streams: Streams
) -> tuple[Operand, Fit | None]:
    fmt, rounding = slot.format, slot.rounding or slot.format.default_rounding
    scale = slot.scale.along(place.contraction, place.free)
    assert isinstance(scale, AbsMax | FourOverSix)  # `_in_blocks`
    info = block_layout(type(scale).__name__, x, scale.granularity, scale.axis, scale.block)
    dims = (0, 1) if scale.granularity == "tile" else (info["axis"],)
    tops = block_tops(x, dims, scale.block)
    if isinstance(scale, FourOverSix):
        fit = scale.fit_tops(tops, fmt, info, lambda fit: _error(x, fit, fmt, scale))
    else:
        fit = scale.fit_tops(tops, fmt, info)
    key, first = None, 0
    if isinstance(rounding, Stochastic):
        number = streams.slot + STREAM * ELEMENTS + SAMPLE * streams.sample
        key = streams.draw.key(number)
        if streams.rows is not None:  # a step's rows of a whole sequence
            first = streams.rows.start * prod(x.shape[1:])
    ints = round_blocks(x, fit.inv, scale.block, fmt, rounding, key, first)
    multiplier = fit.scale if fmt.unit == 1.0 else fit.scale * fmt.require_unit()
    found = Operand(ints, multiplier, fmt.max_integer)
    return reference.with_blocks(found, slot, fit, _Blocks)
