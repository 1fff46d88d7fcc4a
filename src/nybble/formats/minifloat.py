"""Small floating point formats: sign, exponent with a bias, mantissa.

    e > 0:  (-1)^s * 2^(e - bias) * (1 + m / 2^mantissa)
    e = 0:  (-1)^s * 2^(1 - bias) * (m / 2^mantissa)         (subnormals)

FP4_E2M1, FP8_E4M3, FP8_E5M2: OCP OFP8 and MX specifications. FP8_143 and FP8_152: HFP8 (Sun et al.,
NeurIPS 2019). DLFLOAT16: [1,6,9] of IBM's accelerators, without subnormals. FP16 and BF16: IEEE 754
binary16 and the upper half of binary32.

Which codes mean NaN or infinity is the parameter `specials`:
    "none"    every code is a finite number
    "ieee"    the top exponent is infinity (m = 0) and NaN
    "fn"      only the top exponent with the top mantissa is NaN; no infinity
    "merged"  as "fn", but the symbol stands for NaN and infinity at once (DLFLOAT16)
What rounding beyond the largest value gives is `overflow`: "saturate", "infinity" or "nan".

Nearest rounding is exact without a table: with s = 1.5 * 2^(e + 23 - mantissa), the float32 sum
(x + s) - s rounds x to `mantissa` bits, ties to even, because the addition itself does.
Where the exponents do not leave room for s (16-bit formats), the same is done in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.formats.base import (
    Format,
    Special,
    as_float32,
    kept_table,
    step_up,
    unit_random,
    value_table,
)
from nybble.formats.exact import number
from nybble.formats.hash_once import hash_once
from nybble.formats.magnitude import stochastic_magnitude, with_sign
from nybble.formats.rounding import Nearest, Rounding, Stochastic

_SPECIALS = ("none", "ieee", "fn", "merged")
#: Formats that torch converts to itself: two passes instead of eight, the same result.
_NATIVE = {(5, 10, 15): torch.float16, (8, 7, 127): torch.bfloat16}
_OVERFLOWS = ("saturate", "infinity", "nan")


@hash_once
@dataclass(frozen=True)
class Minifloat(Format):
    """A small floating point format.

    Args:
        label: its name.
        exponent, mantissa: bits of each field; together with the sign at most 16.
        bias: of the exponent.
        specials: "none", "ieee", "fn" or "merged" (see the module).
        overflow: "saturate", "infinity" or "nan".
        subnormals: when false, e = 0 is one more ordinary binade, in which only m = 0 is zero.
        source, certainty: where the definition comes from, and how sure it is.

    >>> Minifloat("fp4_e2m1", 2, 1, 1).values()[:8]
    (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    """

    label: str
    exponent: int
    mantissa: int
    bias: int
    specials: str = "none"
    overflow: str = "saturate"
    subnormals: bool = True
    source: str = "given by the user"
    certainty: str = "standard"

    def __post_init__(self) -> None:
        if not (1 <= self.exponent <= 8 and 1 <= self.mantissa <= 10):
            raise UserError(
                f"{self.label}: exponent {self.exponent} and mantissa {self.mantissa} bits; "
                "choose 1 to 8 and 1 to 10."
            )
        if 1 + self.exponent + self.mantissa > 16:
            raise UserError(f"{self.label}: more than 16 bits.")
        if self.specials not in _SPECIALS or self.overflow not in _OVERFLOWS:
            raise UserError(
                f"{self.label}: specials {self.specials!r}, overflow {self.overflow!r}; choose one "
                f"of {_SPECIALS} and one of {_OVERFLOWS}."
            )
        if self.overflow == "infinity" and self.specials != "ieee":
            raise UserError(f"{self.label}: overflow='infinity' needs specials='ieee'.")
        if self.overflow == "nan" and self.specials == "none":
            raise UserError(f"{self.label}: overflow='nan' needs a NaN code.")
        if not (1 - self.bias - self.mantissa >= -126 and self.top_exponent <= 127) and (
            (self.exponent, self.bias) != (8, 127)
        ):
            raise UserError(f"{self.label}: bias {self.bias} leaves the range of float32.")
        top, step = self._magnitude(self.finite - 1), self._magnitude(1)
        largest, smallest = number(top), number(step)
        small = self.exponent + self.mantissa < 4 and (top / step).is_integer()
        beyond = {"saturate": f"saturates to {largest}", "infinity": "becomes infinity"}
        self._set(
            name=self.label,
            bits=1 + self.exponent + self.mantissa,
            signed=True,
            unit=step if small else None,
            max_integer=int(top / step) if small else None,
            max_value=top,
            default_rounding=Nearest(),
            special=Special(
                nan="no code; encoded as 0"
                if self.specials == "none"
                else "one canonical NaN code, positive; every NaN code decodes to NaN",
                infinity={
                    "saturate": f"saturates to {largest}",
                    "infinity": "infinity, kept",
                    "nan": "becomes NaN",
                }[self.overflow],
                overflow=beyond.get(self.overflow, "becomes NaN")
                + " (nearest); stochastic rounding of a finite number saturates",
                underflow=f"to a multiple of {smallest}, ties to even"
                if self.subnormals
                else f"no subnormals: to 0 up to half of {smallest}, then to {smallest}",
            ),
        )

    # -- the table -------------------------------------------------------------------------

    @property
    def finite(self) -> int:
        """How many magnitude codes are finite; the codes above are infinity and NaN."""
        count = 1 << (self.exponent + self.mantissa)
        if self.specials == "ieee":
            return count - (1 << self.mantissa)
        return count - (self.specials != "none")

    @property
    def nan_code(self) -> int | None:
        """The code that a NaN is encoded as, or None."""
        if self.specials == "none":
            return None
        top = (1 << (self.exponent + self.mantissa)) - 1
        return top - (1 << (self.mantissa - 1)) + 1 if self.specials == "ieee" else top

    @property
    def least_exponent(self) -> int:
        """Power of two of the lowest binade."""
        return (1 if self.subnormals else 0) - self.bias

    @property
    def top_exponent(self) -> int:
        """Power of two of the highest binade that holds a finite number."""
        return ((self.finite - 1) >> self.mantissa) - self.bias

    def _magnitude(self, code: int) -> float:
        e, m = divmod(code, 1 << self.mantissa)
        first = 1 if self.subnormals else 0
        steps = m if e < first or code == 0 else m + (1 << self.mantissa)
        return math.ldexp(steps, max(e, first) - self.bias - self.mantissa)

    def values(self) -> tuple[float, ...]:
        """Return the value of every code, NaN and infinity included.

        >>> Minifloat("x", 2, 1, 1, specials="ieee").values()[5:8]
        (3.0, inf, nan)
        """
        half = [self._magnitude(code) for code in range(self.finite)]
        if self.specials == "ieee":
            half.append(math.inf)
        half += [math.nan] * ((1 << (self.exponent + self.mantissa)) - len(half))
        negative = [-v if v == v and v != 0.0 else v for v in half]
        return (*half, *negative)

    # -- rounding --------------------------------------------------------------------------

    def round(
        self, x: Tensor, rounding: Rounding | None = None, random: Tensor | None = None
    ) -> Tensor:
        """Return decode(encode(x)); see `Format.round`.

        >>> Minifloat("fp4_e2m1", 2, 1, 1).round(torch.tensor([0.25, 0.75, 2.5, -99.0]))
        tensor([ 0.,  1.,  2., -6.])
        """
        chosen = self._rounding(rounding, (Nearest, Stochastic))
        x = as_float32(x)
        if not isinstance(chosen, Stochastic):
            return self._nearest(x)
        u = unit_random(chosen, random, x)
        return self._step(x, u) if self._plain else self.decode(self._stochastic(x, u))

    def encode(
        self, x: Tensor, rounding: Rounding | None = None, random: Tensor | None = None
    ) -> Tensor:
        """Return sign-magnitude codes; see `Format.encode`.

        >>> Minifloat("fp4_e2m1", 2, 1, 1).encode(torch.tensor([0.5, -6.0]))
        tensor([ 1, 15], dtype=torch.uint8)
        """
        chosen = self._rounding(rounding, (Nearest, Stochastic))
        x = as_float32(x)
        if isinstance(chosen, Stochastic):
            return self._stochastic(x, unit_random(chosen, random, x))
        return self._codes_of_values(self._nearest(x))

    def round_to_integers(
        self,
        x: Tensor,
        rounding: Rounding | None = None,
        random: Tensor | None = None,
        *,
        out: Tensor | None = None,
        nan_free: bool = False,
    ) -> Tensor:
        """Return value / unit as float32; see `Format.round_to_integers`.

        >>> Minifloat("fp4_e2m1", 2, 1, 1).round_to_integers(torch.tensor([0.5, -6.0]))
        tensor([  1., -12.])
        """
        result = self.round(x, rounding, random).div_(self.require_unit())
        return result if out is None else out.copy_(result)

    def integers_to_codes(self, ints: Tensor) -> Tensor:
        """As `Format.integers_to_codes`, of integers that the format has."""
        if self.bits > 4 or self.max_integer is None:
            return self._codes_of_values(ints * self.require_unit())
        index = (ints + self.max_integer).to(torch.int32)
        return _code_table(self, ints.device).index_select(0, index.reshape(-1)).view(ints.shape)

    def _nearest(self, x: Tensor) -> Tensor:
        """Round float32 to the nearest value, ties to the even mantissa, -0 to +0."""
        native = _NATIVE.get((self.exponent, self.mantissa, self.bias))
        if native is not None and self.specials == "ieee" and self.overflow == "infinity":
            result = x.to(native).to(torch.float32).add_(0.0)
            return result.nan_to_num_(math.nan, math.inf, -math.inf)
        if self.specials == "none":
            y = x.nan_to_num(0.0, self.max_value, -self.max_value)
            y.clamp_(-self.max_value, self.max_value)
        elif self.overflow == "saturate":
            y = x.clamp(-self.max_value, self.max_value)
        else:
            y = x.clone()
        if not self.subnormals:
            y = self._lift(y)
        result = self._add_and_subtract(y)
        if self.overflow != "saturate":
            result = self._overflow(result)
        if self.specials != "none":
            result.nan_to_num_(math.nan, math.inf, -math.inf)  # one NaN pattern
        return result

    def _lift(self, y: Tensor) -> Tensor:
        """Without subnormals: send magnitudes below the smallest to 0 or to the smallest."""
        small = self._magnitude(1)
        lifted = torch.full_like(y, small).copysign_(y)
        zero = torch.zeros((), dtype=y.dtype, device=y.device)
        below = torch.where(y.abs() > small / 2, lifted, zero)
        return torch.where(y.abs() < small, below, y)

    @property
    def _arithmetic(self) -> tuple[int, torch.dtype, torch.dtype]:
        """Mantissa width, integer and float dtype in which rounding and coding are exact."""
        if self.top_exponent + 24 - self.mantissa > 126 or self.least_exponent < -100:
            return 52, torch.int64, torch.float64
        return 23, torch.int32, torch.float32

    def _add_and_subtract(self, y: Tensor) -> Tensor:
        width, bits_dtype, dtype = self._arithmetic
        bias = 127 if width == 23 else 1023
        y = y.to(dtype)
        s = y.view(bits_dtype).bitwise_and((2 * bias + 1) << width)
        s.clamp_((bias + self.least_exponent) << width, (bias + self.top_exponent + 1) << width)
        s.add_(((width - self.mantissa) << width) + (1 << (width - 1)))  # 1.5 * 2^(e + ...)
        shift = s.view(dtype)
        return y.add(shift).sub_(shift).to(torch.float32)  # +0 where x was -0

    @property
    def _plain(self) -> bool:
        """Whether every code is a number and float32 arithmetic finds its neighbours exactly."""
        return self.specials == "none" and self.subnormals and self._arithmetic[0] == 23

    def _step(self, x: Tensor, u: Tensor) -> Tensor:
        """The value at or below |x|, or where u < p the next one above, with the sign of x: what
        `stochastic_magnitude` finds in a table. Quotients by the step, a power of two, are exact.
        """
        magnitude = x.abs().nan_to_num_(0.0, self.max_value).clamp_(max=self.max_value)
        step = magnitude.view(torch.int32).bitwise_and(255 << 23)
        step.clamp_(min=(127 + self.least_exponent) << 23).sub_(self.mantissa << 23)
        width = step.view(torch.float32)
        steps = magnitude.div_(width)
        below = steps.floor()
        up = step_up(steps.sub_(below), u)
        return below.add_(up).mul_(width).copysign_(x).add_(0.0)  # +0 where x was -0

    def _overflow(self, y: Tensor) -> Tensor:
        beyond = y.abs() > self.max_value
        if self.overflow == "nan":
            return y.masked_fill_(beyond, math.nan)
        return torch.where(beyond, torch.full_like(y, math.inf).copysign_(y), y)

    def _codes_of_values(self, values: Tensor) -> Tensor:
        """Return the codes of float32 that are values of the format (exact, any width)."""
        width, bits_dtype, dtype = self._arithmetic
        bias = 127 if width == 23 else 1023
        magnitude = values.abs().to(dtype)
        least = bias + self.least_exponent
        e = magnitude.view(bits_dtype).bitwise_right_shift(width).clamp_(min=least)
        # |value| in steps of its binade: 2^mantissa + m, or m alone among the subnormals.
        scale = (2 * bias + self.mantissa - e).clamp_(min=1).bitwise_left_shift_(width)
        steps = magnitude.nan_to_num_(0.0, 0.0).mul_(scale.view(dtype))
        codes = e.sub_(least).bitwise_left_shift_(self.mantissa).add_(steps.to(bits_dtype))
        if not self.subnormals:
            codes.sub_(1 << self.mantissa).clamp_(min=0)
        if self.specials == "ieee":
            codes.masked_fill_(values.isinf(), self.finite)
        signed = with_sign(codes, values, 1 << (self.bits - 1))
        if self.nan_code is not None:
            signed.masked_fill_(values.isnan(), self.nan_code)
        return signed.to(self.code_dtype)

    def _stochastic(self, x: Tensor, u: Tensor) -> Tensor:
        if self._plain:
            return self._codes_of_values(self._step(x, u))
        levels = value_table(self, x.device)[: self.finite]
        m = stochastic_magnitude(levels, x.abs().nan_to_num_(0.0, self.max_value), u)
        if self.overflow == "infinity":
            m.masked_fill_(x.isinf(), self.finite)
        codes = with_sign(m, x, 1 << (self.bits - 1))
        if self.nan_code is not None:
            bad = x.isnan() | x.isinf() if self.overflow == "nan" else x.isnan()
            codes.masked_fill_(bad, self.nan_code)
        return codes.to(self.code_dtype)


@kept_table
def _code_table(fmt: Minifloat, device: torch.device) -> Tensor:
    """Codes of the integers from the least to the largest; of those between two values, any."""
    top = fmt.max_integer or 0
    integers = torch.arange(-top, top + 1, dtype=torch.float32, device=device)
    return fmt._codes_of_values(integers * fmt.require_unit())
