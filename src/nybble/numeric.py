"""`matmul` of two QTensors: the numeric library under the layers, torch or NumPy in.

    q = nybble.quantize(x, quantizer)
    y = nybble.matmul(qa, qb)          integer sums, then the scales (ops/exactness.py)

Scales per tensor, per row of the left operand and per column of the right one stay outside of the
sum; any other scale is multiplied in first, and the product then runs on float32 values.
"""

from __future__ import annotations

import torch
from torch import Tensor

import nybble.ops.library  # noqa: F401  defines the operators
from nybble.errors import UserError
from nybble.quantizers import QTensor


def matmul(a: QTensor, b: QTensor, *, accumulate: str = "exact") -> Tensor:
    """`a @ b` for QTensors [..., M, K] and [K, N]; float32 [..., M, N].

    accumulate: `exact` (integers, checked) or `fast` (float32 sums).

    >>> import nybble
    >>> from nybble.quantizers import AbsMax
    >>> q = nybble.Quantizer(nybble.get_format("int4_sym"), AbsMax())
    >>> x = nybble.quantize(torch.tensor([[7.0, -7.0]]), q)
    >>> w = nybble.quantize(torch.tensor([[1.0], [0.5]]), q)
    >>> nybble.matmul(x, w).shape
    torch.Size([1, 1])
    """
    if accumulate not in ("exact", "fast"):
        raise UserError(f"matmul: accumulate={accumulate!r} is not known: use 'exact' or 'fast'")
    for name, q in (("a", a), ("b", b)):
        if not isinstance(q, QTensor):
            raise UserError(
                f"matmul: {name} is {type(q).__name__}, not a QTensor: quantize it first with"
                " nybble.quantize(x, quantizer)"
            )
        if len(q.shape) < 2:
            raise UserError(f"matmul: {name} has shape {tuple(q.shape)}; it needs 2 dimensions")
    ta, sa = _operand(a, len(a.shape) - 2)
    tb, sb = _operand(b, len(b.shape) - 1)
    if sa is None or sb is None:
        product = (a.dequantize() if sa is None else ta) @ (b.dequantize() if sb is None else tb)
        scale = sa if sa is not None else sb
        return product if scale is None else product * scale
    limits = [_limit(q) for q in (a, b)]
    result: Tensor = torch.ops.nybble.matmul(ta, tb, sa, sb, *limits, accumulate)
    return result


def _operand(q: QTensor, free: int) -> tuple[Tensor, Tensor | None]:
    """(integers, multiplier), the multiplier None where it would vary along the contraction."""
    if q.format.unit is None:
        return q.dequantize(), None
    scale = q.scale if q.format.unit == 1.0 else q.scale * q.format.unit
    varies = [d for d, size in enumerate(scale.shape) if size > 1]
    if scale.numel() > 1 and varies != [free]:
        return q.integers(), None
    return q.integers(), scale


def _limit(q: QTensor) -> int:
    return (q.format.max_integer or 0) * (1 if q.zero_point is None else 2)
