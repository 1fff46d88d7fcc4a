"""How a Gemm is cut for a machine: cores, array and memories, each the best of those tried.

    C [M, N] += A [M, K] x B [K, N]        `count` independent ones; bytes a, b, c of the operands

Array. One core's engine multiplies m x n x k elements in a cycle. With an operand held in the array

    weight    B is held:  rows of the array along K, columns along N, the rows of A stream
    input     A is held:  the same with A and B exchanged
    output    C is held:  rows along M, columns along N, K streams

    cycles = ceil(M/m) ceil(N/n) ceil(K/k) + fill

and at least as many cycles a fold as the next held block takes to load (k rows).
A convolution's taps multiply K (or N of a weight gradient): where the array cannot take them beside
the channels, ceil(taps * channels / k) becomes taps * ceil(channels / k).

Cores. The product is cut into c_b x c_m x c_n x c_k parts; parts of K add their results afterwards.
The cut with the fewest cycles, then the least traffic, is taken.

Memories. What crosses into a memory of S bytes, half of which holds the tiles (the other half is
being filled), for tiles t_m x t_n x t_k and one operand that stays while the others go by:

    C stays   a ceil(N/t_n)      + b ceil(M/t_m)      + c
    A stays   a                  + b ceil(M/t_m)      + c (2 ceil(K/t_k) - 1)
    B stays   a ceil(N/t_n)      + b                  + c (2 ceil(K/t_k) - 1)

with partial sums of 4 bytes where c is added to more than once. Tiles are powers of two and the
whole dimension. Every level is cut on its own.

Source: the standard tiling model of accelerators (Timeloop, ZigZag and others use richer ones); the
cycles without overlap are SCALE-Sim's (`fold_cycles`). Not done here: one tiling for all levels at
once, bank conflicts, double buffers of unequal size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Final

import numpy as np

__all__ = ["Array", "Cut", "Shape", "best_cut", "fold_cycles", "traffic"]

PARTIAL_BYTES: Final = 4


@dataclass(frozen=True)
class Shape:
    """A Gemm as a machine sees it. taps multiply the dimension `tapped`; a, b, c in bytes."""

    count: int
    m: int
    n: int
    k: int
    a: float
    b: float
    c: float
    taps: int = 1
    tapped: str = "k"

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.count * self.m * self.n * self.k


@dataclass(frozen=True)
class Array:
    """One core's engine."""

    m: int
    n: int
    k: int
    dataflows: tuple[str, ...]
    flattens: bool


@dataclass(frozen=True)
class Cut:
    """The parts of a Gemm over the cores, the operand that the array holds, and the cycles."""

    parts: tuple[int, int, int, int]
    dataflow: str
    cycles: float
    shape: Shape

    @property
    def cores(self) -> int:
        """How many cores have a part."""
        return math.prod(self.parts)


def fold_cycles(m: int, n: int, k: int, rows: int, columns: int, dataflow: str) -> int:
    """Cycles of an array of rows x columns single multipliers that does one fold after the other
    and overlaps nothing: the length of SCALE-Sim's demand traces (Samajdar et al. 2018, arXiv
    1811.02883; the formula is read off scalesim 3.0 and tests/hardware/test_scalesim.py checks it).

    weight, input    a fold loads what is held (rows), streams (M or N), drains along rows and
                     columns: 2 rows + columns + streamed - 2
    output           a fold streams K, skewed along rows and columns; nothing is loaded before, and
                     results leave behind the skew: rows + columns + K - 2

    >>> fold_cycles(100, 32, 32, 32, 32, "weight")
    194
    >>> fold_cycles(100, 32, 32, 32, 32, "output")
    376
    """
    if dataflow == "output":
        folds = math.ceil(m / rows) * math.ceil(n / columns)
        return folds * (rows + columns + k - 2)
    held, streamed = (n, m) if dataflow == "weight" else (m, n)
    folds = math.ceil(k / rows) * math.ceil(held / columns)
    return folds * (2 * rows + columns + streamed - 2)


def _folds(size: int, unit: int, taps: int, flattens: bool) -> int:
    """ceil(size / unit), with the taps of a convolution one after the other if they must be."""
    if taps == 1 or flattens:
        return math.ceil(size / unit)
    return taps * math.ceil(size // taps / unit)


def array_cycles(shape: Shape, array: Array, dataflow: str) -> float:
    """Cycles of one core for one product of the shape, folds overlapping; see the module.

    >>> array = Array(1, 64, 64, ("weight",), True)
    >>> array_cycles(Shape(1, 1024, 64, 64, 1, 1, 1), array, "weight")
    1152.0
    """
    m, n, k = shape.m, shape.n, shape.k
    taps_n = shape.taps if shape.tapped == "n" else 1
    taps_k = shape.taps if shape.tapped == "k" else 1
    if dataflow == "output":
        folds = _folds(m, array.m * array.k, 1, True) * _folds(n, array.n, taps_n, array.flattens)
        return float(folds * max(k, array.k) + array.k + array.n)
    if dataflow == "input":
        m, n = n, m
        taps_m, taps_n = taps_n, 1
    else:
        taps_m = 1
    streamed = _folds(m, array.m, taps_m, True)
    held = _folds(n, array.n, taps_n, array.flattens) * _folds(k, array.k, taps_k, array.flattens)
    return float(held * max(streamed, array.k) + array.k + array.n)


@lru_cache(maxsize=65536)
def best_cut(shape: Shape, array: Array, cores: int) -> Cut:
    """The cut over `cores` with the fewest cycles, adding up included.

    >>> cut = best_cut(Shape(1, 4096, 512, 512, 1, 1, 1), Array(1, 64, 64, ("weight",), True), 4)
    >>> cut.cores, cut.cycles / (4096 * 512 * 512 / 64 / 64 / 4) < 1.02
    (4, True)
    """
    best: tuple[float, float, Cut] | None = None
    for parts in _parts(shape, cores):
        b, pm, pn, pk = parts
        part = Shape(
            math.ceil(shape.count / b),
            math.ceil(shape.m / pm),
            math.ceil(shape.n / pn),
            math.ceil(shape.k / pk),
            *(shape.a, shape.b, shape.c),
            shape.taps,
            shape.tapped,
        )
        for dataflow in array.dataflows:
            cycles = part.count * array_cycles(part, array, dataflow)
            if pk > 1:  # results of the parts are added, one vector of the array's columns a cycle
                cycles += math.ceil(math.log2(pk)) * part.count * part.m * part.n / array.n
            copied = shape.a * (pn - 1) + shape.b * (pm - 1) + shape.c * (pk - 1)
            if best is None or (cycles, copied) < best[:2]:
                best = (cycles, copied, Cut(parts, dataflow, cycles, part))
    assert best is not None
    return best[2]


@lru_cache(maxsize=4096)
def _divisions(cores: int) -> tuple[tuple[int, int, int, int], ...]:
    """Every way to write at most `cores` as a product of four: powers of two and `cores` itself."""
    steps = sorted({*(1 << i for i in range(cores.bit_length()) if 1 << i <= cores), cores})
    found = [(b, m, n, k) for b, m, n, k in product(steps, repeat=4) if b * m * n * k <= cores]
    most = [p for p in found if math.prod(p) * 2 > cores]
    return tuple(most or found)


def _parts(shape: Shape, cores: int) -> list[tuple[int, int, int, int]]:
    fits = [
        p
        for p in _divisions(cores)
        if p[0] <= shape.count and p[1] <= shape.m and p[2] <= shape.n and p[3] <= shape.k
    ]
    return fits or [(1, 1, 1, 1)]


@lru_cache(maxsize=65536)
def traffic(shape: Shape, capacity: float) -> float:
    """Bytes that cross into a memory of `capacity` bytes for one product (of `count`, all of them),
    results that leave included; the least over tiles and stationary operand.

    >>> small = Shape(1, 64, 64, 64, 4096.0, 4096.0, 4096.0)
    >>> traffic(small, 1e6)
    12288.0
    >>> traffic(Shape(1, 4096, 4096, 4096, 2.0**24, 2.0**24, 2.0**24), 2.0**20) > 3 * 2**24
    True
    """
    each = [x / shape.count for x in (shape.a, shape.b, shape.c)]
    a, b, c = each
    if a + b + c <= capacity / 2:
        return (a + b + c) * shape.count
    per_a = a / (shape.m * shape.k)
    per_b = b / (shape.k * shape.n)
    per_c = max(c / (shape.m * shape.n), PARTIAL_BYTES)
    m, n, k = np.meshgrid(*(_tiles(x) for x in (shape.m, shape.n, shape.k)), indexing="ij")
    held = m * k * per_a + k * n * per_b + m * n * per_c
    fits = held <= capacity / 2
    if not fits.any():
        fits = held <= held.min()
    times_m, times_n = np.ceil(shape.m / m), np.ceil(shape.n / n)
    times_k = np.ceil(shape.k / k)
    partial = shape.m * shape.n * PARTIAL_BYTES
    sums = np.where(times_k > 1, c + 2.0 * (times_k - 1) * partial, c)
    stays_c = a * times_n + b * times_m + c
    stays_a = a + b * times_m + sums
    stays_b = a * times_n + b + sums
    least = np.minimum(np.minimum(stays_a, stays_b), stays_c)
    return float(least[fits].min()) * shape.count


def _tiles(size: int) -> np.ndarray:
    found = {1 << i for i in range(3, max(4, size.bit_length())) if 1 << i < size} | {size}
    return np.array(sorted(found), dtype=np.float64)
