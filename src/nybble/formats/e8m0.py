"""E8M0: eight exponent bits and nothing else, the block scale of the OCP MX formats.

    code c in 0 .. 254 -> 2^(c - 127),     code 255 -> NaN

Nearest rounding is the nearer power of two, a tie (1.5 * 2^n) going up, as torch and ml_dtypes do.
They differ from each other at zero (smallest value / NaN) and both send all of (2^-127, 2^-126) to
2^-126. Here zero becomes the smallest value and (2^-127, 1.5 * 2^-127) rounds down: to nearest.
The floor rule that MX uses for its shared scale belongs to the block quantizer, not to the format.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nybble.formats.base import Format, Special, as_float32, unit_random, value_table
from nybble.formats.magnitude import stochastic_magnitude
from nybble.formats.rounding import Nearest, Rounding, Stochastic

_NAN = 255


@dataclass(frozen=True)
class E8M0Format(Format):
    """The powers of two from 2^-127 to 2^127, and NaN.

    >>> E8M0Format().values()[127:130]
    (1.0, 2.0, 4.0)
    """

    def __post_init__(self) -> None:
        self._set(
            name="e8m0",
            bits=8,
            signed=False,
            unit=None,
            max_integer=None,
            max_value=2.0**127,
            default_rounding=Nearest(),
            special=Special(
                nan="code 255",
                infinity="NaN; a negative number is NaN too",
                overflow="NaN from 1.5 * 2^127 upwards (stochastic rounding saturates)",
                underflow="2^-127, zero included: the format has no zero",
                negative_zero="encoded as 2^-127, like zero",
            ),
            source="OCP Microscaling Formats (MX) 1.0",
            certainty="standard; assumed: zero, ties and overflow, which MX leaves to its users",
        )

    def values(self) -> tuple[float, ...]:
        """Return the value of every code.

        >>> E8M0Format().values()[0] == 2.0**-127
        True
        """
        return (*(2.0 ** (c - 127) for c in range(255)), math.nan)

    def encode(
        self, x: Tensor, rounding: Rounding | None = None, random: Tensor | None = None
    ) -> Tensor:
        """Return uint8 codes; see `Format.encode`.

        >>> E8M0Format().encode(torch.tensor([1.0, 1.5, 0.0, -1.0]))
        tensor([127, 128,   0, 255], dtype=torch.uint8)
        """
        chosen = self._rounding(rounding, (Nearest, Stochastic))
        x = as_float32(x)
        if isinstance(chosen, Stochastic):
            u = unit_random(chosen, random, x)
            levels = value_table(self, x.device)[:_NAN]
            codes = stochastic_magnitude(levels, x.nan_to_num(0.0, 2.0**127, 0.0), u)
        else:
            # Adding half a binade carries into the exponent from 1.5 * 2^n upwards. The lowest
            # two values are a subnormal and the smallest normal float32: 1.5 * 2^-127 is 0x600000.
            bits = x.abs().contiguous().view(torch.int32)
            normal = bits.clamp(max=0x7F800000).add_(1 << 22).bitwise_right_shift_(23)
            codes = torch.where(bits < 1 << 23, (bits >= 0x600000).to(torch.int32), normal)
        bad = (x < 0) | x.isnan() | x.isinf()
        return codes.masked_fill_(bad, _NAN).to(torch.uint8)


E8M0 = E8M0Format()
