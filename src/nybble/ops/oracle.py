"""Scalar oracle of narrow accumulation: one product, one add at a time, plain Python.

    chunk sum   c = round(c + a_k * b_k)      for the products of one chunk, from c = 0
    total       t = round(t + c)              for the chunks, in ascending order, from t = 0

`round` is the accumulator format's nearest rounding (Wang et al., NeurIPS 2018: chunk 64 in FP16,
DLFLOAT16 on IBM's chips). The reference backend sums inside a chunk in float32 and rounds the
chunk's sum once; with `chunk=1` the two are the same function. The exact accumulator needs no
oracle of its own: its sums are integers.
"""

from __future__ import annotations

from collections.abc import Sequence

from nybble.errors import UserError
from nybble.formats import get_format
from nybble.formats.oracle import decode, encode
from nybble.ops.spec import Accumulator


def chunked_dot(a: Sequence[float], b: Sequence[float], accumulator: Accumulator) -> float:
    """The dot product of two sequences as an accumulator of narrow adds would compute it.

    >>> chunked_dot([1.0] * 3, [341.0, 341.0, 342.0], Accumulator("dlfloat16", 2))
    1024.0
    """
    if len(a) != len(b):
        raise UserError(f"a dot product needs equal lengths, got {len(a)} and {len(b)}")
    if accumulator.format is None:
        raise UserError("the exact accumulator rounds nothing: sum the integers instead")
    fmt = get_format(accumulator.format)

    def rounded(x: float) -> float:
        return decode(encode(x, fmt), fmt)

    total = 0.0
    for start in range(0, len(a), accumulator.chunk):
        chunk_sum = 0.0
        for k in range(start, min(start + accumulator.chunk, len(a))):
            chunk_sum = rounded(chunk_sum + float(a[k]) * float(b[k]))
        total = rounded(total + chunk_sum)
    return total
