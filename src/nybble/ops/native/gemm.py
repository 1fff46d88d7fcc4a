"""Products of packed codes on the CPU: `gemm` and, for block scales, `block_gemm`.

    out = float32(op(a) @ op(b)) * (scale_a * scale_b) [+ bias]                        gemm
    out = sum over blocks of float32(block of the product) * (scale_a * scale_b)       block_gemm

as `ops/exactness.py` says, with integer sums that are exact for every input. The three Gemms of a
linear layer with input x [P, K], weight w [N, K] and gradient g [P, N] are

    output       gemm(x, w, trans_b=True)
    grad_input   gemm(g, w)
    grad_weight  gemm(g, x, trans_a=True)

The kernels and their proofs are in csrc/gemm; `plan.hpp` says which one runs.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, get_num_threads

from nybble.errors import NybbleError
from nybble.ops.native import core
from nybble.ops.native.buffers import own, span
from nybble.ops.native.codes import Codes
from nybble.ops.native.pool import result

__all__ = ["block_gemm", "gemm"]

_INT32 = 2**31 - 1
_NOTHING = (0, 0)


def gemm(
    a: Codes,
    b: Codes,
    *,
    trans_a: bool = False,
    trans_b: bool = False,
    scale_a: Tensor | None = None,
    scale_b: Tensor | None = None,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    limit: int = _INT32,
) -> Tensor:
    """float32 [M, N] of `op(a) @ op(b)`, scaled.

    scale_a: one number or [M]; scale_b: one number or [N]; None where an operand has no scale.
    bias: [N]. out: contiguous float32 [M, N] to write to. limit: the largest sum in int32, for
    tests of the int64 sums.

    Raises NybbleError for shapes that do not fit and for tensors that are not dense on the CPU.

    >>> from nybble.formats import get_format
    >>> from nybble.quantizers.packing import pack4
    >>> table = get_format("int4")
    >>> a = Codes.of(pack4(torch.tensor([[1, 2]], dtype=torch.uint8)), (1, 2), table)
    >>> gemm(a, a, trans_b=True, scale_a=torch.tensor(0.5))
    tensor([[2.5000]])
    """
    m, n, k = _sizes(a, b, trans_a, trans_b)
    if out is None:
        out = result((m, n))
    else:
        _check_output(out, m, n)
    _module().gemm(
        m,
        n,
        k,
        (*a.operand, trans_a),
        (*b.operand, trans_b),
        _vector(scale_a, m, "scale_a"),
        _vector(scale_b, n, "scale_b"),
        _vector(bias, n, "bias"),
        own(out),
        get_num_threads(),
        limit,
    )
    return out


def block_gemm(
    a: Codes,
    b: Codes,
    block: int,
    scale_a: Tensor,
    scale_b: Tensor,
    *,
    trans_a: bool = False,
    trans_b: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """float32 [M, N] of `op(a) @ op(b)`, scaled block by block of the contraction.

    scale_a: float32 [M, blocks], scale_b: [blocks, N], of any strides (an expanded number will do).

    >>> from nybble.formats import get_format
    >>> from nybble.quantizers.packing import pack4
    >>> table = get_format("int4")
    >>> a = Codes.of(pack4(torch.tensor([[1, 2]], dtype=torch.uint8)), (1, 2), table)
    >>> block_gemm(a, a, 1, torch.tensor([[1.0, 10.0]]), torch.ones(2, 1), trans_b=True)
    tensor([[41.]])
    """
    m, n, k = _sizes(a, b, trans_a, trans_b)
    if block < 1:
        raise NybbleError(f"block_gemm: blocks have at least one element, got {block}")
    blocks = -(-k // block)
    if out is None:
        out = result((m, n))
    else:
        _check_output(out, m, n)
    _module().block_gemm(
        m,
        n,
        k,
        (*a.operand, trans_a),
        (*b.operand, trans_b),
        block,
        *_strided(scale_a, (m, blocks), "scale_a"),
        *_strided(scale_b.t(), (n, blocks), "scale_b"),
        (out.data_ptr(), 4 * m * n),
        get_num_threads(),
        _INT32,
    )
    return out


def _module() -> ModuleType:
    module, reason = core()
    if module is None:
        raise NybbleError(f"gemm: {reason}")
    return module


def _sizes(a: Codes, b: Codes, trans_a: bool, trans_b: bool) -> tuple[int, int, int]:
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise NybbleError(f"gemm: operands are matrices, got shapes {a.shape} and {b.shape}")
    (m, k), (other, n) = a.shape, b.shape
    m, k = (k, m) if trans_a else (m, k)
    other, n = (n, other) if trans_b else (other, n)
    if k != other:
        raise NybbleError(
            f"gemm: shapes {a.shape} and {b.shape} do not fit: the contraction is {k} in a,"
            f" {other} in b"
        )
    return m, n, k


def _check_output(out: Tensor, m: int, n: int) -> None:
    if out.shape != (m, n) or not out.is_contiguous():
        raise NybbleError(f"gemm: out must be contiguous and {(m, n)}, got {tuple(out.shape)}")
    span(out, torch.float32, "out")


def _vector(x: Tensor | None, length: int, name: str) -> tuple[int, int]:
    if x is None:
        return _NOTHING
    # One number lies dense wherever it lies.
    if x.numel() == 1 and x.dtype is torch.float32 and x.is_cpu and not x.is_neg():
        return x.data_ptr(), 4
    address, size = span(x, torch.float32, name)
    if size != 4 and (size != 4 * length or x.dim() != 1):
        raise NybbleError(f"gemm: {name} has shape {tuple(x.shape)}: one number or [{length}]")
    return (address, size) if size else _NOTHING


def _strided(
    x: Tensor, shape: tuple[int, int], name: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    if x.is_neg():  # a copy would be gone before the kernel reads it
        raise NybbleError(f"block_gemm: {name} holds the numbers with the other sign; clone it")
    if tuple(x.shape) != shape or x.dtype is not torch.float32 or not x.is_cpu:
        raise NybbleError(
            f"block_gemm: {name} is {tuple(x.shape)} of {x.dtype} on {x.device}, expected {shape}"
            " of torch.float32 on the CPU"
        )
    if x.numel() == 0:
        return _NOTHING, (0, 0)
    reach = sum((size - 1) * stride for size, stride in zip(shape, x.stride(), strict=True)) + 1
    return (x.data_ptr(), 4 * reach), (x.stride(0), x.stride(1))
