"""SplitRows: a gradient in two digits of 4 bits, half of whose rows are kept (Xi et al. 2023).

    G ~= scale (14 hi + lo)                       bit splitting: sampling.py
    rows  [14 hi; lo], 2 N of them                each kept with probability p_i, times 1 / p_i
    p_i   = min(1, t |row_i|), sum p_i = N        half of the rows: the work of one Gemm of 4 bits

A row is what one sample, one token or one pixel has over all channels, in both backward Gemms. The
estimate is unbiased. It is made of values: digits are multiplied by row weights that lie along the
sum of grad_weight, so no single table of 16 values holds it.

Source: see sampling.py; that p_i is proportional to the row's own length is from the authors' code
by way of notes (the paper's scores also hold the length of the other operand's row, as remembered).

Not done here: integer products of the kept rows alone; other operands than output gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from nybble.errors import UserError
from nybble.quantizers.sampling import bit_split, keep_probabilities, keep_weights
from nybble.quantizers.scales.arithmetic import square_root
from nybble.quantizers.scales.fit import Fit, ScaleConfig
from nybble.quantizers.sums import tree_sum_last
from nybble.quantizers.transforms import ELEMENTS, SCALES, Bits

if TYPE_CHECKING:
    from nybble.formats import Format, Rounding

__all__ = ["SplitRows"]


@dataclass(frozen=True)
class SplitRows(ScaleConfig):
    """See the module. limit: of a digit, 7 or, as in the public code, 6, which cuts off what is
    near the maximum. sample: whether rows are left out.

    >>> SplitRows().short
    'splitrows(7)'
    """

    limit: int = 7
    sample: bool = True

    def __post_init__(self) -> None:
        if self.limit not in (6, 7):
            raise UserError(
                f"SplitRows: limit must be 7, or 6 as the public code has it, got {self.limit}"
            )

    @property
    def draws(self) -> bool:
        return True

    def fit(self, x: Tensor, format: Format) -> Fit:
        """Refused: two digits and row weights are no single scale."""
        raise UserError(
            f"{self.short} is for the output gradients of a layer, whose rows have weights of their"
            " own; it has no codes"
        )

    def encode(
        self, x: Tensor, format: Format, rounding: Rounding | None, bits: Bits | None
    ) -> tuple[Tensor, Fit]:
        """Refused, as `fit`."""
        return x, self.fit(x, format)  # which raises

    def estimate(self, x: Tensor, channels: int, bits: Bits) -> Tensor:
        """The values that the Gemm multiplies in place of `x`; `channels`: the dimension that a row
        runs along.

        >>> import torch
        >>> from nybble.quantizers import RandomKey, random24
        >>> bits = lambda stream, shape: random24(shape, RandomKey(operand=8 * stream))
        >>> SplitRows(sample=False).estimate(torch.tensor([[98.0, -14.0]]), 1, bits)
        tensor([[ 98., -14.]])
        """
        moved = x.movedim(channels, -1)
        rows = moved.reshape(-1, moved.shape[-1])
        split = bit_split(rows, bits(ELEMENTS, rows.shape), self.limit)
        digits = split.rows()
        if self.sample and len(rows):
            lengths = square_root(tree_sum_last(digits * digits))
            # What is not finite has a NaN scale; its digits, whatever they are, shall not matter.
            chances = keep_probabilities(lengths.nan_to_num(0.0, 0.0, 0.0), float(len(rows)))
            digits = digits * keep_weights(chances, bits(SCALES, chances.shape)).unsqueeze(1)
        high, low = digits.split(len(rows)) if len(rows) else (digits, digits)
        return ((high + low) * split.scale).reshape(moved.shape).movedim(-1, channels)

    @property
    def short(self) -> str:
        return f"splitrows({self.limit}{'' if self.sample else ', all'})"
