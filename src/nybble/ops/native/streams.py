"""Random bits, the mark of a tensor's content, and the transpose of packed codes.

Not done here: random bits that are used where they are drawn, which the kernels of quantize.py,
lines.py and blocks.py do in registers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nybble.ops.native.buffers import require, span, threads
from nybble.quantizers.random import RandomKey

__all__ = ["fingerprint", "key_words", "random24", "relayout"]


def key_words(key: RandomKey) -> tuple[int, int, int, int, int]:
    """What the kernels take of a key.

    >>> key_words(RandomKey(seed=5, layer=2))
    (5, 0, 2, 0, 0)
    """
    return key.seed, key.rank, key.layer, key.call, key.operand


def random24(n: int, key: RandomKey) -> Tensor:
    """The first n of the integers of `quantizers.random24`: int32 `[n]`.

    >>> random24(3, RandomKey(seed=0)).tolist()
    [6694888, 14772677, 12343212]
    """
    out = torch.empty(n, dtype=torch.int32)
    require().random24(*key_words(key), n, *span(out, torch.int32, "out"), threads())
    return out


def fingerprint(x: Tensor) -> int:
    """sum over i of bits(x_i) * (2 i + 1) modulo 2^64, signed, of a contiguous float32 tensor:
    what `nn/calls.py` knows an input by.

    >>> fingerprint(torch.tensor([1.0, 2.0])) == 0x3F800000 + 3 * 0x40000000
    True
    """
    return int(require().fingerprint(*span(x, torch.float32, "x"), x.numel(), threads()))


def relayout(codes: Tensor, n: int, rows: int, columns: int) -> Tensor:
    """Packed codes of n matrices `[rows, columns]`, each transposed: NCHW to NHWC with rows = C and
    columns = H W, back with the two exchanged.

    >>> from nybble.quantizers.packing import pack4, unpack4
    >>> codes = pack4(torch.arange(6, dtype=torch.uint8))
    >>> unpack4(relayout(codes, 1, 2, 3), 6).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    out = torch.empty_like(codes)
    require().relayout(
        *span(codes, torch.uint8, "codes"),
        n,
        rows,
        columns,
        *span(out, torch.uint8, "out"),
        threads(),
    )
    return out
