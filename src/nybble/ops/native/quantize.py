"""Quantise and pack on the compiled backend: float memory to 4-bit codes in one pass.

    y = fl(x * inv) [+ zero_point, rounded]       code = round(y)       two codes a byte

`pack` chooses the kernel by format and rounding; all of them give the bytes of the reference
backend (`quantize_operand` + `store`, or `Format.encode` + `pack_codes`), in the order in which the
elements lie in memory (contiguous or channels-last), together with max|x| and `poison`.

    rounding                                       kernel
    Integer, nearest                               one conversion (`pack_integer`)
    LogFormat, LogNearest with aligned thresholds  bit patterns, one or two grids (`pack_two_phase`)
    any other format with a unit, deterministic    up to 15 thresholds (`pack_thresholds`)
    any format with a unit, stochastic             levels and Philox (`pack_stochastic`)

`poison` is 0.0, or NaN where an element of y is not finite: added to the scale it makes the result
NaN. What the codes of such a tensor are is unspecified, here as in the reference.

PACT's mask: mask.py. Random bits and the transpose of packed codes: streams.py. The statistics come
from `statistics.py`, the rules' bytes from `rules.py`.

Not done here: formats of more than 4 bits, and those without a unit.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from nybble.errors import NybbleError, UserError
from nybble.formats import (
    Format,
    Integer,
    LogFormat,
    Minifloat,
    Nearest,
    Rounding,
    Stochastic,
)
from nybble.ops.native.buffers import FLOATS, own, require, span, threads
from nybble.ops.native.pool import kept
from nybble.ops.native.rules import log_rule, stochastic_rule, threshold_rule
from nybble.ops.native.statistics import (
    absmax,
    absmax_rows,
    sawb_statistics,
    tree_sum,
    tree_sum_last,
)
from nybble.ops.native.streams import key_words
from nybble.ops.reference.storage import is_channels_last
from nybble.quantizers.packing import packed_bytes, packed_bytes_bits
from nybble.quantizers.random import RandomKey

__all__ = [
    "Packed",
    "absmax",
    "absmax_rows",
    "pack",
    "pack_integer",
    "pack_stochastic",
    "pack_thresholds",
    "pack_two_phase",
    "packs",
    "quantize_gradient",
    "quantize_integer",
    "sawb_statistics",
    "tree_sum",
    "tree_sum_last",
]


class Packed(NamedTuple):
    """What one pass gives. `second`: codes on the second grid; `mask`: bits of what was inside the
    format's range; `amax`: max|x| (NaN if there is one); `poison`: 0.0 or NaN, see the module."""

    codes: Tensor
    second: Tensor | None
    mask: Tensor | None
    amax: float
    poison: float


# ---- packing ------------------------------------------------------------------------------------


def packs(fmt: Format) -> bool:
    """Whether `pack` takes the format: a unit, at most 4 bits, and a number for every code.

    >>> from nybble.formats import get_format
    >>> packs(get_format("fp4_e2m1")), packs(get_format("fp8_143"))
    (True, False)
    """
    plain = not isinstance(fmt, Minifloat) or fmt.specials == "none"
    return fmt.bits <= 4 and fmt.unit is not None and plain


def pack(
    x: Tensor,
    inv: Tensor | float,
    fmt: Format,
    rounding: Rounding | None = None,
    *,
    key: RandomKey | None = None,
    zero_point: Tensor | float | None = None,
    want_inside: bool = False,
) -> Packed:
    """Codes of fl(x * inv) [+ zero_point] on any format that `packs`, by its fastest kernel.

    x: float32 or bfloat16, contiguous or channels-last. inv: one number, or what broadcasts to x.
    key: for stochastic rounding. zero_point: integer formats only.

    >>> from nybble.formats import get_format
    >>> packed = pack(torch.tensor([0.5, -3.0]), 2.0, get_format("int4"))
    >>> packed.codes[:2].tolist(), packed.amax, packed.poison
    ([1, 10], 3.0, 0.0)
    """
    chosen = fmt.default_rounding if rounding is None else rounding
    if isinstance(chosen, Stochastic):
        if key is None:
            raise UserError("stochastic rounding needs a key: which random bits to use")
        return pack_stochastic(x, inv, fmt, key, zero_point=zero_point, want_inside=want_inside)
    if isinstance(fmt, Integer):
        if not isinstance(chosen, Nearest):
            raise UserError(f"{fmt.name} has no rounding {chosen!r}")
        return _integer(x, inv, fmt, zero_point, want_inside)
    if zero_point is not None:
        raise NybbleError(f"{fmt.name}: a zero point is for integer formats")
    if isinstance(fmt, LogFormat) and log_rule(fmt, None, chosen) is not None:
        return _log(x, inv, fmt, None, chosen, want_inside)
    return pack_thresholds(x, inv, fmt, chosen, want_inside=want_inside)


def pack_integer(
    x: Tensor,
    inv: Tensor | float,
    fmt: Integer,
    zero_point: Tensor | float | None = None,
    want_inside: bool = False,
) -> tuple[Tensor, Tensor | None, float]:
    """(codes, mask bits or None, poison) of an integer format, rounded to nearest.

    >>> codes, mask, poison = pack_integer(
    ...     torch.tensor([0.4, 1.5, 99.0]), 1.0, Integer(4, signed=False), want_inside=True
    ... )
    >>> codes[:3].tolist(), mask.tolist(), poison
    ([0, 2, 15], [3], 0.0)
    """
    packed = _integer(x, inv, fmt, zero_point, want_inside)
    return packed.codes, packed.mask, packed.poison


def pack_two_phase(
    grad: Tensor,
    scale: Tensor | float,
    first: LogFormat,
    second: LogFormat | None,
    rounding: Rounding | None = None,
) -> tuple[Tensor, Tensor | None, float]:
    """(codes on the first grid, codes on the second, max|grad|): one read of the gradient.

    `second` may be None, or equal to `first`: then both codes are the same tensor.

    >>> even = LogFormat(4, 4)
    >>> one, two, amax = pack_two_phase(torch.tensor([1.0, -2.0, 3.0]), 1.0, even, even.odd())
    >>> one[:3].tolist(), two[:3].tolist(), amax
    ([4, 12, 5], [4, 13, 5], 3.0)
    """
    chosen = first.default_rounding if rounding is None else rounding
    if second is None or second == first:
        one = pack(grad, scale, first, chosen)
        return one.codes, None if second is None else one.codes, one.amax
    if log_rule(first, second, chosen) is None:
        one, two = pack(grad, scale, first, chosen), pack(grad, scale, second, chosen)
        return one.codes, two.codes, one.amax
    both = _log(grad, scale, first, second, chosen, False)
    return both.codes, both.second, both.amax


def pack_thresholds(
    x: Tensor,
    inv: Tensor | float,
    fmt: Format,
    rounding: Rounding | None = None,
    *,
    want_inside: bool = False,
) -> Packed:
    """Any monotone encoder of up to 16 codes: its break points, found by asking the oracle once.

    >>> from nybble.formats import get_format
    >>> pack_thresholds(torch.tensor([0.25, 0.26, -9.0]), 1.0, get_format("fp4_e2m1")).codes[:3]
    tensor([ 0,  1, 15], dtype=torch.uint8)
    """
    chosen = fmt.default_rounding if rounding is None else rounding
    call = _Call(x, inv, fmt, want_inside)
    amax, poison = require().pack_thresholds(
        *call.common, *call.mask_span, *_inside(fmt), threshold_rule(fmt, chosen), threads()
    )
    return Packed(call.codes, None, call.mask, amax, poison)


def pack_stochastic(
    x: Tensor,
    inv: Tensor | float,
    fmt: Format,
    key: RandomKey,
    *,
    zero_point: Tensor | float | None = None,
    want_inside: bool = False,
) -> Packed:
    """Codes by `Stochastic`, with the bits of `random24(x.shape, key)`: those of an element's
    place in C order, whatever the memory format.

    >>> from nybble.formats import get_format
    >>> packed = pack_stochastic(torch.full((4,), 0.5), 1.0, get_format("int4"), RandomKey(seed=0))
    >>> packed.codes[:4].tolist()
    [1, 0, 0, 0]
    """
    call = _Call(x, inv, fmt, want_inside)
    channels, pixels = (x.shape[1], x.shape[2] * x.shape[3]) if is_channels_last(x) else (1, 1)
    zero = 0.0 if zero_point is None else float(zero_point)
    amax, poison = require().pack_stochastic(
        *call.common,
        *call.mask_span,
        *_inside(fmt, deterministic=False),
        stochastic_rule(fmt, zero),
        *key_words(key),
        channels,
        pixels,
        threads(),
    )
    return Packed(call.codes, None, call.mask, amax, poison)


def _integer(
    x: Tensor,
    inv: Tensor | float,
    fmt: Integer,
    zero_point: Tensor | float | None,
    want_inside: bool,
) -> Packed:
    call = _Call(x, inv, fmt, want_inside)
    amax, poison = require().pack_integer(
        *call.common,
        *call.mask_span,
        *_inside(fmt),
        fmt.low,
        fmt.high,
        fmt.bits,
        zero_point is not None,
        0.0 if zero_point is None else float(zero_point),
        threads(),
    )
    return Packed(call.codes, None, call.mask, amax, poison)


def _log(
    x: Tensor,
    inv: Tensor | float,
    first: LogFormat,
    second: LogFormat | None,
    rounding: Rounding,
    want_inside: bool,
) -> Packed:
    call = _Call(x, inv, first, want_inside)
    other = None if second is None else kept(call.codes.numel())
    amax, poison = require().pack_log(
        *call.common,
        *((0, 0) if other is None else span(other, torch.uint8, "codes")),
        *call.mask_span,
        *_inside(first),
        log_rule(first, second, rounding),
        threads(),
    )
    return Packed(call.codes, other, call.mask, amax, poison)


def quantize_integer(
    x: Tensor, rule: bytes, clip: Tensor, *, want_inside: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(codes, multiplier `()`, mask bits or None) of a float32 tensor: its statistic, its scale and
    its codes in one call. `rule`: a `fit_rule`; `clip`: PACT's, one number; empty for
    scales that read the tensor.

    >>> from nybble.formats import get_format
    >>> from nybble.ops.native.rules import fit_rule
    >>> from nybble.quantizers import AbsMax, Quantizer
    >>> rule = fit_rule(Quantizer(get_format("int4_sym"), AbsMax()))
    >>> x, clip = torch.tensor([7.0, 2.0]), torch.empty(0)
    >>> codes, scale, _ = quantize_integer(x, rule, clip, want_inside=False)
    >>> codes[:2].tolist(), scale
    ([7, 2], tensor(1.))
    """
    n = x.numel()
    codes = kept(packed_bytes(n, 4))
    multiplier = torch.empty((), dtype=torch.float32)
    mask = kept(packed_bytes_bits(n)) if want_inside else None
    require().quantize_integer(
        *span(x, torch.float32, "x"),
        n,
        rule,
        *span(clip, torch.float32, "clip"),
        *own(codes),
        *((0, 0) if mask is None else own(mask)),
        *own(multiplier),
        threads(),
    )
    return codes, multiplier, mask


def quantize_gradient(
    grad: Tensor, used: float, rule: tuple[bytes, float, float, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """(codes on the first grid, codes on the second, numbers) of a float32 gradient under the scale
    `used`; numbers `[4]`: max|grad|, `used`, and the multiplier of each grid.

    `rule`: a `gradient_rule`; of one grid both codes are the same tensor.
    """
    bits, unit, second_unit, two = rule
    n = grad.numel()
    codes = kept(packed_bytes(n, 4))
    second = kept(codes.numel()) if two else codes
    numbers = torch.empty(4, dtype=torch.float32)
    require().quantize_gradient(
        *span(grad, torch.float32, "gradient"),
        n,
        used,
        bits,
        unit,
        second_unit,
        *own(codes),
        *(own(second) if two else (0, 0)),
        *own(numbers),
        threads(),
    )
    return codes, second, numbers


class _Call:
    """The arguments that all pack kernels share, and the memory that they write to."""

    def __init__(self, x: Tensor, inv: Tensor | float, fmt: Format, want_inside: bool):
        if not packs(fmt):
            raise NybbleError(f"{fmt.name}: native packing is for 4-bit formats with a unit")
        if x.dtype not in FLOATS:
            raise NybbleError(f"pack: expected float32 or bfloat16, got {x.dtype}; convert it")
        n = x.numel()
        self.codes = kept(packed_bytes(n, 4))
        self.mask = kept(packed_bytes_bits(n)) if want_inside else None
        self.mask_span = (0, 0) if self.mask is None else span(self.mask, torch.uint8, "mask")
        self.factors, run = _factors(inv, x)
        self.common = (
            *span(x, x.dtype, "x"),
            x.dtype is torch.bfloat16,
            n,
            *span(self.factors, torch.float32, "inv"),
            run,
            *span(self.codes, torch.uint8, "codes"),
        )


def _factors(inv: Tensor | float, x: Tensor) -> tuple[Tensor, int]:
    """(values, run): element i of memory is multiplied by values[i // run % len(values)]."""
    if not isinstance(inv, Tensor):
        return torch.tensor([inv], dtype=torch.float32), 1
    inv = inv.detach().to(torch.float32)
    if inv.numel() == 0 and x.numel():
        raise NybbleError(f"pack: no factors for a tensor of shape {tuple(x.shape)}")
    if inv.numel() == 1:
        return inv.reshape(1), 1
    shape = x.shape
    inv = inv.reshape((1,) * (x.dim() - inv.dim()) + tuple(inv.shape))
    if is_channels_last(x):
        inv, shape = inv.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1).shape
    varying = [d for d, size in enumerate(inv.shape) if size > 1]
    if not varying or x.numel() == 0:
        return torch.ones(1, dtype=torch.float32), 1
    first, last = varying[0], varying[-1]
    if inv.shape[first : last + 1] == shape[first : last + 1]:
        return inv.reshape(-1).contiguous(), max(prod(shape[last + 1 :]), 1)
    return inv.expand(shape).reshape(-1), 1


def _inside(fmt: Format, deterministic: bool = True) -> tuple[float, float]:
    """The ends of the range in which the reference counts a number as not clipped."""
    if isinstance(fmt, Integer) and deterministic:
        return float(fmt.low), float(fmt.high)
    return -fmt.max_value, fmt.max_value
