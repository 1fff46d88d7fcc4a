"""What quantising one operand costs beside its Gemm: operations an element, and passes over it.

    passes      reads of the operand. 1 where the scale is known before (PACT's clip, a delayed
                GradScale, hindsight, no scale); 2 where a statistic of the whole tensor or row has
                to be known first (SAWB's moments, a maximum)
    operations  of one element, see the tables: the statistic, multiply by the inverse scale, round,
                clip; 5 for random bits (ten rounds of Philox give four words of 32 bits);
                log2(block) additions for a Hadamard transform

The kind of an operand is what engines are listed by: `int4`, `fp4` (a power of a base: radix 4 or
any other), `fp4_e2m1`, `table4` (16 values of 8 bits), `int8`, `fp8`, `fp16`, `fp32`.

Source: counted from the formulas in nybble.quantizers. Not done here: what a machine might do in
the Gemm's own epilogue beyond `chained` (chip.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from nybble.formats import Format, Integer, LogFormat, Minifloat, Stochastic, Table16
from nybble.ops.spec import Slot
from nybble.quantizers import Quantizer

__all__ = ["Operand", "Work", "operand_of", "work_of"]

RANDOM: Final = 5
# (operations of the statistic, whether it needs a pass of its own, operations an element beyond
# multiply, round and clip)
_SCALES: Final[dict[str, tuple[int, bool, int]]] = {
    "Unit": (0, False, 0),
    "PACT": (0, False, 0),
    "LSQ": (0, False, 1),
    "GradScale": (2, False, 0),  # its maximum comes out of the same pass, for the next step
    "Hindsight": (2, False, 0),
    "SAWB": (3, True, 0),  # |x|, x^2 and their sums
    "AbsMax": (2, True, 0),
    "MinMax": (2, True, 1),
    "BestOfTwo": (3, True, 6),  # both scales are tried, squared errors compared
    "SplitRows": (2, True, 2),
    "Quest": (3, True, 2),
    "FourOverSix": (2, True, 6),
    "Eden": (2, True, 4),
    "RowLeastSquares": (2, True, 3),
}
_UNKNOWN: Final = (3, True, 2)


@dataclass(frozen=True)
class Operand:
    """Kind and width of an operand as a machine holds it; `block`: elements that share a scale
    along the sum, 0 where the scale leaves it."""

    kind: str
    bits: int
    block: int = 0


@dataclass(frozen=True)
class Work:
    """Of quantising one element; `own_pass`: the statistic needs the tensor before it is used."""

    operations: int
    own_pass: bool


def operand_of(slot: Slot) -> Operand:
    """The kind of a slot's operand; None is float32.

    >>> from nybble.formats import get_format
    >>> from nybble.quantizers import PACT
    >>> operand_of(Quantizer(get_format("uint4"), PACT()))
    Operand(kind='int4', bits=4, block=0)
    >>> operand_of(None).kind
    'fp32'
    """
    if slot is None:
        return Operand("fp32", 32)
    kind = kind_of_format(slot.format)
    block = 0
    if getattr(slot.scale, "granularity", "") in ("block", "tile"):
        block = int(getattr(slot.scale, "block", 0) or 0)
    elif type(slot.scale).__name__ in ("FourOverSix", "Eden"):
        block = 16
    return Operand(kind, slot.format.bits, block)


def kind_of_format(fmt: Format) -> str:
    """The kind of a number format.

    >>> from nybble.formats import get_format
    >>> [kind_of_format(get_format(n)) for n in ("fp4_radix4", "fp8_152", "bf16", "g31", "int8")]
    ['fp4', 'fp8', 'fp16', 'table4', 'int8']
    """
    if isinstance(fmt, LogFormat):
        return "fp4" if fmt.bits <= 4 else "fp8"
    if isinstance(fmt, Table16):
        return "table4"
    if isinstance(fmt, Integer):
        return "int2" if fmt.bits <= 2 else "int4" if fmt.bits <= 4 else "int8"
    if isinstance(fmt, Minifloat):
        return "fp4_e2m1" if fmt.bits <= 4 else "fp8" if fmt.bits <= 8 else "fp16"
    return "table4" if fmt.bits <= 4 else "fp8" if fmt.bits <= 8 else "fp16"


def work_of(slot: Quantizer) -> Work:
    """What one element costs.

    >>> from nybble.formats import get_format
    >>> from nybble.quantizers import SAWB, Unit
    >>> work_of(Quantizer(get_format("int4_sym"), SAWB()))
    Work(operations=6, own_pass=True)
    >>> work_of(Quantizer(get_format("fp16"), Unit()))
    Work(operations=1, own_pass=False)
    """
    statistic, own_pass, extra = _SCALES.get(type(slot.scale).__name__, _UNKNOWN)
    mode = getattr(slot.scale, "mode", None)
    if mode in ("fit", "immediate"):
        own_pass = True
    if getattr(slot.scale, "granularity", "") in ("block", "tile") and not getattr(
        slot.scale, "outer", None
    ):
        own_pass = getattr(slot.scale, "scale_format", "e8m0") != "e8m0"  # a block is read once
    bare = type(slot.scale).__name__ == "Unit" and kind_of_format(slot.format) in ("fp16", "fp8")
    operations = 1 if bare else 3 + statistic + extra
    if isinstance(slot.rounding, Stochastic):
        operations += RANDOM
    if slot.transform is not None:
        operations += int(math.log2(max(2, slot.transform.block)))
        operations += slot.transform.signs == "random"
    return Work(operations, own_pass)
