"""`nybble::matmul`: integers times integers, then the scales, as `ops/exactness.py` says."""

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
