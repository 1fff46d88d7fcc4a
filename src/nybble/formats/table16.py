"""Sixteen levels that are not a regular grid of their own: a free table, and levels without zero.

`Table16(values)`: code c is the c-th given integer in int8's range, for example a grid tuned to
gradients. Nearest value; at an exact tie the neighbour with the even code, and where both codes are
even or both odd the lower code. Equal values share the lowest code.

    idx = floor(2x) + ceil(2x)

tells apart every half-integer and every open interval between two of them, and the nearest of 16
integers is constant on each: one gather in a table of 1030 entries replaces a binary search.

`ZeroLess(bits)`: 2^bits levels (k + 1/2), k = -2^(bits-1) .., with no exact zero: the levels that
SAWB's 16-level coefficients (fms-model-optimizer code 402, `ibm16`) are fitted to. The integers are
the odd numbers 2k + 1. Nearest level; x on an integer is a tie, which goes to the even k.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.formats.base import Format, Special, as_float32, step_up, unit_random
from nybble.formats.hash_once import hash_once
from nybble.formats.magnitude import stochastic_magnitude
from nybble.formats.rounding import Nearest, Rounding, Stochastic

_REACH = 257  # 2 * |x| for |x| <= 128.5; beyond it every level is on the same side


@hash_once
@dataclass(frozen=True)
class Table16(Format):
    """Any 16 integers from -128 to 127.

    Args:
        levels: 16 integers; code c decodes to levels[c]. Any order; equal ones are allowed.
        label: its name.
        origin: where it comes from.

    >>> Table16((0, 1, 2, 3, 5, 8, 13, 21, -1, -2, -3, -5, -8, -13, -21, -34)).max_integer
    34
    """

    levels: tuple[int, ...]
    label: str = "table16"
    origin: str = "a table given by the user"

    def __post_init__(self) -> None:
        levels = tuple(self.levels)
        if len(levels) != 16 or any(
            isinstance(v, bool) or not isinstance(v, int) or not -128 <= v <= 127 for v in levels
        ):
            raise UserError(f"Table16: give 16 integers from -128 to 127, not {self.levels!r}.")
        low, high = min(levels), max(levels)
        self._set(
            levels=levels,
            name=self.label,
            bits=4,
            signed=low < 0,
            unit=1.0,
            max_integer=max(high, -low),
            max_value=float(high),
            default_rounding=Nearest(),
            special=Special(
                nan=f"no code; encoded as code 0, which is {levels[0]}",
                infinity=f"saturates to {low} / {high}",
                overflow=f"saturates to {low} / {high}",
                underflow="to the nearest level" + ("" if 0 in levels else "; there is no zero"),
                negative_zero="does not exist; encoded as 0 is",
            ),
            source=self.origin,
            certainty="assumed: ties to the even code",
        )

    def values(self) -> tuple[float, ...]:
        """Return the levels in code order.

        >>> Table16(tuple(range(-8, 8))).values()[:3]
        (-8.0, -7.0, -6.0)
        """
        return tuple(float(v) for v in self.levels)

    def encode(
        self, x: Tensor, rounding: Rounding | None = None, random: Tensor | None = None
    ) -> Tensor:
        """Return uint8 codes; see `Format.encode`.

        >>> Table16(tuple(range(-8, 8))).encode(torch.tensor([0.5, 1.4, -99.0]))
        tensor([8, 9, 0], dtype=torch.uint8)
        """
        chosen = self._rounding(rounding, (Nearest, Stochastic))
        x = as_float32(x)
        if isinstance(chosen, Stochastic):
            return self._stochastic(x, unit_random(chosen, random, x))
        codes = _nearest_codes(self, x.device)
        return codes.index_select(0, _position(x).reshape(-1)).reshape(x.shape)

    def round_to_integers(
        self,
        x: Tensor,
        rounding: Rounding | None = None,
        random: Tensor | None = None,
        *,
        out: Tensor | None = None,
        nan_free: bool = False,
    ) -> Tensor:
        """Return the nearest level as float32; see `Format.round_to_integers`.

        >>> Table16(tuple(range(-8, 8))).round_to_integers(torch.tensor([0.6, -1.4]))
        tensor([ 1., -1.])
        """
        chosen = self._rounding(rounding, (Nearest, Stochastic))
        x = as_float32(x)
        if isinstance(chosen, Stochastic):
            result = self._one_of_two(x, unit_random(chosen, random, x))
        else:
            table = _nearest_values(self, x.device)
            result = table.index_select(0, _position(x).reshape(-1)).reshape(x.shape)
        return result if out is None else out.copy_(result)

    def _one_of_two(self, x: Tensor, u: Tensor) -> Tensor:
        """The lower or the upper neighbour: levels are integers, so floor(x) finds the lower one by
        a gather, where a binary search takes three times as long. A NaN gives code 0's level."""
        low, high = min(self.levels), max(self.levels)
        y = x.nan_to_num(0.0, float(high), float(low)).clamp_(low, high)
        below, gap = _neighbours(self, x.device)
        place = torch.floor(y).sub_(low).to(torch.int32).reshape(-1)
        lower = below.index_select(0, place).view(x.shape)
        width = gap.index_select(0, place).view(x.shape)
        result = step_up(y.sub_(lower).div_(width), u).mul_(width).add_(lower)
        if self.levels[0] != 0:
            result.masked_fill_(x.isnan(), float(self.levels[0]))
        return result

    def _stochastic(self, x: Tensor, u: Tensor) -> Tensor:
        order = sorted(set(self.levels))
        rank_to_code = torch.tensor(
            [self.levels.index(v) for v in order], dtype=torch.uint8, device=x.device
        )
        levels = torch.tensor(order, dtype=torch.float32, device=x.device)
        rank = stochastic_magnitude(levels, x.nan_to_num(0.0), u)
        codes = rank_to_code.index_select(0, rank.reshape(-1)).reshape(x.shape)
        return codes.masked_fill_(x.isnan(), 0)


def _position(x: Tensor) -> Tensor:
    """Return floor(2x) + ceil(2x), shifted to start at 1 (int32); NaN gives 0."""
    y = x.mul(2.0).clamp_(-_REACH, _REACH)
    low = torch.floor(y)
    y.ceil_().add_(low).nan_to_num_(-2.0 * _REACH - 1.0)
    return y.add_(2.0 * _REACH + 1.0).to(torch.int32)


def _choose(levels: tuple[int, ...], position: int) -> int:
    """Return the code for one position (0 is NaN) by exact integer distances."""
    if position == 0:
        return 0
    four_x = position - 2 * _REACH - 1  # 4x on the half-integers; between two, any x there does
    first = [levels.index(v) for v in levels]
    return min(first, key=lambda c: (abs(4 * levels[c] - four_x), c & 1, c))


@lru_cache(maxsize=64)
def _neighbours(fmt: Table16, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each integer from the lowest level to the highest: the level at or below it, and the
    distance of the next one (1 at the top, where nothing is above)."""
    order = sorted(set(fmt.levels))
    below = [max(v for v in order if v <= i) for i in range(order[0], order[-1] + 1)]
    gaps = [min((v for v in order if v > low), default=low + 1) - low for low in below]
    return (
        torch.tensor(below, dtype=torch.float32, device=device),
        torch.tensor(gaps, dtype=torch.float32, device=device),
    )


@lru_cache(maxsize=64)
def _nearest_codes(fmt: Table16, device: torch.device) -> Tensor:
    codes = [_choose(fmt.levels, p) for p in range(4 * _REACH + 2)]
    return torch.tensor(codes, dtype=torch.uint8, device=device)


@lru_cache(maxsize=64)
def _nearest_values(fmt: Table16, device: torch.device) -> Tensor:
    return fmt.decode(_nearest_codes(fmt, device))


@hash_once
@dataclass(frozen=True)
class ZeroLess(Format):
    """2^bits levels at the odd multiples of one half, symmetric, without zero.

    >>> ZeroLess(2).values()
    (0.5, 1.5, -1.5, -0.5)
    """

    bits: int = 4

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or self.bits not in range(2, 9):
            raise UserError(f"ZeroLess: bits is {self.bits!r}; choose 2 to 8.")
        top = (1 << self.bits) - 1
        self._set(
            name=f"int{self.bits}_zeroless",
            signed=True,
            unit=0.5,
            max_integer=top,
            max_value=top / 2,
            default_rounding=Nearest(),
            special=Special(
                nan="no code; encoded as code 0, which is 0.5",
                infinity=f"saturates to -{top / 2:g} / {top / 2:g}",
                overflow=f"saturates to -{top / 2:g} / {top / 2:g}",
                underflow="there is no zero: the nearest of -0.5 and 0.5, and 0.5 at 0",
                negative_zero="as +0: encoded as 0.5",
            ),
            source="IBM fms-model-optimizer, SAWB with 2^b levels (Choi et al. 2018)",
            certainty="published; assumed: ties to the even code, two's complement k",
        )

    def values(self) -> tuple[float, ...]:
        """Return k + 1/2, the code being k in two's complement.

        >>> ZeroLess(4).values()[7:9]
        (7.5, -7.5)
        """
        n = 1 << self.bits
        return tuple((c - n if c >= n // 2 else c) + 0.5 for c in range(n))

    def round_to_integers(
        self,
        x: Tensor,
        rounding: Rounding | None = None,
        random: Tensor | None = None,
        *,
        out: Tensor | None = None,
        nan_free: bool = False,
    ) -> Tensor:
        """Return the odd integers 2k + 1 as float32; see `Format.round_to_integers`.

        >>> ZeroLess(4).round_to_integers(torch.tensor([0.0, 0.9, 1.0, -1.2]))
        tensor([ 1.,  1.,  1., -3.])
        """
        chosen = self._rounding(rounding, (Nearest, Stochastic))
        x = as_float32(x)
        top = self.max_value
        if nan_free:
            y = torch.clamp(x, -top, top, out=out)
        else:
            y = torch.nan_to_num(x, 0.5, top, -top, out=out).clamp_(-top, top)
        if isinstance(chosen, Stochastic):
            return self._stochastic(y, unit_random(chosen, random, x))
        # floor + ceil is 2k + 1 between two integers; on an integer j it is 2j, and
        # (2j - 1) / 2 rounds to the even one of j - 1 and j.
        floor = torch.floor(y)
        k = y.ceil_().add_(floor).sub_(1.0).mul_(0.5).round_()
        return k.mul_(2.0).add_(1.0)

    def _stochastic(self, y: Tensor, u: Tensor) -> Tensor:
        levels = torch.tensor(sorted(self.values()), dtype=torch.float32, device=y.device)
        rank = stochastic_magnitude(levels, y, u)
        return torch.mul(rank, 2.0, out=y).sub_(float(self.max_integer or 0))

    def encode(
        self, x: Tensor, rounding: Rounding | None = None, random: Tensor | None = None
    ) -> Tensor:
        """Return k in two's complement, uint8; see `Format.encode`.

        >>> ZeroLess(4).encode(torch.tensor([7.9, -7.5]))
        tensor([7, 8], dtype=torch.uint8)
        """
        return self.integers_to_codes(self.round_to_integers(x, rounding, random))

    def integers_to_codes(self, ints: Tensor) -> Tensor:
        """Return the codes of odd integers; see `Format.integers_to_codes`.

        >>> ZeroLess(4).integers_to_codes(torch.tensor([1.0, -15.0]))
        tensor([0, 8], dtype=torch.uint8)
        """
        k = torch.floor(ints * 0.5).to(torch.int8).view(torch.uint8)
        return k if self.bits == 8 else k.bitwise_and_((1 << self.bits) - 1)

    def round(
        self, x: Tensor, rounding: Rounding | None = None, random: Tensor | None = None
    ) -> Tensor:
        """Return decode(encode(x)); see `Format.round`.

        >>> ZeroLess(4).round(torch.tensor([0.1, -3.2]))
        tensor([ 0.5000, -3.5000])
        """
        return self.round_to_integers(x, rounding, random).mul_(0.5)
