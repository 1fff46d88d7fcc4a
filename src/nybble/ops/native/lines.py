"""Matrices with a scale of their own for each line (row, column, image), on the compiled backend.

    folded_statistics   max|x * along| of every row, max|x * across| of every column, and the tree
                        sums of the columns of x * across, in one read
    line_scales         the scales of lines with those maxima, and their inverses
    folded_pack         codes of fl(fl(x * fold) * inv) by stochastic rounding, of one operand or of
                        two in one read
    best_of_two         the scales of `quantizers.BestOfTwo` for every row
    column_sums         sums of the integers of every column of a matrix of codes
    add_outer_          out += e mu^T, product and sum both rounded

A gradient is "folded" where it is multiplied by the other operand's scale before it is quantised,
because that scale varies along the sum and could not leave it. All of them give the bits of the
torch expressions that their tests spell out.

Not done here: bfloat16, and formats of more than 4 bits.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.formats import Format, Nearest
from nybble.ops.native.buffers import own, require, span, threads, vector
from nybble.ops.native.codes import Codes
from nybble.ops.native.pool import kept
from nybble.ops.native.rules import level_rule, stochastic_rule
from nybble.ops.native.streams import key_words
from nybble.quantizers.packing import packed_bytes
from nybble.quantizers.random import RandomKey
from nybble.quantizers.scales.groups import largest_scale

__all__ = [
    "Factors",
    "Folded",
    "add_outer_",
    "best_of_two",
    "best_rule",
    "column_sums",
    "folded_pack",
    "folded_statistics",
    "line_scales",
]

_NOTHING = (0, 0)


@dataclass(frozen=True)
class Factors:
    """Element i of memory is multiplied by values[i // run % len(values)]: one number for each
    column (run 1), or numbers that last for whole rows."""

    values: Tensor
    run: int = 1


@dataclass(frozen=True)
class Folded:
    """One operand of `folded_pack`: what it is multiplied by, its format, and its random bits."""

    format: Format
    key: RandomKey
    inv: Factors
    fold: Factors | None = None


def folded_statistics(
    x: Tensor, along: Tensor | None, across: Tensor | None, *, want_sums: bool = True
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(row maxima [M], column maxima [N], column sums [N] or None) of a float32 matrix [M, N].

    along: float32 [N]; across: float32 [M]; None for ones. A line with a NaN has a NaN maximum.

    >>> x = torch.tensor([[1.0, -3.0], [0.5, 0.25]])
    >>> folded_statistics(x, torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    (tensor([6.0000, 0.5000]), tensor([2., 3.]), tensor([ 3., -2.]))
    """
    if x.dim() != 2:
        raise NybbleError(f"folded_statistics: expected a matrix, got shape {tuple(x.shape)}")
    m, n = x.shape
    rows = torch.empty(m, dtype=torch.float32)
    columns = torch.empty(n, dtype=torch.float32)
    sums = torch.empty(n, dtype=torch.float32) if want_sums else None
    require().folded_statistics(
        span(x, torch.float32, "x"),
        m,
        n,
        vector(along, n, "along"),
        vector(across, m, "across"),
        own(rows),
        own(columns),
        _NOTHING if sums is None else own(sums),
        threads(),
    )
    return rows, columns, sums


def line_scales(tops: Tensor, levels: float) -> tuple[Tensor, Tensor]:
    """(scale, inverse) of lines with those maxima: scales/arithmetic.py's `scale_of`.

    >>> line_scales(torch.tensor([14.0, 0.0]), 7.0)
    (tensor([2., 1.]), tensor([0.5000, 1.0000]))
    """
    scale, inverse = torch.empty_like(tops), torch.empty_like(tops)
    require().line_scales(
        span(tops, torch.float32, "tops"), tops.numel(), levels, own(scale), own(inverse)
    )
    return scale, inverse


def folded_pack(
    x: Tensor,
    columns: int,
    first: Folded | None,
    second: Folded | None,
    order: tuple[int, int] = (1, 1),
) -> tuple[Tensor | None, Tensor | None]:
    """Packed codes of each operand that is given, in the order of x in memory.

    columns: how many neighbours in memory make a row. order: (channels, pixels) of a channels-last
    image, whose random bits are those of its elements' places in C order.

    >>> from nybble.formats import get_format
    >>> one = Folded(get_format("int4"), RandomKey(seed=0), Factors(torch.tensor([1.0, 2.0])))
    >>> codes, _ = folded_pack(torch.tensor([[1.0, 1.0], [-3.0, 0.0]]), 2, one, None)
    >>> codes[:4].tolist()
    [1, 2, 13, 0]
    """
    n = x.numel()
    codes = [None if f is None else kept(packed_bytes(n, 4)) for f in (first, second)]
    require().folded_pack(
        span(x, torch.float32, "x"),
        n // columns if columns else 0,
        columns,
        _operand(first, codes[0]),
        _operand(second, codes[1]),
        *order,
        threads(),
    )
    return codes[0], codes[1]


def _operand(folded: Folded | None, codes: Tensor | None) -> tuple[object, ...]:
    if folded is None or codes is None:
        nothing = (_NOTHING, 1)
        return nothing, nothing, b"", (0, 0, 0, 0, 0), _NOTHING
    key = folded.key
    return (
        _factors(folded.fold),
        _factors(folded.inv),
        stochastic_rule(folded.format, 0.0),
        key_words(key),
        own(codes),
    )


def _factors(factors: Factors | None) -> tuple[tuple[int, int], int]:
    if factors is None:
        return _NOTHING, 1
    return span(factors.values, torch.float32, "factors"), factors.run


def best_of_two(x: Tensor, fmt: Format, rms: float) -> tuple[Tensor, Tensor]:
    """(scale [M], inverse [M]) of every row of a contiguous float32 matrix [M, K].

    >>> from nybble.formats import get_format
    >>> best_of_two(torch.tensor([[7.0, 1.0, 0.0]]), get_format("int4"), 0.5)
    (tensor([1.]), tensor([1.]))
    """
    if x.dim() != 2 or not x.is_contiguous():
        raise NybbleError(f"best_of_two: expected a matrix without gaps, got {tuple(x.shape)}")
    m, k = x.shape
    scale = torch.empty(m, dtype=torch.float32)
    inv = torch.empty(m, dtype=torch.float32)
    require().best_of_two(
        span(x, torch.float32, "x"), m, k, best_rule(fmt, rms), own(scale), own(inv), threads()
    )
    return scale, inv


@lru_cache(maxsize=64)
def best_rule(fmt: Format, rms: float) -> bytes:
    """BestOfTwo of csrc/lines/lines.hpp."""
    empty = float(largest_scale(torch.zeros(()), fmt))
    return level_rule(fmt, Nearest()) + struct.pack("<fff", fmt.max_value, rms, empty)


def column_sums(codes: Codes) -> Tensor:
    """int64 [N]: the sum of every column of a matrix of 4-bit codes, in integers.

    >>> from nybble.formats import get_format
    >>> from nybble.quantizers.packing import pack4
    >>> packed = pack4(torch.tensor([1, 2, 15, 3], dtype=torch.uint8))
    >>> column_sums(Codes.of(packed, (2, 2), get_format("int4"))).tolist()
    [0, 5]
    """
    if len(codes.shape) != 2 or codes.bits != 4 or codes.low < -128 or codes.high > 127:
        raise NybbleError(f"column_sums: a matrix of 4-bit codes of bytes, got {codes.shape}")
    m, n = codes.shape
    out = torch.empty(n, dtype=torch.int64)
    require().column_sums(codes.operand[0], _table_bytes(codes.table), m, n, own(out), threads())
    return out


@lru_cache(maxsize=256)
def _table_bytes(table: Tensor) -> bytes:
    """The 16 integers as bytes; by identity, since tables are few and kept."""
    return bytes(v & 255 for v in table.tolist())


def add_outer_(out: Tensor, e: Tensor, mu: Tensor) -> Tensor:
    """out[i, j] = fl(out[i, j] + fl(e[i] * mu[j])), in place; float32.

    >>> add_outer_(torch.zeros(1, 2), torch.tensor([2.0]), torch.tensor([3.0, 4.0]))
    tensor([[6., 8.]])
    """
    if out.dim() != 2:
        raise NybbleError(f"add_outer_: expected a matrix, got shape {tuple(out.shape)}")
    m, n = out.shape
    require().add_outer(
        span(out, torch.float32, "out"), m, n, vector(e, m, "e"), vector(mu, n, "mu"), threads()
    )
    return out
