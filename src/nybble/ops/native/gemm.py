"""Stub."""

from __future__ import annotations

from math import prod

from torch import Tensor

from nybble.ops.exactness import finish_
from nybble.ops.native.codes import Codes
from nybble.quantizers.packing import unpack_codes


def ints(c: Codes) -> Tensor:
    return c.table.double()[unpack_codes(c.packed, prod(c.shape), c.bits).long()].view(c.shape)


def gemm(
    a: Codes,
    b: Codes,
    *,
    trans_a: bool = False,
    trans_b: bool = False,
    scale_a: Tensor | None = None,
    scale_b: Tensor | None = None,
    bias: Tensor | None = None,
    out=None,
) -> Tensor:
    A, B = ints(a), ints(b)
    A = A.t() if trans_a else A
    B = B.t() if trans_b else B
    acc = (A @ B).float().add_(0.0)
    return finish_(
        acc,
        None if scale_a is None else scale_a.reshape(-1, 1),
        None if scale_b is None else scale_b.reshape(1, -1),
        bias,
    )
