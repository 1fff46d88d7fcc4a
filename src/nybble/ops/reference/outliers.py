"""Outlier clamping and compensation (OCC; Wang et al. 2025, arXiv 2501.17116).

    c = clamp(x, Q(1 - a), Q(a))          a: `LayerSpec.outliers`, 0.99 in the paper
    y = quantise(c) w + (x - c) w         the second product is sparse: 2 (1 - a) of the elements

The residual is multiplied by the decoded weight, so that the layer has one weight; which one the
paper multiplied is not stated in the texts that were available. For backward the residual is kept
as positions (int32) and values (float32), as many as there are ranks beyond the quantiles, so that
shapes do not depend on data; ties add zeros. Quantiles are those of the whole tensor, by sorting:
the element of rank ceil(a (n - 1)), so that no interpolation is needed.

Not done here: sparse kernels; the residual's product is dense in this emulation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nybble.ops.geometry import Geometry
from nybble.ops.reference import gemm

__all__ = ["keep_outliers", "multiply_outliers", "restore_outliers", "split_outliers"]


def split_outliers(x: Tensor, quantile: float | None) -> tuple[Tensor, Tensor | None]:
    """(clamped, rest), or (x, None) where nothing is split off.

    >>> inner, outer = split_outliers(torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0]), 0.75)
    >>> inner, outer
    (tensor([-1., -1.,  0.,  1.,  1.]), tensor([-8.,  0.,  0.,  0.,  8.]))
    """
    if quantile is None or not x.numel():
        return x, None
    flat = x.detach().reshape(-1)
    beyond = _beyond(flat.numel(), quantile)
    high = flat.kthvalue(flat.numel() - beyond).values
    low = flat.kthvalue(beyond + 1).values
    inner = x.clamp(low, high)
    outer = x - inner
    # Infinity is an outlier that would be clamped: a NaN among the clamped makes results NaN.
    return inner + (outer * 0.0).sum(), outer


def _beyond(count: int, quantile: float) -> int:
    """How many ranks lie above the quantile, and as many below its counterpart."""
    return count - 1 - math.ceil(quantile * (count - 1))


def multiply_outliers(outer: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The residual's part of the output."""
    return gemm.output(outer, weight, geometry)


def keep_outliers(outer: Tensor | None, quantile: float | None) -> list[Tensor]:
    """[positions, values] for backward; nothing where there is no residual.

    >>> [t.tolist() for t in keep_outliers(torch.tensor([-1.0, 0.0, 0.0, 0.0, 2.0]), 0.75)]
    [[4, 0], [2.0, -1.0]]
    """
    if outer is None or quantile is None:
        return []
    flat = outer.reshape(-1)
    beyond = _beyond(flat.numel(), quantile)
    high, low = flat.topk(beyond), flat.topk(beyond, largest=False)
    positions = torch.cat([high.indices, low.indices]).to(torch.int32)
    return [positions, torch.cat([high.values, low.values])]


def restore_outliers(kept: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """The residual of `keep_outliers`, dense.

    >>> restore_outliers([torch.tensor([1]), torch.tensor([5.0])], (1, 2))
    tensor([[0., 5.]])
    """
    positions, values = kept
    outer = values.new_zeros(math.prod(shape))
    outer[positions.long()] = values
    return outer.view(shape)
