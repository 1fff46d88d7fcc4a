"""Integer formats of 2 to 8 bits: INT4 in [-8, 7], its symmetric form [-7, 7], UINT4 in [0, 15].

    q = clamp(rne(x), low, high)          code = q mod 2^bits (two's complement)

where rne is round to nearest, ties to even. Source: the usual uniform quantiser; the symmetric
15-level form is the one that SAWB's coefficient set "403" is fitted to (IBM fms-model-optimizer).

The symmetric form never emits the code of -2^(bits-1) (1000 for 4 bits), which still decodes as
two's complement, like every integer unit does.

Fast path of `round_to_integers`, one thread, float32, 1 Mi elements in the L3 cache (ns/element):
clamp, round_ 0.18; with add_(0.0), which turns -0 into +0, 0.26; and nan_to_num_ about 0.36;
add 1.5*2^23, int32 clamp_, sub_ 0.29 (sends NaN to the top level); nan_to_num first 0.33 (chosen:
its bounds saturate infinities for free); blocks of 2^16 elements 0.45 (call overhead eats the
cache gain). A NaN check by sum costs the same as nan_to_num_ and stalls an accelerator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.formats.base import Format, Special, as_float32, step_up, unit_random
from nybble.formats.hash_once import hash_once
from nybble.formats.rounding import Nearest, Rounding, Stochastic


@hash_once
@dataclass(frozen=True)
class Integer(Format):
    """Integers of 2 to 8 bits.

    Args:
        bits: 2 to 8.
        signed: two's complement when true, 0 .. 2^bits - 1 when false.
        symmetric: signed only: leaves out -2^(bits-1).

    >>> Integer(4).low, Integer(4, symmetric=True).low, Integer(4, signed=False).high
    (-8, -7, 15)
    """

    bits: int
    signed: bool = True
    symmetric: bool = False

    @property
    def high(self) -> int:
        """The largest integer."""
        return (1 << (self.bits - self.signed)) - 1

    @property
    def low(self) -> int:
        """The smallest integer that encoding gives."""
        return (-self.high if self.symmetric else -self.high - 1) if self.signed else 0

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or self.bits not in range(2, 9):
            raise UserError(f"Integer: bits is {self.bits!r}; choose 2 to 8.")
        if self.symmetric and not self.signed:
            raise UserError("Integer: symmetric=True needs signed=True.")
        low, high = self.low, self.high
        self._set(
            name=("int" if self.signed else "uint") + str(self.bits) + "_sym" * self.symmetric,
            unit=1.0,
            max_integer=max(high, -low),
            max_value=float(high),
            default_rounding=Nearest(),
            special=Special(
                nan="no code; encoded as 0",
                infinity=f"saturates to {low} / {high}",
                overflow=f"saturates to {low} / {high}",
                underflow="rounds to 0 (ties to even: 0.5 -> 0)",
                negative_zero="does not exist; encoded as 0",
            ),
            source="two's complement integers" if self.signed else "unsigned integers",
            certainty="standard",
        )

    def values(self) -> tuple[float, ...]:
        """Return the value of every code.

        >>> Integer(2).values()
        (0.0, 1.0, -2.0, -1.0)
        """
        n = 1 << self.bits
        return tuple(float(c - n if self.signed and c >= n // 2 else c) for c in range(n))

    def round_to_integers(
        self,
        x: Tensor,
        rounding: Rounding | None = None,
        random: Tensor | None = None,
        *,
        out: Tensor | None = None,
        nan_free: bool = False,
    ) -> Tensor:
        """Return clamp(round(x)) as float32; see `Format.round_to_integers`.

        >>> INT4 = Integer(4)
        >>> INT4.round_to_integers(torch.tensor([float("nan"), -0.2, 2.5, float("inf")]))
        tensor([0., 0., 2., 7.])
        """
        chosen = self._rounding(rounding, (Nearest, Stochastic))
        x = as_float32(x)
        low, high = float(self.low), float(self.high)
        if nan_free:
            y = torch.clamp(x, low, high, out=out)
        else:
            y = torch.nan_to_num(x, 0.0, high, low, out=out).clamp_(low, high)
        if isinstance(chosen, Stochastic):
            u = unit_random(chosen, random, x)
            floor = torch.floor(y)
            up = step_up(y.sub_(floor), u)
            return torch.add(floor, up, out=y)
        return y.round_().add_(0.0)  # + 0.0 turns -0 into +0

    def encode(
        self, x: Tensor, rounding: Rounding | None = None, random: Tensor | None = None
    ) -> Tensor:
        """Return uint8 two's complement codes; see `Format.encode`.

        >>> Integer(4).encode(torch.tensor([-1.0, 3.4]))
        tensor([15,  3], dtype=torch.uint8)
        """
        return self.integers_to_codes(self.round_to_integers(x, rounding, random))

    def integers_to_codes(self, ints: Tensor) -> Tensor:
        """Return the codes of integers of the format; see `Format.integers_to_codes`.

        >>> Integer(4).integers_to_codes(torch.tensor([-8.0, -1.0, 7.0]))
        tensor([ 8, 15,  7], dtype=torch.uint8)
        """
        if not self.signed:
            return ints.to(torch.uint8)
        codes = ints.to(torch.int8).view(torch.uint8)
        return codes if self.bits == 8 else codes.bitwise_and_((1 << self.bits) - 1)

    def integers(self, codes: Tensor) -> Tensor:
        """Return the integer of every code by sign extension, without a table.

        >>> Integer(4).integers(torch.tensor([7, 8, 15], dtype=torch.uint8))
        tensor([ 7., -8., -1.])
        """
        if codes.dtype != torch.uint8:
            return super().integers(codes)
        if not self.signed:
            return codes.to(torch.float32)
        sign = 1 << (self.bits - 1)  # (code xor sign) - sign, modulo 256
        return codes.bitwise_xor(sign).sub_(sign).view(torch.int8).to(torch.float32)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the value of every code: the unit is 1, so it is `integers`.

        >>> Integer(4, signed=False).decode(torch.tensor([15], dtype=torch.uint8))
        tensor([15.])
        """
        return self.integers(codes)

    def round(
        self, x: Tensor, rounding: Rounding | None = None, random: Tensor | None = None
    ) -> Tensor:
        """Return decode(encode(x)): the unit is 1, so it is `round_to_integers`.

        >>> Integer(4).round(torch.tensor([-0.5, 1.5]))
        tensor([0., 2.])
        """
        return self.round_to_integers(x, rounding, random)
