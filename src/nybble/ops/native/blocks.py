"""Tensors whose scales follow blocks along a dimension, on the compiled backend.

    block_tops        max|x| of every block
    round_blocks      the integers of fl(x * inv), nearest or stochastic, in one pass
    scale_blocks      fl(x * scale)
    hadamard          the block Hadamard of `quantizers/transforms.py` along a dimension

Which number of the scales an element has follows from both shapes (`grid_of`): along a dimension
where they are as long, each has its own; where there is one number, all share it; else `block`
neighbours do. Scales lie in memory in the order of the tensor's own dimensions.

All of them give the bits of the torch code that their tests compare them with. Not done here:
formats without an integer form or of more than 16 codes, units that are no power of two, Hadamards
of strided blocks.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.formats import Format, Integer, LogFormat, Minifloat, Rounding, Stochastic
from nybble.formats.breakpoints import breakpoints, unkey
from nybble.ops.native.buffers import own, require, span, threads
from nybble.ops.native.streams import key_words
from nybble.quantizers.layout import in_memory_order, is_channels_last
from nybble.quantizers.random import RandomKey

__all__ = [
    "block_tops",
    "grid_of",
    "hadamard",
    "has_levels",
    "nearest_levels",
    "round_blocks",
    "scale_blocks",
    "stochastic_levels",
]

_MOST_CODES = 16
_LARGEST = 1 << 20  # sums of differences of integers are exact far beyond


def grid_of(shape: Sequence[int], scales: Sequence[int], block: int) -> list[tuple[int, int]]:
    """(elements, elements that share a number of the scales) of each dimension, with neighbours
    joined where the kernels may take them as one.

    >>> grid_of((8, 4, 32), (8, 4, 2), 16), grid_of((8, 4, 32), (8, 1, 1), 16)
    ([(1024, 16)], [(1024, 128)])
    """
    alike: list[tuple[int, int]] = []  # neighbours that all share, or of which nobody does, as one
    for size, count in zip(shape, scales, strict=True):
        if size == 1:
            continue
        run = 1 if count == size else size if count == 1 else block
        if -(-size // run) != count:
            raise NybbleError(f"{tuple(scales)} scales of {block} for {tuple(shape)} elements")
        before, shared = alike[-1] if alike else (0, 0)
        if shared == run == 1:
            alike[-1] = (before * size, 1)
        elif alike and shared == before and run == size:
            alike[-1] = (before * size, before * size)
        else:
            alike.append((size, run))
    joined = alike[:1]
    for size, run in alike[1:]:  # whole blocks behind lines of their own are one long line
        before, shared = joined[-1]
        if shared == 1 and size % run == 0:
            joined[-1] = (before * size, run)
        else:
            joined.append((size, run))
    return joined or [(1, 1)]


def _grid(x: Tensor, scale: Tensor, block: int) -> tuple[list[tuple[int, int]], Tensor]:
    """The grid in the order of x's memory, and the scales in that order."""
    if is_channels_last(x):
        x, scale = (t.permute(0, 2, 3, 1) for t in (x, scale))
    return grid_of(x.shape, scale.shape, block), scale.contiguous()


def block_tops(x: Tensor, dims: Sequence[int], block: int) -> Tensor:
    """max|x| of blocks of `block` elements along one dimension, or of tiles along two; float32, NaN
    where a block has one. x: float32, contiguous or channels-last.

    >>> block_tops(torch.tensor([[1.0, -2.0, 3.0]]), (1,), 2)
    tensor([[2., 3.]])
    """
    counts = [-(-n // block) if d in dims else n for d, n in enumerate(x.shape)]
    last = is_channels_last(x)
    form = torch.channels_last if last else torch.contiguous_format
    tops = torch.empty(counts, dtype=torch.float32, memory_format=form)
    if not last:
        grid = grid_of(x.shape, counts, block)
    else:
        order = (0, 2, 3, 1)
        grid = grid_of([x.shape[d] for d in order], [counts[d] for d in order], block)
    require().block_tops(span(x, torch.float32, "x"), grid, own(tops), threads())
    return tops


def _like(x: Tensor) -> Tensor:
    """Memory for a result in x's layout. Strides of dimensions of one element tell torch's
    convolutions which layout to take, so they are those that torch itself gives a new tensor."""
    last = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return torch.empty(x.shape, dtype=torch.float32, memory_format=last)


def scale_blocks(x: Tensor, scale: Tensor, block: int) -> Tensor:
    """fl(x * scale), as `quantizers.scales.fit.times_blocks`.

    >>> scale_blocks(torch.ones(1, 3), torch.tensor([[1.0, 2.0]]), 2)
    tensor([[1., 1., 2.]])
    """
    grid, numbers = _grid(x, scale, block)
    out = _like(x)
    require().scale_blocks(
        span(x, torch.float32, "x"),
        grid,
        span(numbers, torch.float32, "scale"),
        own(out),
        threads(),
    )
    return out


def round_blocks(
    x: Tensor,
    inv: Tensor,
    block: int,
    fmt: Format,
    rounding: Rounding,
    key: RandomKey | None = None,
    first: int = 0,
) -> Tensor:
    """Integers (value / unit) of fl(x * inv) as float32, in x's layout.

    key: of stochastic rounding; element i in C order takes the bits of element `first` + i.

    >>> from nybble.formats import Nearest, get_format
    >>> inv = torch.tensor([[1.0, 0.5]])
    >>> round_blocks(torch.tensor([[5.0, 1.4, 8.0]]), inv, 2, get_format("fp4_e2m1"), Nearest())
    tensor([[8., 3., 8.]])
    """
    grid, numbers = _grid(x, inv, block)
    out = _like(x)
    given, by = span(x, torch.float32, "x"), span(numbers, torch.float32, "inv")
    if not isinstance(rounding, Stochastic):
        rule = nearest_levels(fmt, rounding)
        require().round_nearest(given, grid, by, rule, own(out), threads())
        return out
    if key is None:
        raise NybbleError("round_blocks: stochastic rounding needs a key")
    channels, pixels = 1, 1
    if is_channels_last(x):
        channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    stream = key_words(key)
    require().round_stochastic(
        *(given, grid, by, stochastic_levels(fmt), stream, first, channels, pixels),
        *(own(out), threads()),
    )
    return out


def hadamard(
    x: Tensor,
    axis: int,
    block: int,
    signs: Tensor | None,
    groups: int,
    *,
    back: bool,
    strided: bool = False,
) -> Tensor:
    """x in the basis of the Hadamard, or `back`; see `quantizers.Hadamard` for both orders.

    signs: float32, one number for each element of a group along `axis`.

    >>> hadamard(torch.tensor([3.0, 1.0]), 0, 2, None, 1, back=False)
    tensor([2.8284, 1.4142])
    """
    view = in_memory_order(x)
    place = axis if view is x else (0, 3, 1, 2)[axis]
    size = x.shape[axis] // groups
    if size * groups != x.shape[axis]:
        raise NybbleError(f"hadamard: {groups} groups do not divide {x.shape[axis]} elements")
    if signs is not None and signs.numel() != size:
        raise NybbleError(f"hadamard: {size} signs are needed, got {signs.numel()}")
    out = _like(x)
    require().hadamard(
        span(x, torch.float32, "x"),
        math.prod(view.shape[:place]),
        groups,
        size,
        math.prod(view.shape[place + 1 :]),
        block,
        (0, 0) if signs is None else span(signs.contiguous(), torch.float32, "signs"),
        back,
        strided,
        own(out),
        threads(),
    )
    return out


# ---- levels -------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def has_levels(fmt: Format) -> bool:
    """Whether the kernels round to this format.

    >>> from nybble.formats import get_format
    >>> [has_levels(get_format(name)) for name in ("fp4_e2m1", "int4", "fp8_e4m3", "fp16")]
    [True, True, False, False]
    """
    if fmt.unit is None or fmt.bits > 4 or fmt.max_integer is None:
        return False
    if isinstance(fmt, Minifloat) and fmt.specials != "none":
        return False
    return math.frexp(fmt.unit)[0] == 0.5 and fmt.max_integer < _LARGEST


def _integer(fmt: Format, code: int) -> float:
    return fmt.values()[code] / fmt.require_unit()


@lru_cache(maxsize=256)
def nearest_levels(fmt: Format, rounding: Rounding) -> bytes:
    """NearestLevels of csrc/blocks/kernels.hpp."""
    found = breakpoints(fmt, rounding)
    thresholds = np.full(15, np.nan, dtype=np.float32)
    thresholds[: len(found.first) - 1] = unkey(found.first[1:])
    levels = [_integer(fmt, int(code)) for code in found.codes]
    rise = np.zeros(15, dtype=np.float32)
    rise[: len(levels) - 1] = np.diff(levels)
    # The reference rounds integers where they are: a NaN stays one until it is stored.
    nan = np.float32(np.nan if isinstance(fmt, Integer) else _integer(fmt, int(found.nan)))
    return thresholds.tobytes() + nan.tobytes() + rise.tobytes() + struct.pack("<f", levels[0])


@lru_cache(maxsize=256)
def stochastic_levels(fmt: Format) -> bytes:
    """StochasticLevels of csrc/blocks/kernels.hpp."""
    unit, values = fmt.require_unit(), fmt.values()
    magnitude = isinstance(fmt, LogFormat | Minifloat)
    if magnitude:
        levels = sorted({v / unit for v in values if v >= 0})
    else:
        low = fmt.low if isinstance(fmt, Integer) else min(values)
        levels = sorted({v / unit for v in values if v >= low})
    if len(levels) > (8 if magnitude else _MOST_CODES):
        raise NybbleError(f"{fmt.name} has {len(levels)} levels")
    gaps = [*np.diff(levels), 1.0]
    count = len(levels) - 1
    level = np.full(15, np.nan, dtype=np.float32)
    rise, widen = np.zeros(15, dtype=np.float32), np.zeros(15, dtype=np.float32)
    level[:count], rise[:count], widen[:count] = levels[1:], np.diff(levels), np.diff(gaps)
    nan = 0.0
    ends = (levels[0] * unit, levels[-1] * unit, 1.0 / unit)
    return (
        level.tobytes()
        + struct.pack("<f", levels[0])
        + rise.tobytes()
        + struct.pack("<f", nan)
        + widen.tobytes()
        + struct.pack("<ffffi", gaps[0], *ends, magnitude)
    )
