"""What every number format offers: codes <-> values, rounding, and a statement of its specials.

A format is a finite table: code c decodes to value v[c]. Encoding takes an already scaled float32
tensor and gives codes; it is defined by the scalar oracle (`oracle.py`), which the torch code
here equals bit for bit. Formats whose values are small integers times one unit also offer
`integers` and `round_to_integers`, the hot path of the emulation: integer-valued float32 tensors
in which a matrix product is exact as long as its sums stay below 2^24.

Conventions shared by all formats:
- input of any float dtype; float16 and bfloat16 are exact in float32, float64 is first rounded to
  float32 (nearest even), so a float64 value is rounded twice;
- codes are uint8 for up to 8 bits, int32 above;
- encoders never emit a negative zero, and every code of a negative zero decodes to +0;
- a NaN in a format without a NaN code becomes code 0 (the quantizer makes the scale NaN instead);
- nothing here is differentiable: gradients are the business of the layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.formats.rounding import RANDOM_BITS, Rounding


@dataclass(frozen=True)
class Special:
    """What a format does with the numbers that are not ordinary, in words."""

    nan: str
    infinity: str
    overflow: str
    underflow: str
    negative_zero: str = "encoded as +0; a code that means -0 decodes to +0"


class Format(ABC):
    """A finite set of values and their codes.

    Attributes:
        name: registry name, for example "int4" or "fp4_radix4".
        bits: width of a code.
        signed: whether negative values exist.
        unit: value == integer * unit, with integers exact in float32; None for formats without
            such a small-integer form (FP16, BF16, DLFLOAT16, the FP8 formats, E8M0).
        max_integer: largest |integer| that encoding gives, or None.
        max_value: largest finite value.
        default_rounding: what `rounding=None` means.
        special: behaviour at NaN, infinity, overflow, underflow and -0.
        source: where the definition comes from.
        certainty: "standard", "published", or "assumed: ..." for what no source states.
    """

    # Plain annotations: every subclass is a frozen dataclass of its own parameters, and sets the
    # rest once, in __post_init__.
    name: str
    bits: int
    signed: bool
    unit: float | None
    max_integer: int | None
    max_value: float
    default_rounding: Rounding
    special: Special
    source: str
    certainty: str

    def _set(self, **values: object) -> None:
        for key, value in values.items():
            object.__setattr__(self, key, value)

    # -- the table --------------------------------------------------------------------------

    @abstractmethod
    def values(self) -> tuple[float, ...]:
        """Return the value of every code: index == code, length 2**bits."""

    @property
    def code_dtype(self) -> torch.dtype:
        """uint8 for codes of up to 8 bits, int32 above."""
        return torch.uint8 if self.bits <= 8 else torch.int32

    def decode(self, codes: Tensor) -> Tensor:
        """Return the float32 value of every code, in the shape of `codes`.

        >>> from nybble.formats import INT4
        >>> INT4.decode(torch.tensor([0, 7, 8, 15], dtype=torch.uint8))
        tensor([ 0.,  7., -8., -1.])
        """
        return _look_up(value_table(self, codes.device), codes, self)

    def integers(self, codes: Tensor) -> Tensor:
        """Return decode(codes) / unit as integer-valued float32.

        Raises:
            UserError: the format has no small-integer form.

        >>> from nybble.formats import FP4_RADIX4
        >>> FP4_RADIX4.integers(torch.tensor([0, 1, 7, 15], dtype=torch.uint8)).tolist()
        [0.0, 1.0, 4096.0, -4096.0]
        """
        self.require_unit()
        return _look_up(integer_table(self, codes.device), codes, self)

    def integer_values(self) -> tuple[int, ...]:
        """Return the integer of every code (value == integer * unit).

        >>> from nybble.formats import INT4
        >>> INT4.integer_values()[7:9]
        (7, -8)
        """
        unit = self.require_unit()
        return tuple(round(v / unit) for v in self.values())

    def require_unit(self) -> float:
        """Return the unit, or raise UserError where the format has no small-integer form."""
        if self.unit is None:
            raise UserError(
                f"{self.name} has no small-integer form; use decode() or round() instead of "
                "integers()."
            )
        return self.unit

    # -- rounding ---------------------------------------------------------------------------

    @abstractmethod
    def encode(
        self, x: Tensor, rounding: Rounding | None = None, random: Tensor | None = None
    ) -> Tensor:
        """Return the code of every element of an already scaled tensor.

        Args:
            x: any float dtype, any shape.
            rounding: None means the format's default.
            random: for Stochastic only: int32 or int64 in [0, 2^24), the shape of x.

        Raises:
            UserError: a rounding rule that the format does not have, or random numbers missing.

        >>> from nybble.formats import INT4
        >>> INT4.encode(torch.tensor([0.5, 1.5, -9.0]))
        tensor([0, 2, 8], dtype=torch.uint8)
        """

    def round_to_integers(
        self,
        x: Tensor,
        rounding: Rounding | None = None,
        random: Tensor | None = None,
        *,
        out: Tensor | None = None,
        nan_free: bool = False,
    ) -> Tensor:
        """Return integers(encode(x)) as float32, fused where the format has a fast path.

        Args:
            x: already scaled; it is not modified unless it is also given as `out`.
            rounding, random: as in `encode`.
            out: a contiguous float32 tensor of the shape of x to write to; may be x itself.
            nan_free: a promise that x holds no NaN, which saves a pass in some formats; if it
                is broken, the result at a NaN is unspecified.

        >>> from nybble.formats import INT4
        >>> INT4.round_to_integers(torch.tensor([0.5, 1.5, -9.0]))
        tensor([ 0.,  2., -8.])
        """
        result = self.integers(self.encode(x, rounding, random))
        return result if out is None else out.copy_(result)

    def integers_to_codes(self, ints: Tensor) -> Tensor:
        """Return the codes of integer-valued float32; the inverse of `integers` on its range.

        >>> from nybble.formats import INT4
        >>> INT4.integers_to_codes(torch.tensor([-1.0, 7.0]))
        tensor([15,  7], dtype=torch.uint8)
        """
        unit = self.require_unit()
        return self.encode(ints * unit)

    def round(
        self, x: Tensor, rounding: Rounding | None = None, random: Tensor | None = None
    ) -> Tensor:
        """Return decode(encode(x)) as float32.

        >>> from nybble.formats import FP4_RADIX4
        >>> FP4_RADIX4.round(torch.tensor([0.7, 2.5, -1000.0]))
        tensor([  1.,   4., -64.])
        """
        return self.decode(self.encode(x, rounding, random))

    # -- shared by the subclasses --------------------------------------------------------------

    def _rounding(self, rounding: Rounding | None, allowed: tuple[type, ...]) -> Rounding:
        chosen = self.default_rounding if rounding is None else rounding
        if not isinstance(chosen, allowed):
            names = ", ".join(kind.__name__ for kind in allowed)
            raise UserError(
                f"{self.name} has no rounding {chosen!r}; it can be rounded by: {names}."
            )
        return chosen


def as_float32(x: Tensor) -> Tensor:
    """Return x as float32, outside of autograd; float64 is rounded to the nearest float32.

    Raises:
        UserError: complex or integer input, for which no format defines a rounding.

    >>> as_float32(torch.tensor([1.0], dtype=torch.float64)).dtype
    torch.float32
    """
    if not x.is_floating_point():
        raise UserError(f"a format encodes floating point tensors, not {x.dtype}: convert first.")
    x = x.detach()
    return x if x.dtype == torch.float32 else x.to(torch.float32)


def unit_random(rounding: Rounding, random: Tensor | None, x: Tensor) -> Tensor:
    """Return u = random * 2^-24 as float32, after checking that it fits x.

    >>> from nybble.formats import Stochastic
    >>> unit_random(Stochastic(), torch.tensor([1 << 23]), torch.zeros(1))
    tensor([0.5000])
    """
    if random is None:
        raise UserError(
            f"{type(rounding).__name__} rounding needs random=: integers in [0, 2^24), "
            f"shape {tuple(x.shape)}."
        )
    if random.shape != x.shape or random.dtype not in (torch.int32, torch.int64):
        raise UserError(
            f"random must be int32 or int64 of shape {tuple(x.shape)}, not {random.dtype} of "
            f"shape {tuple(random.shape)}."
        )
    return random.to(torch.float32).mul_(2.0**-RANDOM_BITS)


def step_up(p: Tensor, u: Tensor) -> Tensor:
    """Return 1.0 where u < p, else 0.0 (p is overwritten).

    The float32 difference of two different numbers is never zero, so its sign decides exactly;
    three vectorised passes are faster than one comparison into a bool tensor.

    >>> step_up(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.5]))
    tensor([1., 0.])
    """
    return p.sub_(u).clamp_(0.0, 1.0).ceil_()


def kept_table(
    make: Callable[[Any, torch.device], Tensor],
) -> Callable[[Any, torch.device], Tensor]:
    """`make(format, device)`, cached; but new under a mode that watches operators: fake tensors,
    which torch traces with, meet no real one."""
    known = lru_cache(maxsize=512)(make)

    @wraps(make)
    def table(fmt: Any, device: torch.device) -> Tensor:
        watched = torch._C._len_torch_dispatch_stack() > 0
        return (make if watched else known)(fmt, device)

    return table


@kept_table
def value_table(fmt: Format, device: torch.device) -> Tensor:
    """Return the cached float32 tensor of a format's values; do not modify it."""
    return torch.tensor(fmt.values(), dtype=torch.float32, device=device)


@kept_table
def integer_table(fmt: Format, device: torch.device) -> Tensor:
    """Return the cached float32 tensor of a format's integers; do not modify it."""
    return torch.tensor(fmt.integer_values(), dtype=torch.float32, device=device)


def _look_up(table: Tensor, codes: Tensor, fmt: Format) -> Tensor:
    if codes.is_floating_point() or codes.dtype == torch.bool:
        raise UserError(f"{fmt.name}: codes are integers, not {codes.dtype}.")
    flat = codes.reshape(-1).to(torch.int32)
    return table.index_select(0, flat).reshape(codes.shape)
