"""Packed codes as the native Gemms see them: bytes, a shape, and a table of integers.

    integer(code) = table[code]        16 entries for codes of up to 4 bits, 256 for 8 bits

One kernel then serves every format. `low` and `high` bound the integers that occur: kernels choose
their accumulators by them. A zero point is part of the table (integer - zero point), so a two-sided
INT4 operand is just another table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.formats import Format
from nybble.ops.native.buffers import span

__all__ = ["Codes", "table_of"]


@dataclass(frozen=True)
class Codes:
    """An operand of a native Gemm.

    packed: uint8, flat. bits <= 4: blocks of 64 codes (`quantizers/packing.py`); 5 to 8: one code
        a byte. Codes are in C order of `shape`.
    shape: matrices [rows, columns]; images [N, H, W, C]; convolution weights [O, kh, kw, I / g].
    table: int16, 16 or 256 entries. low, high: the least and the largest integer that can occur
        (always including 0, which padding is made of).
    bits: of the code.
    """

    packed: Tensor
    shape: tuple[int, ...]
    table: Tensor
    low: int
    high: int
    bits: int = 4

    @classmethod
    def of(
        cls,
        packed: Tensor,
        shape: tuple[int, ...],
        fmt: Format,
        zero_point: int = 0,
        *,
        encoded: bool = True,
    ) -> Codes:
        """Codes of a format with a unit; `encoded` promises that the format's encoder made them
        (the encoder of int4_sym never emits -8, which tightens the bounds).

        >>> from nybble.formats import get_format
        >>> codes = Codes.of(torch.zeros(32, dtype=torch.uint8), (2, 5), get_format("uint4"))
        >>> codes.low, codes.high
        (0, 15)
        """
        table, low, high = table_of(fmt, zero_point, encoded)
        return cls(packed, shape, table, low, high, 4 if fmt.bits <= 4 else 8)

    @property
    def operand(self) -> tuple[tuple[int, int], tuple[int, int], int, int, int]:
        """(span of `packed`, span of `table`, bits, low, high), as the kernels take them.

        What `span` checks is checked once: it cannot change while the memory stays where it is.
        """
        kept: tuple[tuple[int, int], tuple[int, int], int, int, int] | None
        kept = self.__dict__.get("_operand")
        if kept is None or kept[0][0] != self.packed.data_ptr():
            packed = span(self.packed, torch.uint8, "codes")
            kept = packed, table_span(self.table), self.bits, self.low, self.high
            self.__dict__["_operand"] = kept
        return kept

    @property
    def limit(self) -> int:
        """The largest magnitude."""
        return max(-self.low, self.high)


@lru_cache(maxsize=256)
def table_span(table: Tensor) -> tuple[int, int]:
    """`span` of a table of integers; by identity, since tables are few and kept."""
    return span(table, torch.int16, "table")


@lru_cache(maxsize=1024)
def table_of(fmt: Format, zero_point: int = 0, encoded: bool = True) -> tuple[Tensor, int, int]:
    """(int16 table, low, high) of a format with a unit, at most 8 bits and int16 integers.

    >>> from nybble.formats import get_format
    >>> table_of(get_format("int4_sym"))[1:]
    (-7, 7)
    """
    if fmt.unit is None or fmt.max_integer is None or fmt.bits > 8:
        raise NybbleError(f"{fmt.name} has no table of integers")
    size = 16 if fmt.bits <= 4 else 256
    codes = torch.arange(1 << fmt.bits, dtype=torch.uint8)
    ints = fmt.integers(codes).to(torch.int64)
    used = ints[ints.abs() <= fmt.max_integer] if encoded else ints
    used = used - zero_point
    table = torch.zeros(size, dtype=torch.int64)
    table[: ints.numel()] = ints - zero_point
    low, high = min(int(used.min()), 0), max(int(used.max()), 0)
    if low < -(2**15) or high >= 2**15:
        raise NybbleError(f"{fmt.name} has integers beyond 16 bits: {low} to {high}")
    return table.to(torch.int16), low, high
