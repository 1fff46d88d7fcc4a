"""Family `gemm` (csrc/gemm/gemm.hpp): all transpositions, formats, scales, extremes, the spill to
int64, block scales, batches. Expected: integers multiplied in float64, finished by
`ops/exactness.py`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from golden_cases.operands import operand, scale
from golden_cases.values import Case, Value, generator
from nybble.ops.exactness import finish_

INT32 = 2**31 - 1
# format of a, format of b, zero point of a, (m, n, k), fill, transposed a, b, rows and columns
# scaled one by one, bias, limit of the int32 sums
PLAIN = (
    ("uint4", "int4_sym", 0, (13, 21, 70), "random", False, True, (0, 0), True, INT32),
    ("uint4", "int4", 0, (7, 17, 600), "mixed", False, True, (0, 1), False, INT32),
    ("int4", "int4", 3, (19, 5, 130), "high", False, False, (1, 0), True, INT32),
    ("fp4_radix4", "int4_sym", 0, (11, 33, 50), "random", False, False, (1, 1), False, INT32),
    ("fp4_radix4", "uint4", 0, (9, 18, 66), "high", True, False, (0, 0), False, INT32),
    ("fp4_radix4", "int4", 0, (12, 16, 192), "mixed", True, True, (0, 0), False, 1 << 20),
    ("fp4_radix2", "uint4", 0, (6, 32, 64), "low", True, False, (0, 1), False, INT32),
    ("fp4_e2m1", "fp4_e2m1", 0, (1, 1, 1), "random", False, True, (0, 0), True, INT32),
    ("int8_sym", "uint4", 0, (5, 40, 33), "mixed", False, False, (0, 0), True, INT32),
    ("uint8", "int8", 7, (8, 9, 100), "mixed", True, True, (1, 1), False, INT32),
    ("uint8", "int8", 0, (6, 16, 300), "high", False, True, (0, 0), False, 1 << 18),
    ("uint4", "int4", 0, (3, 4, 0), "random", False, True, (0, 0), True, INT32),
    ("int4_zeroless", "int3", 0, (25, 3, 65), "random", False, True, (0, 0), False, INT32),
)
BLOCKS = (
    ("fp4_e2m1", "fp4_e2m1", (9, 20, 96), "random", False, True, 32),
    ("fp4_e2m1", "int4", (7, 17, 70), "mixed", True, False, 16),
    ("uint4", "int4_sym", (4, 33, 50), "high", False, False, 7),
    ("fp4_radix4", "uint4", (13, 5, 130), "random", True, True, 64),
)
# format of a, format of b, zero point of a, count, (m, n, k), fill, transposed a, b, limit; 4-bit
# matrices are whole blocks of 64 codes
BATCHES = (
    ("uint4", "int4_sym", 0, 5, (8, 16, 24), "random", False, True, INT32),
    ("int4", "int4_sym", 2, 2, (16, 4, 32), "mixed", False, False, INT32),
    ("fp4_radix4", "uint4", 0, 7, (8, 8, 8), "high", True, False, 1 << 20),
    ("int8_sym", "int8", 0, 3, (5, 3, 7), "mixed", False, True, INT32),
    ("uint4", "int4", 0, 1, (3, 5, 7), "random", True, False, INT32),
    ("uint4", "int4", 0, 4, (8, 8, 0), "random", False, True, INT32),
)


def gemm() -> Iterator[Case]:
    """The cases of PLAIN and BLOCKS."""
    make = generator(3)
    for fa, fb, zero, (m, n, k), fill, ta, tb, each, with_bias, limit in PLAIN:
        a = operand(fa, (k, m) if ta else (m, k), fill, make, zero)
        b = operand(fb, (n, k) if tb else (k, n), fill, make)
        s_a, s_b = scale(make, m if each[0] else 1), scale(make, n if each[1] else 1)
        bias = torch.randn(n, generator=make) if with_bias else None
        acc = (_turned(a.ints, ta) @ _turned(b.ints, tb)).float().add_(0.0)
        out = finish_(acc, s_a[:, None], s_b[None, :], bias)
        values: dict[str, Value] = {"m": m, "n": n, "k": k, "limit": limit}
        values |= {"transposed_a": int(ta), "transposed_b": int(tb), "out": out}
        values |= a.values("a") | b.values("b") | {"scale_a": s_a, "scale_b": s_b}
        if bias is not None:
            values["bias"] = bias
        yield f"{fa} x {fb} {fill} {m}x{n}x{k}", values
    for fa, fb, (m, n, k), fill, ta, tb, block in BLOCKS:
        a = operand(fa, (k, m) if ta else (m, k), fill, make)
        b = operand(fb, (n, k) if tb else (k, n), fill, make)
        blocks = -(-k // block)
        s_a, s_b = scale(make, m, blocks), scale(make, n, blocks)
        out = torch.zeros(m, n)
        for i in range(blocks):
            part = slice(i * block, (i + 1) * block)
            acc = (_turned(a.ints, ta)[:, part] @ _turned(b.ints, tb)[part]).float().add_(0.0)
            out = out + finish_(acc, s_a[:, i, None], s_b[None, :, i])
        values = {"m": m, "n": n, "k": k, "limit": INT32, "block": block}
        values |= {"transposed_a": int(ta), "transposed_b": int(tb), "out": out}
        values |= a.values("a") | b.values("b") | {"scale_a": s_a, "scale_b": s_b}
        yield f"{fa} x {fb} {fill} {m}x{n}x{k} by {block}", values
    for fa, fb, zero, count, (m, n, k), fill, ta, tb, limit in BATCHES:
        rows_a, rows_b = (k, m) if ta else (m, k), (n, k) if tb else (k, n)
        a = operand(fa, (count * rows_a[0], rows_a[1]), fill, make, zero)
        b = operand(fb, (count * rows_b[0], rows_b[1]), fill, make)
        s_a, s_b = scale(make, 1), scale(make, 1)
        left, right = a.ints.view(count, *rows_a), b.ints.view(count, *rows_b)
        acc = (left.transpose(1, 2) if ta else left) @ (right.transpose(1, 2) if tb else right)
        out = finish_(acc.float().add_(0.0), s_a, s_b)
        values = {"m": m, "n": n, "k": k, "count": count, "limit": limit}
        values |= {"transposed_a": int(ta), "transposed_b": int(tb), "out": out}
        values |= a.values("a") | b.values("b") | {"scale_a": s_a, "scale_b": s_b}
        yield f"{count} of {fa} x {fb} {fill} {m}x{n}x{k}", values


def _turned(x: Tensor, turned: bool) -> Tensor:
    return x.t() if turned else x
