"""Rounding rules as the bytes that the pack kernels read: the structs of csrc/quantize/pack.hpp.

Each is computed once for a format and a rounding, from the format's own thresholds and values, and
cached. `log_rule` is None where the bit-pattern kernel does not apply.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np

from nybble.formats import Format, Integer, LogFormat, LogNearest, Minifloat, Rounding
from nybble.formats.breakpoints import breakpoints, unkey
from nybble.formats.exact import float32_bits
from nybble.formats.log import aligned_plan

__all__ = ["log_rule", "stochastic_rule", "threshold_rule"]


@lru_cache(maxsize=256)
def log_rule(first: LogFormat, second: LogFormat | None, rounding: Rounding) -> bytes | None:
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
def threshold_rule(fmt: Format, rounding: Rounding) -> bytes:
    """ThresholdRule: where the oracle's code changes."""
    found = breakpoints(fmt, rounding)
    thresholds = np.full(16, np.nan, dtype=np.float32)
    thresholds[: len(found.first) - 1] = unkey(found.first[1:])
    table = bytes(found.codes.astype(np.uint8)).ljust(16, b"\0")
    return thresholds.tobytes() + table


@lru_cache(maxsize=256)
def stochastic_rule(fmt: Format, zero: float) -> bytes:
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
