"""Statistics that feed a scale, on the compiled backend: bit for bit those of `quantizers/`.

absmax                max|x|, one read
tree_sum              sums in the fixed order of `quantizers/sums.py`
sawb_statistics       sum of squares, sum of magnitudes and max|w| in one read
fit                   the scale of a forward slot from them
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.ops.native.buffers import FLOATS, require, span, threads

__all__ = ["absmax", "absmax_rows", "sawb_statistics", "tree_sum", "tree_sum_last"]


def absmax(x: Tensor) -> Tensor:
    """max|x| as a float32 scalar tensor: NaN if there is one, 0 for an empty tensor.

    >>> absmax(torch.tensor([1.0, -3.0]))
    tensor(3.)
    """
    return absmax_rows(x, 1).reshape(())


def absmax_rows(x: Tensor, rows: int) -> Tensor:
    """max|x| of each of `rows` equal runs of memory: rows of a matrix, output channels of weights.

    >>> absmax_rows(torch.tensor([[1.0, -3.0], [0.5, 0.0]]), 2)
    tensor([3.0000, 0.5000])
    """
    if rows < 1 or x.numel() % rows or x.dtype not in FLOATS:
        raise NybbleError(f"absmax: {rows} rows of {tuple(x.shape)}, {x.dtype}")
    out = torch.empty(rows, dtype=torch.float32)
    require().absmax(
        *span(x, x.dtype, "x"),
        x.dtype is torch.bfloat16,
        rows,
        x.numel() // rows,
        *span(out, torch.float32, "out"),
        threads(),
    )
    return out


def tree_sum(x: Tensor) -> Tensor:
    """Sum of a float32 tensor in the order of `quantizers.tree_sum`, elements in memory order.

    >>> tree_sum(torch.full((3, 5), 0.5))
    tensor(7.5000)
    """
    return _sums(x, 1).reshape(())


def tree_sum_last(x: Tensor) -> Tensor:
    """Sum of every row of a contiguous float32 matrix, each in the order of `tree_sum`.

    >>> tree_sum_last(torch.ones(2, 3000))
    tensor([3000., 3000.])
    """
    if x.dim() != 2:
        raise NybbleError(f"tree_sum_last: expected a matrix, got shape {tuple(x.shape)}")
    return _sums(x, x.shape[0])


def _sums(x: Tensor, batch: int) -> Tensor:
    out = torch.empty(batch, dtype=torch.float32)
    n = x.numel() // batch if batch else 0
    require().tree_sums(
        *span(x, torch.float32, "x"), batch, n, *span(out, torch.float32, "out"), threads()
    )
    return out


def sawb_statistics(w: Tensor) -> npt.NDArray[np.float32]:
    """Sum of squares, sum of magnitudes and largest magnitude of every row of a contiguous float32
    matrix `[B, n]`: float32 `[3, B]`, in one read.

    >>> sawb_statistics(torch.tensor([[1.0, -3.0], [0.5, 0.0]])).tolist()
    [[10.0, 0.25], [4.0, 0.5], [3.0, 0.5]]
    """
    if w.dim() != 2:
        raise NybbleError(f"sawb_statistics: expected a matrix, got shape {tuple(w.shape)}")
    batch, n = w.shape
    out = torch.empty(3, batch, dtype=torch.float32)
    require().moments(
        *span(w, torch.float32, "w"), batch, n, *span(out, torch.float32, "out"), threads()
    )
    return out.numpy()
