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

Also here: max|x| and SAWB's moments in one read, sums in the order of `quantizers/sums.py`, PACT's
mask and clip gradient in one pass over dx, random bits, and the transpose of packed codes.

Not done here: formats of more than 4 bits, and those without a unit.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from math import prod
from types import ModuleType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nybble.errors import NybbleError, UserError
from nybble.formats import (
    Format,
    Integer,
    LogFormat,
    LogNearest,
    Minifloat,
    Nearest,
    Rounding,
    Stochastic,
)
from nybble.formats.breakpoints import breakpoints, unkey
from nybble.formats.exact import float32_bits
from nybble.formats.log import aligned_plan
from nybble.ops.native import core
from nybble.ops.native.buffers import span, threads
from nybble.ops.native.codes import table_of
from nybble.ops.reference.storage import is_channels_last
from nybble.quantizers.packing import packed_bytes, packed_bytes_bits
from nybble.quantizers.random import RandomKey

__all__ = [
    "Packed",
    "absmax",
    "absmax_rows",
    "mask_gradient_",
    "pack",
    "pack_integer",
    "pack_stochastic",
    "pack_thresholds",
    "pack_two_phase",
    "packs",
    "random24",
    "relayout",
    "sawb_statistics",
    "tree_sum",
    "tree_sum_last",
]

_FLOATS = (torch.float32, torch.bfloat16)


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
    if isinstance(fmt, LogFormat) and _log_rule(fmt, None, chosen) is not None:
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
    if _log_rule(first, second, chosen) is None:
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
    amax, poison = _core().pack_thresholds(
        *call.common, *call.mask_span, *_inside(fmt), _threshold_rule(fmt, chosen), threads()
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
    amax, poison = _core().pack_stochastic(
        *call.common,
        *call.mask_span,
        *_inside(fmt, deterministic=False),
        _stochastic_rule(fmt, zero),
        *_key(key),
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
    amax, poison = _core().pack_integer(
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
    other = None if second is None else torch.empty_like(call.codes)
    amax, poison = _core().pack_log(
        *call.common,
        *((0, 0) if other is None else span(other, torch.uint8, "codes")),
        *call.mask_span,
        *_inside(first),
        _log_rule(first, second, rounding),
        threads(),
    )
    return Packed(call.codes, other, call.mask, amax, poison)


class _Call:
    """The arguments that all pack kernels share, and the memory that they write to."""

    def __init__(self, x: Tensor, inv: Tensor | float, fmt: Format, want_inside: bool):
        if not packs(fmt):
            raise NybbleError(f"{fmt.name}: native packing is for 4-bit formats with a unit")
        if x.dtype not in _FLOATS:
            raise NybbleError(f"pack: expected float32 or bfloat16, got {x.dtype}; convert it")
        n = x.numel()
        self.codes = torch.empty(packed_bytes(n, 4), dtype=torch.uint8)
        self.mask = torch.empty(packed_bytes_bits(n), dtype=torch.uint8) if want_inside else None
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


# ---- rules as bytes (csrc/quantize/pack.hpp) -----------------------------------------------------


@lru_cache(maxsize=256)
def _log_rule(first: LogFormat, second: LogFormat | None, rounding: Rounding) -> bytes | None:
    """LogRule, or None where the bit-pattern kernel does not apply to the two grids together."""
    phases, carries = [], set()
    for fmt in (first, first if second is None else second):
        plan = aligned_plan(fmt, rounding)
        if plan is None or not isinstance(rounding, LogNearest) or fmt.bits > 4:
            return None
        threshold = float32_bits(fmt.thresholds(LogNearest(rounding.factor))[0])
        carry, step = -threshold & 0xFFFF, -plan.mask
        start = (threshold + carry - step) >> 16
        half = 0 if plan.shrink is None else float32_bits(plan.shrink)
        if start < 0 or half & 0xFFFF:
            return None
        top, sign = (1 << (fmt.bits - 1)) - 1, 1 << (fmt.bits - 1)
        table = bytes(
            c - 8 if 0 <= c - 8 <= top else (8 - c) | sign if 0 < 8 - c <= top else 0
            for c in range(16)
        )
        shift = step.bit_length() - 17
        phases.append(struct.pack("<HHHH", start, shift, top, half >> 16) + table)
        carries.add(carry)
    if len(carries) > 1:
        return None
    halves = isinstance(rounding, LogNearest) and rounding.underflow == "half"
    return struct.pack("<HH", carries.pop(), halves) + b"".join(phases)


@lru_cache(maxsize=256)
def _threshold_rule(fmt: Format, rounding: Rounding) -> bytes:
    """ThresholdRule: where the oracle's code changes."""
    found = breakpoints(fmt, rounding)
    thresholds = np.full(16, np.nan, dtype=np.float32)
    thresholds[: len(found.first) - 1] = unkey(found.first[1:])
    table = bytes(found.codes.astype(np.uint8)).ljust(16, b"\0")
    return thresholds.tobytes() + table


@lru_cache(maxsize=256)
def _stochastic_rule(fmt: Format, zero: float) -> bytes:
    """StochasticRule: ascending levels, or magnitudes where the sign is a bit of the code."""
    values = fmt.values()
    magnitude = isinstance(fmt, LogFormat | Minifloat)
    table = [0] * 16
    if magnitude:
        sign = 1 << (fmt.bits - 1)
        levels = list(values[:sign])
        table[: len(levels)] = range(len(levels))
        table[9 : 8 + len(levels)] = [rank | sign for rank in range(1, len(levels))]
    else:
        low = fmt.low if isinstance(fmt, Integer) else min(values)
        levels = sorted({v for v in values if v >= low})
        table[: len(levels)] = [values.index(v) for v in levels]
    padded = np.zeros(16, dtype=np.float32)
    padded[: len(levels)] = levels
    return padded.tobytes() + struct.pack("<iif", len(levels), magnitude, zero) + bytes(table)


# ---- statistics ---------------------------------------------------------------------------------


def absmax(x: Tensor) -> Tensor:
    """max|x| as a float32 scalar tensor: NaN if there is one, 0 for an empty tensor.

    >>> absmax(torch.tensor([1.0, -3.0]))
    tensor(3.)
    """
    return absmax_rows(x, 1).reshape(())


def absmax_rows(x: Tensor, rows: int) -> Tensor:
    """max|x| of each of `rows` equal runs of memory: rows of a matrix, output channels of weights.

    >>> absmax_rows(torch.tensor([[1.0, -3.0], [0.5, 0.0]]), 2)
    tensor([3.0000, 0.5000])
    """
    if rows < 1 or x.numel() % rows or x.dtype not in _FLOATS:
        raise NybbleError(f"absmax: {rows} rows of {tuple(x.shape)}, {x.dtype}")
    out = torch.empty(rows, dtype=torch.float32)
    _core().absmax(
        *span(x, x.dtype, "x"),
        x.dtype is torch.bfloat16,
        rows,
        x.numel() // rows,
        *span(out, torch.float32, "out"),
        threads(),
    )
    return out


def tree_sum(x: Tensor) -> Tensor:
    """Sum of a float32 tensor in the order of `quantizers.tree_sum`, elements in memory order.

    >>> tree_sum(torch.full((3, 5), 0.5))
    tensor(7.5000)
    """
    return _sums(x, 1).reshape(())


def tree_sum_last(x: Tensor) -> Tensor:
    """Sum of every row of a contiguous float32 matrix, each in the order of `tree_sum`.

    >>> tree_sum_last(torch.ones(2, 3000))
    tensor([3000., 3000.])
    """
    if x.dim() != 2:
        raise NybbleError(f"tree_sum_last: expected a matrix, got shape {tuple(x.shape)}")
    return _sums(x, x.shape[0])


def _sums(x: Tensor, batch: int) -> Tensor:
    out = torch.empty(batch, dtype=torch.float32)
    n = x.numel() // batch if batch else 0
    _core().tree_sums(
        *span(x, torch.float32, "x"), batch, n, *span(out, torch.float32, "out"), threads()
    )
    return out


def sawb_statistics(w: Tensor) -> npt.NDArray[np.float32]:
    """Sum of squares, sum of magnitudes and largest magnitude of every row of a contiguous float32
    matrix `[B, n]`: float32 `[3, B]`, in one read.

    >>> sawb_statistics(torch.tensor([[1.0, -3.0], [0.5, 0.0]])).tolist()
    [[10.0, 0.25], [4.0, 0.5], [3.0, 0.5]]
    """
    if w.dim() != 2:
        raise NybbleError(f"sawb_statistics: expected a matrix, got shape {tuple(w.shape)}")
    batch, n = w.shape
    out = torch.empty(3, batch, dtype=torch.float32)
    _core().moments(
        *span(w, torch.float32, "w"), batch, n, *span(out, torch.float32, "out"), threads()
    )
    return out.numpy()


# ---- the clip and its gradient -------------------------------------------------------------------


def mask_gradient_(
    dx: Tensor,
    mask: Tensor,
    codes: Tensor | None = None,
    fmt: Format | None = None,
    zero_point: int = 0,
    *,
    two_sided: bool = False,
) -> Tensor | None:
    """dx *= inside, in place; with `codes` also PACT's gradient of the clip(s), in the same pass.

    dx: float32, dense, in the memory order of the mask bits and the codes. codes: 4-bit codes of
    `fmt` whose integers, less the zero point, tell by their sign on which side an element was
    clipped. Returns the gradient `[1]`, or `[2]` (upper, lower) where `two_sided`; else None.

    >>> dx, mask = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0b001], dtype=torch.uint8)
    >>> codes = torch.zeros(32, dtype=torch.uint8)
    >>> codes[1:3] = torch.tensor([7, 9])
    >>> mask_gradient_(dx, mask, codes, Integer(4)), dx
    (tensor([-2.]), tensor([1., 0., 0.]))
    """
    if codes is not None and (fmt is None or fmt.bits > 4):
        raise NybbleError("mask_gradient_: codes need the 4-bit format that they are of")
    if codes is not None and codes.numel() < packed_bytes(dx.numel(), 4):
        raise NybbleError(f"mask_gradient_: {codes.numel()} bytes for {dx.numel()} codes")
    sides = bytes(16) if fmt is None else _sides(fmt, int(zero_point))
    first, second = _core().mask_gradient(
        *span(dx, torch.float32, "dx"),
        dx.numel(),
        *span(mask, torch.uint8, "mask"),
        *((0, 0) if codes is None else span(codes, torch.uint8, "codes")),
        sides,
        two_sided,
        threads(),
    )
    if codes is None:
        return None
    return torch.tensor([first, second] if two_sided else [first], dtype=torch.float32)


@lru_cache(maxsize=256)
def _sides(fmt: Format, zero_point: int) -> bytes:
    table = table_of(fmt, zero_point, encoded=False)[0]
    return bytes(table.sign().to(torch.int8).view(torch.uint8).tolist())


# ---- random bits, layouts -----------------------------------------------------------------------


def random24(n: int, key: RandomKey) -> Tensor:
    """The first n of the integers of `quantizers.random24`: int32 `[n]`.

    >>> random24(3, RandomKey(seed=0)).tolist()
    [6694888, 14772677, 12343212]
    """
    out = torch.empty(n, dtype=torch.int32)
    _core().random24(*_key(key), n, *span(out, torch.int32, "out"), threads())
    return out


def relayout(codes: Tensor, n: int, rows: int, columns: int) -> Tensor:
    """Packed codes of n matrices `[rows, columns]`, each transposed: NCHW to NHWC with rows = C and
    columns = H W, back with the two exchanged.

    >>> from nybble.quantizers.packing import pack4, unpack4
    >>> codes = pack4(torch.arange(6, dtype=torch.uint8))
    >>> unpack4(relayout(codes, 1, 2, 3), 6).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    out = torch.empty_like(codes)
    _core().relayout(
        *span(codes, torch.uint8, "codes"),
        n,
        rows,
        columns,
        *span(out, torch.uint8, "out"),
        threads(),
    )
    return out


def _key(key: RandomKey) -> tuple[int, int, int, int, int]:
    return key.seed, key.rank, key.layer, key.call, key.operand


def _core() -> ModuleType:
    module, reason = core()
    if module is None:
        raise NybbleError(f"native kernels: {reason}")
    return module
