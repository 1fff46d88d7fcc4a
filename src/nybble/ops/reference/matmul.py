"""`nybble::matmul` and `nybble::block_matmul`: integers times integers, then the scales, as
`ops/exactness.py` says."""

from __future__ import annotations

from torch import Tensor

from nybble.errors import UserError
from nybble.ops.exactness import check_exact, finish_


def matmul(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor | None,
    scale_b: Tensor | None,
    max_a: int,
    max_b: int,
    accumulate: str,
) -> Tensor:
    """`(a @ b) * (scale_a * scale_b)`.

    a: [..., M, K], b: [K, N] or [..., K, N], float32 integers of magnitude up to max_a, max_b.
    scale_a: one number or [..., M, 1]; scale_b: one number or [..., 1, N].
    """
    if a.dim() < 2 or b.dim() < 2 or a.shape[-1] != b.shape[-2]:
        raise UserError(
            f"matmul: shapes {tuple(a.shape)} and {tuple(b.shape)} do not fit:"
            " the last dimension of a must be the last but one of b"
        )
    if accumulate == "exact":
        check_exact(max_a, max_b, a.shape[-1])
        acc = (a.double() @ b.double()).float().add_(0.0)
    else:
        acc = a @ b
    return finish_(acc, scale_a, scale_b)


def block_matmul(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    block: int,
    max_a: int,
    max_b: int,
) -> Tensor:
    """`a @ b`, where the scales vary from block to block of the contraction.

    a: [..., M, K], b: [K, N] or [..., K, N], float32 integers of magnitude up to max_a, max_b.
    scale_a: [..., M or 1, blocks or 1]; scale_b: [..., blocks or 1, N or 1]; the last block may be
    shorter than `block` elements.

    >>> import torch
    >>> a, scale = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 10.0]])
    >>> block_matmul(a, a.t(), scale, torch.ones(1, 1), 2, 7, 7)
    tensor([[95.]])
    """
    if a.dim() < 2 or b.dim() < 2 or a.shape[-1] != b.shape[-2] or block < 1:
        raise UserError(
            f"block_matmul: shapes {tuple(a.shape)} and {tuple(b.shape)} do not fit, or blocks of"
            f" {block} are none"
        )
    check_exact(max_a, max_b, block)
    total: Tensor | None = None
    for i, start in enumerate(range(0, a.shape[-1], block)):
        left, right = a[..., start : start + block], b[..., start : start + block, :]
        part = (left.double() @ right.double()).float().add_(0.0)
        s_a = scale_a[..., i : i + 1] if scale_a.shape[-1] > 1 else scale_a
        s_b = scale_b[..., i : i + 1, :] if scale_b.shape[-2] > 1 else scale_b
        part.mul_(s_a * s_b)
        total = part.add_(0.0) if total is None else total.add_(part)
    return a @ b if total is None else total
