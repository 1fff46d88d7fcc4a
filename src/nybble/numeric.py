"""`matmul` of two QTensors: the numeric library under the layers, torch or NumPy in.

    q = nybble.quantize(x, quantizer)
    y = nybble.matmul(qa, qb)          integer sums, then the scales (ops/exactness.py)

Scales per tensor, per row of the left operand and per column of the right one stay outside of the
sum; scales by block along the contraction (MX, NV) meet the exact sum of their block. Any other
scale is multiplied in first, and the product then runs on float32 values; so do block scales under
`accumulate="fast"`, and formats without an integer form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import nybble.ops.library  # noqa: F401  defines the operators
from nybble.errors import NybbleError, UserError, suggest
from nybble.ops.dispatch import BACKENDS
from nybble.ops.native import core
from nybble.ops.native.codes import Codes
from nybble.ops.native.gemm import block_gemm, gemm
from nybble.quantizers import QTensor


def matmul(a: QTensor, b: QTensor, *, accumulate: str = "exact", backend: str = "auto") -> Tensor:
    """`a @ b` for QTensors [..., M, K] and [K, N]; float32 [..., M, N].

    accumulate: `exact` (integers, checked) or `fast` (float32 sums).
    backend: `reference` (torch), `native` (packed codes on the CPU, exact only; what it cannot do
    is a UserError that says why) or `auto`: native where it can, since the bits are the same.

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
    if backend not in ("auto", *BACKENDS):
        raise UserError(
            f"matmul: unknown backend {backend!r}: use auto, reference or native."
            f"{suggest(str(backend), BACKENDS)}"
        )
    for name, q in (("a", a), ("b", b)):
        if not isinstance(q, QTensor):
            raise UserError(
                f"matmul: {name} is {type(q).__name__}, not a QTensor: quantize it first with"
                " nybble.quantize(x, quantizer)"
            )
        if len(q.shape) < 2:
            raise UserError(f"matmul: {name} has shape {tuple(q.shape)}; it needs 2 dimensions")
    if a.shape[-1] != b.shape[-2]:
        raise UserError(
            f"matmul: shapes {tuple(a.shape)} and {tuple(b.shape)} do not fit:"
            " the last dimension of a must be the last but one of b"
        )
    sa, sb = _scale(a, -1), _scale(b, -2)
    if backend != "reference":
        found = _native(a, b, sa, sb, accumulate)
        if isinstance(found, Tensor):
            return found
        if backend == "native":
            raise UserError(f"matmul: backend 'native' cannot do this: {found}")
    return _reference(a, b, sa, sb, accumulate)


@dataclass(frozen=True)
class _Scale:
    """A multiplier that need not enter the sum.

    values: float32, one number or as many dimensions as the operand, size 1 (or, with `block`, the
    number of blocks) along the contraction.
    """

    values: Tensor
    block: int | None = None


def _scale(q: QTensor, contraction: int) -> _Scale | None:
    """The multiplier of `q`, or None where it would vary within the sum."""
    unit = q.format.unit
    if unit is None:
        return None
    scale = q.scale if unit == 1.0 else q.scale * unit
    if q.fit.granularity == "tile":
        return None
    if q.fit.granularity == "block":
        along = q.fit.axis == len(q.shape) + contraction
        return _Scale(scale, q.fit.blocks) if along else None
    if scale.numel() == 1 or scale.shape[contraction] == 1:
        return _Scale(scale)
    return None


def _reference(
    a: QTensor, b: QTensor, sa: _Scale | None, sb: _Scale | None, accumulate: str
) -> Tensor:
    if accumulate == "fast":  # block scales go into the values
        sa, sb = (None if s is None or s.block else s for s in (sa, sb))
    if sa is None or sb is None:
        # A block scale that meets values without integers is multiplied in as well.
        sa, sb = (None if s is None or s.block else s for s in (sa, sb))
        values_a = a.dequantize() if sa is None else a.integers()
        product = values_a @ (b.dequantize() if sb is None else b.integers())
        scale = sa if sa is not None else sb
        return product if scale is None else product * scale.values
    limits = [_limit(q) for q in (a, b)]
    result: Tensor
    if sa.block or sb.block:
        block, scale_a, scale_b = _blocks(a.shape[-1], sa, sb)
        result = torch.ops.nybble.block_matmul(
            a.integers(), b.integers(), scale_a, scale_b, block, *limits
        )
    else:
        result = torch.ops.nybble.matmul(
            a.integers(), b.integers(), sa.values, sb.values, *limits, accumulate
        )
    return result


def _native(
    a: QTensor, b: QTensor, sa: _Scale | None, sb: _Scale | None, accumulate: str
) -> Tensor | str:
    """The product by the compiled kernels, or why they do not make it."""
    reason = _why_not(a, b, sa, sb, accumulate)
    if reason is not None or sa is None or sb is None:
        return reason or ""
    rows = math.prod(a.shape[:-1])
    try:
        x, y = _codes(a, (rows, a.shape[-1])), _codes(b, (b.shape[0], b.shape[1]))
    except NybbleError as error:
        return str(error)
    if max(x.limit, y.limit) > 32767:
        return f"it has integers of up to {max(x.limit, y.limit)}, the kernels take 32767"
    shape = (*a.shape[:-1], b.shape[1])
    if not (sa.block or sb.block):
        scale_a = _free(sa.values, a.shape[:-1])
        scale_b = _free(sb.values, b.shape[1:])
        return gemm(x, y, scale_a=scale_a, scale_b=scale_b).view(shape)
    block, values_a, values_b = _blocks(a.shape[-1], sa, sb)
    largest = (x.high - x.low) * (y.high - y.low) * (block + 3)  # groups of up to 4
    if largest >= 2**31:
        return f"a block of {block} products may reach {largest}, beyond 32 bits"
    count = -(-a.shape[-1] // block)
    values_a = values_a.expand(*a.shape[:-1], count).reshape(rows, count)
    return block_gemm(x, y, block, values_a, values_b.expand(count, b.shape[1])).view(shape)


def _why_not(
    a: QTensor, b: QTensor, sa: _Scale | None, sb: _Scale | None, accumulate: str
) -> str | None:
    if accumulate != "exact":
        return "it accumulates exactly, not in float32"
    module, reason = core()
    if module is None:
        return reason
    for name, q, scale in (("a", a, sa), ("b", b, sb)):
        if q.device.type != "cpu":
            return f"{name} is on {q.device}, not on the CPU"
        if q.format.unit is None or q.format.bits > 8:
            return f"{name} is {q.format.name}, which has no table of integers"
        if scale is None:
            return f"the scale of {name} ({q.fit.granularity}) varies within the sum"
        if q.zero_point is not None and not bool(torch.isfinite(q.zero_point)):
            return f"the zero point of {name} is not finite"
    if len(b.shape) != 2:
        return f"b has {len(b.shape)} dimensions, it takes 2"
    if torch.compiler.is_compiling():
        return "torch.compile cannot look into it"
    return None


def _codes(q: QTensor, shape: tuple[int, int]) -> Codes:
    # Codes that a file or a caller made may be any of the format's.
    zero = 0 if q.zero_point is None else int(q.zero_point)
    return Codes.of(q.packed.contiguous(), shape, q.format, zero, encoded=False)


def _free(values: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """A multiplier as one number or one for every row (column)."""
    if values.numel() == 1:
        return values
    squeezed = values.reshape(values.shape[:-1]) if values.shape[-1] == 1 else values.reshape(-1)
    return squeezed.expand(sizes).reshape(-1).contiguous()


def _blocks(contraction: int, sa: _Scale, sb: _Scale) -> tuple[int, Tensor, Tensor]:
    """Blocks over which both scales are constant: (their size, scale_a, scale_b), where the scales
    are [..., M or 1, blocks or 1] and [..., blocks or 1, N or 1]."""
    block = math.gcd(sa.block or 0, sb.block or 0)
    count = -(-contraction // block)
    values = []
    for scale, dim in ((sa, -1), (sb, -2)):
        x = scale.values
        if scale.block:
            x = x.repeat_interleave(scale.block // block, dim).narrow(dim, 0, count)
        elif x.dim() < 2:
            x = x.reshape(1, 1)
        values.append(x)
    return block, values[0], values[1]


def _limit(q: QTensor) -> int:
    return (q.format.max_integer or 0) * (1 if q.zero_point is None else 2)
