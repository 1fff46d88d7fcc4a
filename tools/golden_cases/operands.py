"""Random operands of the integer kernels: packed codes, tables, bounds, and the integers they mean.

The extremes are asked for by name (`values.FILLS`): all at the largest integer, all at the least,
or a random choice of the two, which is where an accumulator overflows or a byte saturates.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from golden_cases.values import Value
from nybble.formats import Format, get_format
from nybble.ops.native.codes import table_of
from nybble.quantizers.packing import pack_codes

__all__ = ["Operand", "operand"]


@dataclass(frozen=True)
class Operand:
    """Codes as the kernels take them, and the same as float64 integers of `shape`."""

    packed: Tensor
    table: Tensor
    low: int
    high: int
    bits: int
    ints: Tensor

    def values(self, name: str) -> dict[str, Value]:
        """The arrays of a case, with `name` in their names."""
        return {
            f"packed_{name}": self.packed,
            f"table_{name}": self.table,
            f"low_{name}": self.low,
            f"high_{name}": self.high,
            f"bits_{name}": self.bits,
        }


def operand(
    fmt: str | Format,
    shape: tuple[int, ...],
    fill: str,
    generator: torch.Generator,
    zero_point: int = 0,
) -> Operand:
    """Codes of every integer that the format's encoder can make, as `fill` says.

    >>> operand("uint4", (2, 3), "high", torch.Generator()).ints.tolist()
    [[15.0, 15.0, 15.0], [15.0, 15.0, 15.0]]
    """
    form = get_format(fmt) if isinstance(fmt, str) else fmt
    table, low, high = table_of(form, zero_point, True)
    made = torch.arange(1 << form.bits)
    made = made[(table[made] >= low) & (table[made] <= high)]
    order = made[table[made].argsort(stable=True)]
    if fill == "high":
        codes = order[-1].expand(shape)
    elif fill == "low":
        codes = order[0].expand(shape)
    elif fill == "mixed":
        codes = order[[0, -1]][torch.randint(0, 2, shape, generator=generator)]
    else:
        codes = made[torch.randint(0, len(made), shape, generator=generator)]
    flat = codes.reshape(prod(shape)).to(torch.uint8)
    bits = 4 if form.bits <= 4 else 8
    return Operand(
        pack_codes(flat, bits), table, low, high, bits, table.double()[codes.reshape(shape)]
    )


def scale(generator: torch.Generator, *shape: int) -> Tensor:
    """Positive float32 numbers that are no powers of two."""
    return torch.rand(shape, generator=generator) * 0.01 + 1e-4
