"""Hostile numbers to the raw functions of `nybble._core`: run as a child, see test_fuzz.py.

    python -m tests.ops.native.fuzz_core ISA [FUNCTION ...]

From a call that works, one or two numbers at a time are replaced: sizes become negative, zero,
huge or such that their product overflows; addresses null or misaligned; byte counts too small. Each
call must raise ValueError (TypeError for a number that is no such integer, MemoryError for memory
that is not there) or succeed, and must not write beyond its arrays, which end in canaries. Byte
counts are never raised: whoever claims bytes that are not there cannot be found out.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import nybble._core as core
from nybble.formats import LogFormat, LogNearest, Nearest, get_format
from nybble.ops.native import blocks, lines, recurrent, rules
from nybble.quantizers import get_quantizer

CANARY = 64
SIZES = (-1, 0, 1, 2, 3, 5, 63, 65, 2**16, 2**31 - 1, 2**31, 2**40, 2**46, 2**61, 2**62, 2**63 - 1)
SIZES += (-(2**31), -(2**63), 2**63, 2**64)
REFUSALS = (ValueError, TypeError, MemoryError)


class Threads(int):
    """The number of threads: libgomp makes as many as it is told, so most tries are small ones."""


THREADS = Threads(2)


class Arena:
    """The arrays of one call, each with a canary behind it."""

    def __init__(self) -> None:
        self.arrays: list[tuple[Tensor, int]] = []

    def array(self, count: int, dtype: torch.dtype, fill: int = 0) -> tuple[int, int]:
        size = torch.empty(0, dtype=dtype).element_size() * count
        memory = torch.full((size + CANARY,), fill, dtype=torch.uint8)
        memory[size:] = 0xC5
        self.arrays.append((memory, size))
        return memory.data_ptr(), size

    def bytes(self, count: int, fill: int = 0x21) -> tuple[int, int]:
        return self.array(count, torch.uint8, fill)

    def floats(self, count: int) -> tuple[int, int]:
        return self.array(count, torch.float32)

    def intact(self) -> bool:
        return all(bool((memory[size:] == 0xC5).all()) for memory, size in self.arrays)

    def addresses(self) -> set[int]:
        return {memory.data_ptr() for memory, _ in self.arrays}


def packed(count: int) -> int:
    return (count + 63) // 64 * 32


def decode_bytes(a: Arena) -> list[Any]:
    table, _ = a.bytes(16)
    return [*a.bytes(packed(105)), 5, 100, table, *a.bytes(100)]


def decode_words(a: Arena) -> list[Any]:
    table, _ = a.array(16, torch.int16)
    return [*a.bytes(packed(105)), 5, 100, table, *a.array(100, torch.int16)]


def _operand(a: Arena, count: int, low: int = -8, high: int = 7) -> tuple[Any, ...]:
    return a.bytes(packed(count)), a.array(16, torch.int16, 1), 4, low, high, False


def gemm(a: Arena) -> list[Any]:
    m, n, k = 7, 18, 70
    scales = [a.floats(m), a.floats(n), a.floats(n), a.floats(m * n)]
    return [m, n, k, _operand(a, m * k, 0, 300), _operand(a, n * k), *scales, THREADS, 2**31 - 1]


def gemm_batch(a: Arena) -> list[Any]:
    count, m, n, k = 3, 8, 16, 8
    operands = [_operand(a, count * m * k, 0, 15), _operand(a, count * n * k)]
    arrays = [a.floats(1), a.floats(1), a.floats(count * m * n)]
    return [count, m, n, k, *operands, *arrays, THREADS, 2**31 - 1]


def block_gemm(a: Arena) -> list[Any]:
    m, n, k, block = 7, 18, 70, 16
    operands = [_operand(a, m * k, 0, 15), _operand(a, n * k)]
    blocks = -(-k // block)
    scale_a = [a.floats(m * blocks), (blocks, 1)]
    scale_b = [a.floats(n * blocks), (1, n)]
    return [m, n, k, *operands, block, *scale_a, *scale_b, a.floats(m * n), THREADS, 2**31 - 1]


_CONV = [2, 5, 6, 9, 4, 3, 3, 2, 1, 1, 1, 1, 1, 1]  # out: 3 x 6
_X, _W, _Y = 2 * 5 * 6 * 9, 4 * 9 * 9, 2 * 3 * 6 * 4


def _conv_operand(a: Arena, count: int) -> tuple[Any, ...]:
    return *a.bytes(packed(count)), 4, *a.array(16, torch.int16, 1), -8, 300


def conv_output(a: Arena) -> list[Any]:
    operands = [_conv_operand(a, _X), _conv_operand(a, _W)]
    return [
        list(_CONV),
        *operands,
        a.floats(1),
        a.floats(4),
        a.floats(4),
        a.floats(_Y),
        THREADS,
        2**30,
    ]


def conv_grad_input(a: Arena) -> list[Any]:
    operands = [_conv_operand(a, _Y), _conv_operand(a, _W)]
    return [list(_CONV), *operands, a.floats(1), a.floats(9), a.floats(_X), THREADS, 2**30]


def conv_grad_weight(a: Arena) -> list[Any]:
    operands = [_conv_operand(a, _Y), _conv_operand(a, _X)]
    return [list(_CONV), *operands, a.floats(4), a.floats(9), a.floats(_W), THREADS, 2**30]


def _winograd_operand(a: Arena, count: int) -> list[Any]:
    return [*a.bytes(packed(count)), *a.array(16, torch.int16), -8, 7]


def winograd_correlate(a: Arena) -> list[Any]:
    n, h, w, c, o = 2, 5, 6, 19, 17
    operands = [*_winograd_operand(a, n * h * w * c), *_winograd_operand(a, o * 9 * c)]
    scales = [*a.floats(o), False, *a.floats(o)]
    return [*operands, False, n, h, w, c, o, 1, 1, *scales, *a.floats(n * h * w * o), THREADS]


def winograd_grad_weight(a: Arena) -> list[Any]:
    n, h, w, c, o = 2, 5, 6, 19, 17
    operands = [*_winograd_operand(a, n * h * w * o), *_winograd_operand(a, n * h * w * c)]
    scales = [*a.floats(o), *a.floats(c)]
    return [*operands, n, h, w, c, o, 1, 1, *scales, *a.floats(o * 9 * c), 2**31 - 1, THREADS]


_N = 150


def _pack(a: Arena, factors: int = 1) -> list[Any]:
    return [*a.floats(_N), False, _N, *a.floats(factors), 1, *a.bytes(packed(_N))]


def _mask(a: Arena) -> list[Any]:
    return [*a.bytes((_N + 7) // 8), -8.0, 7.0]


def pack_integer(a: Arena) -> list[Any]:
    return [*_pack(a), *_mask(a), -8, 7, 4, False, 0.0, THREADS]


def pack_log(a: Arena) -> list[Any]:
    rule = rules.log_rule(LogFormat(4, 4), LogFormat(4, 4).odd(), LogNearest("1.6"))
    return [*_pack(a), *a.bytes(packed(_N)), *_mask(a), rule, THREADS]


def quantize_integer(a: Arena) -> list[Any]:
    rule = rules.fit_rule(get_quantizer("uint4·pact(unsigned)"))
    clip, codes, mask = a.array(1, torch.float32, 0x3F), a.bytes(packed(_N)), a.bytes((_N + 7) // 8)
    return [*a.floats(_N), _N, rule, *clip, *codes, *mask, *a.floats(1), THREADS]


def quantize_gradient(a: Arena) -> list[Any]:
    rule = rules.log_rule(LogFormat(4, 4), LogFormat(4, 4).odd(), LogNearest("1.6"))
    codes = *a.bytes(packed(_N)), *a.bytes(packed(_N))
    return [*a.floats(_N), _N, 16.0, rule, 0.5, 0.25, *codes, *a.floats(4), THREADS]


def pack_thresholds(a: Arena) -> list[Any]:
    fmt = get_format("fp4_e2m1")
    rule = rules.threshold_rule(fmt, fmt.default_rounding)
    return [*_pack(a, 3), *_mask(a), rule, THREADS]


def pack_stochastic(a: Arena) -> list[Any]:
    rule = rules.stochastic_rule(get_format("int4"), 0.0)
    return [*_pack(a), *_mask(a), rule, 1, 2, 3, 4, 5, 3, 50, THREADS]


def absmax(a: Arena) -> list[Any]:
    return [*a.floats(3 * 50), False, 3, 50, *a.floats(3), THREADS]


def random24(a: Arena) -> list[Any]:
    return [1, 2, 3, 4, 5, 1000, *a.floats(1000), THREADS]


def relayout(a: Arena) -> list[Any]:
    return [*a.bytes(packed(2 * 5 * 33)), 2, 5, 33, *a.bytes(packed(2 * 5 * 33)), THREADS]


def tree_sums(a: Arena) -> list[Any]:
    return [*a.floats(2 * 1100), 2, 1100, *a.floats(2), THREADS]


def moments(a: Arena) -> list[Any]:
    return [*a.floats(2 * 1100), 2, 1100, *a.floats(6), THREADS]


def mask_gradient(a: Arena) -> list[Any]:
    return [*a.floats(_N), _N, *a.bytes(19), *a.bytes(packed(_N)), bytes(16), True, THREADS]


def fingerprint(a: Arena) -> list[Any]:
    return [*a.floats(1000), 1000, THREADS]


_ROWS, _COLUMNS = 6, 40


def folded_statistics(a: Arena) -> list[Any]:
    factors = [a.floats(_COLUMNS), a.floats(_ROWS)]
    tops = [a.array(_ROWS, torch.int32), a.array(_COLUMNS, torch.int32)]
    return [
        a.floats(_ROWS * _COLUMNS),
        _ROWS,
        _COLUMNS,
        *factors,
        *tops,
        a.floats(_COLUMNS),
        THREADS,
    ]


def folded_pack(a: Arena) -> list[Any]:
    rule = rules.stochastic_rule(get_format("g31"), 0.0)
    operands = [
        ((a.floats(lines), run), (a.floats(lines), run), rule, (1, 2, 3, 4, 5), codes)
        for lines, run, codes in (
            (_ROWS, _COLUMNS, a.bytes(packed(_ROWS * _COLUMNS))),
            (_COLUMNS, 1, a.bytes(packed(_ROWS * _COLUMNS))),
        )
    ]
    return [a.floats(_ROWS * _COLUMNS), _ROWS, _COLUMNS, *operands, 1, 1, THREADS]


def best_of_two(a: Arena) -> list[Any]:
    rule = lines.best_rule(get_format("w20"), 0.1362)
    return [a.floats(_ROWS * 100), _ROWS, 100, rule, a.floats(_ROWS), a.floats(_ROWS), THREADS]


def column_sums(a: Arena) -> list[Any]:
    codes = a.bytes(packed(_ROWS * _COLUMNS))
    return [codes, bytes(range(16)), _ROWS, _COLUMNS, a.array(_COLUMNS, torch.int64), THREADS]


def add_outer(a: Arena) -> list[Any]:
    return [a.floats(_ROWS * 9), _ROWS, 9, a.floats(_ROWS), a.floats(9), THREADS]


def line_scales(a: Arena) -> list[Any]:
    return [a.floats(9), 9, 31.0, a.floats(9), a.floats(9)]


def image_error(a: Arena) -> list[Any]:
    sums, scale = a.array(5 * 6, torch.int64), a.floats(5)
    x, factors, out = a.floats(3 * 5 * 6), a.floats(3), a.floats(5 * 6)
    return [x, 3, 5, 6, True, factors, sums, scale, out, THREADS]


def tap_sums(a: Arena) -> list[Any]:
    seen = [(0, 2), (0, 3), (1, 3)]
    return [a.floats(5 * 3 * 3), 5, 3, 3, True, seen, seen, a.floats(5 * 9), THREADS]


def block_tops(a: Arena) -> list[Any]:
    return [a.floats(3 * 40 * 4), [(3, 1), (40, 16), (4, 1)], a.floats(3 * 3 * 4), THREADS]


def scale_blocks(a: Arena) -> list[Any]:
    x, scales, y = a.floats(6 * 40), a.floats(2 * 3), a.floats(6 * 40)
    return [x, [(6, 4), (40, 16)], scales, y, THREADS]


def round_nearest(a: Arena) -> list[Any]:
    rule = blocks.nearest_levels(get_format("fp4_e2m1"), Nearest())
    return [a.floats(6 * 40), [(6, 1), (40, 16)], a.floats(6 * 3), rule, a.floats(6 * 40), THREADS]


def round_stochastic(a: Arena) -> list[Any]:
    rule = blocks.stochastic_levels(get_format("fp4_e2m1"))
    x, inv, y = a.floats(2 * 40 * 6), a.floats(2 * 40), a.floats(2 * 40 * 6)
    grid = [(80, 1), (6, 16)]
    return [x, grid, inv, rule, (1, 2, 3, 4, 5), 0, 6, 40, y, THREADS]


def hadamard(a: Arena) -> list[Any]:
    x, y = a.floats(3 * 2 * 22 * 9), a.floats(3 * 2 * 22 * 9)
    return [x, 3, 2, 22, 9, 16, a.floats(22), False, True, y, THREADS]


def batch_norm_forward(a: Arena) -> list[Any]:
    each = [a.floats(5) for _ in range(4)]
    out = [a.floats(35), a.bytes(packed(35)), a.floats(25)]
    return [7, 5, a.floats(35), *each, 0.1, 1e-5, True, *out, THREADS]


def batch_norm_backward(a: Arena) -> list[Any]:
    out = [a.floats(35), a.floats(5), a.floats(5)]
    return [7, 5, a.floats(35), a.bytes(packed(35)), a.floats(25), *out, THREADS]


def relu_forward(a: Arena) -> list[Any]:
    return [a.floats(203), 203, 6.0, a.floats(203), a.bytes(26), THREADS]


def relu_backward(a: Arena) -> list[Any]:
    return [a.floats(203), a.bytes(26), 203, a.floats(203), THREADS]


def layer_norm_forward(a: Arena) -> list[Any]:
    out = [a.floats(3 * 64), a.bytes(packed(3 * 64)), a.floats(6)]
    return [3, 64, a.floats(3 * 64), a.floats(64), a.floats(64), 1e-5, *out, THREADS]


def layer_norm_backward(a: Arena) -> list[Any]:
    out = [a.floats(3 * 64), a.floats(64), a.floats(64)]
    into = [a.floats(3 * 64), a.bytes(packed(3 * 64)), a.floats(6), a.floats(64)]
    return [3, 64, *into, *out, THREADS]


def pack_slopes(a: Arena) -> list[Any]:
    return [a.floats(203), 203, a.bytes(packed(203)), THREADS]


def slope_grad(a: Arena) -> list[Any]:
    return [a.floats(203), a.bytes(packed(203)), 203, a.floats(203), THREADS]


def _sequence(a: Arena, cell: int, high: int) -> list[Any]:
    shape = (cell, [3, 3, 2], False, 9, THREADS)
    table = a.array(16, torch.int16, 1)
    stream = (1, 2, 3, 4, 5)
    if cell == 2:  # the better of two scales for each row, to nearest
        fmt = get_format("w20")
        rule = rules.threshold_rule(fmt, fmt.default_rounding)
        best = lines.best_rule(fmt, 0.1362)
        return [shape, (2, rule, 1.0, 0.5, table, -high, high, 3, best, 1.0, (0, 0), stream)]
    rule = rules.stochastic_rule(get_format("g31"), 0.0)
    fit, fold = recurrent._statistic(2, 31.0), a.floats(27)
    return [shape, (3, rule, 1.0, 0.5, table, -high, high, 2, fit, 1.0, fold, stream)]


def sequence_forward(a: Arena) -> list[Any]:
    states = [a.floats(8 * 36), a.floats(27), a.floats(27), a.floats(72)]  # gx, h, c, y
    kept = [a.floats(8 * 36), a.floats(72), a.floats(72)]
    weights = (*_operand(a, 36 * 9)[:5], True)
    return [*_sequence(a, 2, 12), weights, a.floats(36), a.floats(36), *states, *kept]


def sequence_backward(a: Arena) -> list[Any]:
    kept = [a.floats(72), a.floats(8 * 36), a.floats(72)]  # y, gates, before
    grads = [a.floats(72), a.floats(27), a.floats(27), a.floats(8 * 27), a.floats(8 * 27)]
    weights = (*_operand(a, 27 * 9)[:5], False)
    clip = [a.bytes(9), a.bytes(packed(72)), bytes(16), True]
    return [*_sequence(a, 3, 12), weights, a.floats(9), *clip, *kept, *grads]


CALLS = {
    name: maker
    for name, maker in list(globals().items())
    if getattr(maker, "__module__", None) == __name__ and hasattr(core, name)
}


# Those without arrays.
HARMLESS = {
    "active_isa",
    "cpu_features",
    "has_openmp",
    "hollow",
    "owns",
    "isa",
    "isas",
    "max_threads",
    "pool_release",
    "pool_use",
    "sequence_fits",
    "tag",
    "take",
    "unpack4",
    "use_isa",
    "version",
    "winograd_correlation_plan",
    "winograd_grad_weight_tiles",
}


def leaves(value: Any, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], int]]:
    """Every number of nested arguments and where it is."""
    if isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from leaves(part, (*path, i))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path, value


def replaced(value: Any, path: tuple[int, ...], new: int) -> Any:
    if not path:
        return new
    parts = list(value)
    parts[path[0]] = replaced(parts[path[0]], path[1:], new)
    return parts if isinstance(value, list) else tuple(parts)


def attack(name: str, arguments: list[Any], arena: Arena) -> str:
    """ "raised" or "returned"; exits with a message where something else happened."""
    try:
        getattr(core, name)(*arguments)
    except REFUSALS:
        return "raised"
    if not arena.intact():
        sys.exit(f"{name}{tuple(arguments)} wrote beyond an array")
    return "returned"


def attack_function(name: str, rounds: int = 600) -> None:
    maker, draw = CALLS[name], random.Random(0)
    arena = Arena()
    arguments = maker(arena)
    if attack(name, arguments, arena) != "returned":
        sys.exit(f"{name}: the call to start from does not work")
    places = list(leaves(arguments))
    sizes, known = {size for _, size in arena.arrays}, arena.addresses()

    def hostile(value: int) -> list[int]:
        if value in known:
            return [0]
        if isinstance(value, Threads):
            return [-1, 0, 1, 3, 2**31, -(2**63), 2**63]
        # A byte count: only smaller ones. (A size that equals one by chance is treated so too.)
        return [n for n in SIZES if n < value or n > 2**63 - 1] if value in sizes else [*SIZES]

    counts = {"raised": 0, "returned": 0}
    for path, value in places:
        for new in hostile(value):
            counts[attack(name, replaced(arguments, path, new), arena)] += 1
    for path, value in places:
        if isinstance(value, Threads):
            counts[attack(name, replaced(arguments, path, 2**31 - 1), arena)] += 1
    for _ in range(rounds):
        mutated = arguments
        for path, value in draw.sample(places, min(draw.randint(2, 3), len(places))):
            mutated = replaced(mutated, path, draw.choice(hostile(value)))
        counts[attack(name, mutated, arena)] += 1
    print(name, counts, flush=True)


def main(isa: str, *names: str) -> None:
    core.use_isa(isa)
    for name in names or CALLS:
        attack_function(name)
    print("every function")


if __name__ == "__main__":
    main(*sys.argv[1:])
