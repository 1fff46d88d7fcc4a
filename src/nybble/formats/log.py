"""Logarithmic formats: one sign bit, all other bits exponent, in any base from 2 to 16.

    code = s m,  m = 0 -> 0,   m >= 1 -> (-1)^s * base^(m - bias),   bias = 2^(bits - 2)

Four bits give 7 magnitudes and zero. Base 4 is FP4_RADIX4 of Sun et al. (NeurIPS 2020): 4^-3 ..
4^3, chosen over base 2 for its range of 4096. Its odd phase is the same grid times 2^odd_offset:
the second grid of two-phase rounding. The value set comes from reading notes of the paper and
from a public patent; that zero takes code 0, which offset the odd grid has and what underflow does
is not stated in any text that was found: they are switches here (`odd_offset`,
`LogNearest.underflow`).

Rounding (`LogNearest`): level b^n from b^n / factor upwards. With the exact midpoint factor of
base 4 the threshold is 0.625 * 4^n, whose float32 bits are bits(0.625) + n * 2^24: two octaves are
one step of 2^24 in the bit pattern. So, with c chosen to bring the thresholds to multiples of 2^24,

    (bits(x) + c) & 0xFF000000   is a power of 4 (times a constant), with the sign in place,

in two integer passes, exactly, with no logarithm and no table. Any other factor is another c: the
smallest float32 at or above the threshold decides. A NaN carries out of the exponent field and
becomes a tiny number; the last pass (hardshrink) turns all that is below the smallest level to +0.
Times: see `two_phase.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.formats.aligned import AlignedPlan, hardshrink_
from nybble.formats.base import Format, Special, as_float32, step_up, unit_random, value_table
from nybble.formats.exact import (
    float32_above,
    float32_at_least,
    float32_bits,
    nearest_float32,
    number,
)
from nybble.formats.hash_once import hash_once
from nybble.formats.magnitude import count_thresholds, stochastic_magnitude, with_sign
from nybble.formats.rounding import LogNearest, Nearest, Rounding, Stochastic

#: Octaves per level of the bases whose levels are equally spaced, aligned bit patterns.
_ALIGNED_OCTAVES = {2: 1, 4: 2, 16: 4}


@hash_once
@dataclass(frozen=True)
class LogFormat(Format):
    """Sign and exponent, no mantissa.

    Args:
        base: 2 to 16; the published formats are base 4 (FP4_RADIX4) and base 2 (FP4_RADIX2).
        bits: 2 to 8.
        phase: "even", or "odd" (base 4 only): the even grid times 2^odd_offset.
        odd_offset: -1 (levels 4^n / 2, top 32) or +1 (levels 2 * 4^n, top 128).

    >>> sorted(set(LogFormat(4, 4).values()))[8:]
    [0.015625, 0.0625, 0.25, 1.0, 4.0, 16.0, 64.0]
    >>> LogFormat(4, 4, phase="odd").max_value
    32.0
    """

    base: int
    bits: int = 4
    phase: str = "even"
    odd_offset: int = -1

    def __post_init__(self) -> None:
        if isinstance(self.base, bool) or self.base not in range(2, 17):
            raise UserError(f"LogFormat: base is {self.base!r}; choose 2 to 16.")
        if isinstance(self.bits, bool) or self.bits not in range(2, 9):
            raise UserError(f"LogFormat: bits is {self.bits!r}; choose 2 to 8.")
        if self.phase not in ("even", "odd"):
            raise UserError(f"LogFormat: phase is {self.phase!r}; choose 'even' or 'odd'.")
        if self.odd_offset not in (-1, 1):
            raise UserError(f"LogFormat: odd_offset is {self.odd_offset!r}; choose -1 or 1.")
        if self.phase == "odd" and self.base != 4:
            raise UserError(f"LogFormat: only base 4 has an odd phase, not base {self.base}.")
        if self.phase == "even":
            self._set(odd_offset=-1)  # no meaning here; one value keeps equality simple
        levels = self.magnitudes()
        if levels[0] < Fraction(2) ** -120 or levels[-1] > Fraction(2) ** 120:
            raise UserError(
                f"LogFormat: base {self.base} with {self.bits} bits spans more than float32; "
                "use fewer bits."
            )
        small = nearest_float32(levels[0])
        top_integer = self.base ** (len(levels) - 1)
        exact = top_integer < 2**120 and Fraction(nearest_float32(Fraction(top_integer))) == (
            top_integer
        )
        top = nearest_float32(levels[-1])
        self._set(
            name=self._make_name(),
            signed=True,
            unit=float(levels[0]) if exact else None,
            max_integer=top_integer if exact else None,
            max_value=top,
            default_rounding=LogNearest("mid"),
            special=Special(
                nan="no code; encoded as 0",
                infinity=f"saturates to -{number(top)} / {number(top)}",
                overflow=f"saturates to -{number(top)} / {number(top)}",
                underflow=f"0 below the first threshold, {number(small)} / factor; with "
                "underflow='half' up to half of the smallest level, that half included",
            ),
            **_origin(self.base, self.bits, self.phase),
        )

    def _make_name(self) -> str:
        stem = f"log{self.bits}_base{self.base}"
        if self.bits == 4 and self.base in (2, 4):
            stem = f"fp4_radix{self.base}"
        odd = "_odd" if self.odd_offset == -1 else "_odd_up"
        return stem if self.phase == "even" else stem + odd

    def magnitudes(self) -> tuple[Fraction, ...]:
        """Return the exact non-zero magnitudes, ascending: codes 1, 2, ...

        >>> LogFormat(10, 3).magnitudes()
        (Fraction(1, 10), Fraction(1, 1), Fraction(10, 1))
        """
        bias = 1 << (self.bits - 2)
        shift = Fraction(2) ** (self.odd_offset if self.phase == "odd" else 0)
        return tuple(
            Fraction(self.base) ** (m - bias) * shift for m in range(1, 1 << (self.bits - 1))
        )

    def odd(self, offset: int = -1) -> LogFormat:
        """Return the odd phase of a base-4 format.

        >>> LogFormat(4, 4).odd(1).name
        'fp4_radix4_odd_up'
        """
        return replace(self, phase="odd", odd_offset=offset)

    def values(self) -> tuple[float, ...]:
        """Return the value of every code; the code of -0 decodes to 0.

        In bases that are no power of two the value is the exact power rounded once to float32.

        >>> LogFormat(4, 3).values()
        (0.0, 0.25, 1.0, 4.0, 0.0, -0.25, -1.0, -4.0)
        """
        positive = [nearest_float32(v) for v in self.magnitudes()]
        return (0.0, *positive, 0.0, *(-v for v in positive))

    def thresholds(self, rounding: Rounding | None = None) -> tuple[float, ...]:
        """Return, for every magnitude code m >= 1, the smallest float32 that rounds to it.

        >>> [t * 64 for t in LogFormat(4, 4).thresholds()][:3]
        [0.625, 2.5, 10.0]
        """
        return _thresholds(self, self._rounding(rounding, (LogNearest, Nearest)))

    # -- encoding --------------------------------------------------------------------------------

    def round_to_integers(
        self,
        x: Tensor,
        rounding: Rounding | None = None,
        random: Tensor | None = None,
        *,
        out: Tensor | None = None,
        nan_free: bool = False,
    ) -> Tensor:
        """Return sign * base^(m-1), or 0, as float32; see `Format.round_to_integers`.

        >>> FP4_RADIX4 = LogFormat(4, 4)
        >>> FP4_RADIX4.round_to_integers(torch.tensor([0.0097, 0.0098, -0.625, float("inf")]))
        tensor([ 0.0000e+00,  1.0000e+00, -6.4000e+01,  4.0960e+03])
        """
        self.require_unit()
        chosen = self._rounding(rounding, (LogNearest, Nearest, Stochastic))
        x = as_float32(x)
        if isinstance(chosen, Stochastic):
            u = unit_random(chosen, random, x)
            if self.base in _ALIGNED_OCTAVES:
                return _stochastic_aligned(self, x, u, out)
            result = self.integers(_stochastic_codes(self, x, u))
            return result if out is None else out.copy_(result)
        plan = aligned_plan(self, chosen)
        if plan is not None:
            return plan.run(x, self.max_value, out)
        result = self.integers(self._nearest_codes(x, chosen))
        return result if out is None else out.copy_(result)

    def encode(
        self, x: Tensor, rounding: Rounding | None = None, random: Tensor | None = None
    ) -> Tensor:
        """Return uint8 sign-magnitude codes; see `Format.encode`.

        >>> LogFormat(4, 4).encode(torch.tensor([0.0, 1.0, -64.0, -1e-9]))
        tensor([ 0,  4, 15,  0], dtype=torch.uint8)
        """
        chosen = self._rounding(rounding, (LogNearest, Nearest, Stochastic))
        x = as_float32(x)
        if self.unit is not None and self.base in _ALIGNED_OCTAVES:
            return self.integers_to_codes(self.round_to_integers(x, chosen, random))
        if isinstance(chosen, Stochastic):
            return _stochastic_codes(self, x, unit_random(chosen, random, x))
        return self._nearest_codes(x, chosen)

    def integers_to_codes(self, ints: Tensor) -> Tensor:
        """Return the codes of 0 and +-base^(m-1); see `Format.integers_to_codes`.

        >>> LogFormat(4, 4).integers_to_codes(torch.tensor([0.0, 1.0, -4096.0]))
        tensor([ 0,  1, 15], dtype=torch.uint8)
        """
        self.require_unit()
        ints = as_float32(ints)
        octaves = _ALIGNED_OCTAVES.get(self.base)
        if octaves is None:
            m = count_thresholds(_integer_grid(self, ints.device), ints.abs())
            return with_sign(m, ints, 1 << (self.bits - 1)).to(torch.uint8)
        # 4^(m-1) has the exponent field 127 + 2 (m-1): a shift leaves m and a constant.
        shift = 22 + octaves.bit_length()
        first = (127 << 23) - (1 << shift)
        bits = ints.contiguous().view(torch.int32)
        codes = bits.bitwise_and(0x7FFFFFFF).sub_(first).clamp_(min=0)
        codes = codes.bitwise_right_shift_(shift).to(torch.uint8)
        sign = bits.bitwise_right_shift(31).to(torch.uint8).bitwise_and_(1 << (self.bits - 1))
        return codes.bitwise_or_(sign)

    def round(
        self, x: Tensor, rounding: Rounding | None = None, random: Tensor | None = None
    ) -> Tensor:
        """Return decode(encode(x)); see `Format.round`.

        >>> LogFormat(10, 4).round(torch.tensor([0.4, -3.0, 7.0]))
        tensor([ 0.1000, -1.0000, 10.0000])
        """
        if self.unit is not None and self.base in _ALIGNED_OCTAVES:
            return self.round_to_integers(x, rounding, random).mul_(self.unit)
        return self.decode(self.encode(x, rounding, random))

    def _nearest_codes(self, x: Tensor, rounding: Rounding) -> Tensor:
        grid = _threshold_table(self, rounding, x.device)
        m = count_thresholds(grid, x.abs())
        return with_sign(m, x, 1 << (self.bits - 1)).to(torch.uint8)


def _origin(base: int, bits: int, phase: str) -> dict[str, str]:
    if bits == 4 and base == 4:
        return {
            "source": "Sun et al., NeurIPS 2020 ([1,3,0], radix 4), through reading notes",
            "certainty": "published; assumed: zero is code 0, saturation, the odd grid's offset",
        }
    if bits == 4 and base == 2:
        return {
            "source": "[1,3,0] radix 2, as in LUQ (ICLR 2023)",
            "certainty": "published; assumed: zero is code 0, so 7 magnitudes",
        }
    return {"source": "the same construction in another base or width", "certainty": "assumed"}


# -- deterministic rounding -------------------------------------------------------------------


@lru_cache(maxsize=256)
def _thresholds(fmt: LogFormat, rounding: Rounding) -> tuple[float, ...]:
    levels = (Fraction(0), *fmt.magnitudes())
    if isinstance(rounding, LogNearest):
        factor = rounding.exact_factor(fmt.base)
        found = [float32_at_least(level / factor) for level in levels[1:]]
        if rounding.underflow == "half":
            found[0] = float32_above(levels[1] / 2)
        return tuple(found)
    # Nearest: the arithmetic midpoint; a tie goes up only to an even code.
    found = []
    for m in range(1, len(levels)):
        middle = (levels[m - 1] + levels[m]) / 2
        found.append(float32_at_least(middle) if m % 2 == 0 else float32_above(middle))
    return tuple(found)


@lru_cache(maxsize=256)
def _threshold_table(fmt: LogFormat, rounding: Rounding, device: torch.device) -> Tensor:
    return torch.tensor(_thresholds(fmt, rounding), dtype=torch.float32, device=device)


@lru_cache(maxsize=256)
def _integer_grid(fmt: LogFormat, device: torch.device) -> Tensor:
    count = len(fmt.magnitudes())
    levels = [float(fmt.base**m) for m in range(count)]
    return torch.tensor(levels, dtype=torch.float32, device=device)


@lru_cache(maxsize=256)
def aligned_plan(fmt: LogFormat, rounding: Rounding) -> AlignedPlan | None:
    """Return the constants for the bit path, or None where the thresholds do not allow it.

    It needs a base of 2, 4 or 16 and thresholds whose bit patterns are one constant apart. The
    clamp at the largest value never reaches the next threshold, since every factor is below the
    base.

    >>> hex(aligned_plan(LogFormat(4, 4), LogNearest("1.6")).add)
    '0x3e00000'
    """
    octaves = _ALIGNED_OCTAVES.get(fmt.base)
    if octaves is None or fmt.max_integer is None or not isinstance(rounding, LogNearest):
        return None
    shift = 22 + octaves.bit_length()
    step = 1 << shift
    bits = [float32_bits(t) for t in _thresholds(fmt, LogNearest(rounding.factor))]
    if any(bits[i + 1] - bits[i] != step for i in range(len(bits) - 1)):
        return None
    shrink = None
    if rounding.underflow == "half":
        shrink = nearest_float32(fmt.magnitudes()[0] / 2)
    # Any multiple of the step may be added as well. Enough of them bring the smallest level to 1
    # (or 2), and a carry out of the exponent field for every NaN, signalling ones included.
    add = -bits[0] % step
    while add < 1 << 23 or bits[0] + add < 127 << 23:
        add += step
    first = torch.tensor([bits[0] + add], dtype=torch.int32).view(torch.float32).item()
    return AlignedPlan(
        shrink=shrink,
        add=add,
        mask=-step,
        scale=1.0 / first,
        base=fmt.base,
        limit_bits=bits[-1] + step,
    )


# -- stochastic rounding ----------------------------------------------------------------------


def _stochastic_codes(fmt: LogFormat, x: Tensor, u: Tensor) -> Tensor:
    """Any base, through a table: slower, the same definition."""
    levels = value_table(fmt, x.device)[: 1 << (fmt.bits - 1)]
    m = stochastic_magnitude(levels, x.abs().nan_to_num_(0.0, fmt.max_value), u)
    return with_sign(m, x, 1 << (fmt.bits - 1)).to(torch.uint8)


def _stochastic_aligned(fmt: LogFormat, x: Tensor, u: Tensor, out: Tensor | None) -> Tensor:
    """Bases 2, 4 and 16: the neighbours come from the bit pattern."""
    first = nearest_float32(fmt.magnitudes()[0])
    first_bits = float32_bits(first)
    shift = 22 + _ALIGNED_OCTAVES[fmt.base].bit_length()
    step = 1 << shift
    offset = -first_bits % step
    magnitude = x.abs().nan_to_num_(0.0, fmt.max_value).clamp_(max=fmt.max_value)
    bits = magnitude.view(torch.int32).add(offset).bitwise_and_(-step).sub_(offset)
    bits.clamp_(min=first_bits - step)
    hi = bits.add(step).view(torch.float32)
    lo = bits.view(torch.float32)
    hardshrink_(lo, first / 2)
    width = hi.sub_(lo)
    up = step_up(magnitude.sub_(lo).div_(width), u)
    lo.add_(up.mul_(width)).mul_(1.0 / first)
    return torch.add(lo.copysign_(x), 0.0, out=out)
