"""SAWB, statistics-aware weight binning (Choi et al., arXiv 1807.06964, MLSys 2019).

The clip of a weight tensor follows from its first two absolute moments:

    alpha = c1 * sqrt(E[w^2]) - c2 * E|w|

with coefficients fitted once, by the authors, to the MSE-optimal clip of six distributions. The
4-bit sets (IBM's fms-model-optimizer, sawb_utils.py, and the code of LUQ, arXiv 2112.10769):

    ibm15   (12.035, 12.03)   15 levels -7..7, step alpha / 7 (the toolkit's code 403)
    ibm16   (12.68, 12.80)    16 levels without a zero, step alpha / 7.5
    luq     (12.1, 12.2)      15 levels, as LUQ uses them

Order of float32 operations, `n` elements (per channel: of the channel) in the order in which they
lie in memory, `fl` one rounding:

    m2    = fl(tree_sum(fl(w * w)) / fl(n))          m1 = fl(tree_sum(|w|) / fl(n))
    raw   = fl(fl(fl(c1) * fl(sqrt(m2))) - fl(fl(c2) * m1))
    top   = max|w|
    alpha = min(raw, top)                            if raw >= m1
    alpha = min(fl(2 * m1), top)                     otherwise
    scale = max(fl(alpha / levels), 2**-126)         levels = 7 or 7.5; see arithmetic.py
    inv   = fl(1 / scale)

Why the second branch. No clip below the mean magnitude can be right, but the formula gives one for
weights of nearly constant magnitude: c1 - c2 < 0 for `ibm16` and `luq`, and 0.005 for `ibm15`,
which would pass a test for `alpha <= 0`. IBM's code falls back to max|w|. So does this one, except
where max|w| is more than twice the mean: there max|w| is an outlier, and a grid stretched to it
would round the constant magnitudes, that is everything else, to zero. Weights of constant magnitude
and a single weight give alpha = max|w|; ternary weights are held at max|w| by the `min`.

Moments that overflow (weights beyond 2**64) give alpha = max|w|; an infinite or NaN weight makes
the scale NaN.

Not done here: the coefficients for 2, 3, 5, 7 and 8 bits; a learned clip (that is PACT).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from nybble.errors import UserError, suggest
from nybble.quantizers.layout import in_memory_order
from nybble.quantizers.scales.arithmetic import (
    Array,
    divide,
    scale_of,
    select,
    square_root,
    times,
    to_array,
    to_tensor,
)
from nybble.quantizers.scales.fit import Fit, ScaleConfig, value_range
from nybble.quantizers.sums import tree_sum_last, tree_sum_rows

if TYPE_CHECKING:
    from nybble.formats import Format

__all__ = ["COEFFICIENTS", "SAWB", "sawb_alpha"]

Ste = Literal["pass", "clip"]
Statistics = Callable[[Tensor], tuple[Array, Array, Array]]
"""A matrix [B, n] to the sum of squares, the sum of magnitudes and the largest magnitude of every
row; of one row on the CPU as numpy numbers."""

COEFFICIENTS: dict[str, tuple[float, float, float]] = {
    "ibm15": (12.035, 12.03, 7.0),
    "ibm16": (12.68, 12.80, 7.5),
    "luq": (12.1, 12.2, 7.0),
}
"""Name -> (c1, c2, levels on one side of zero)."""


def sawb_alpha(w: Tensor, c1: float, c2: float) -> Tensor:
    """The clip of every row of `w` `[B, n]`; float32 `[B]`, in [0, max|row|], NaN where not finite.

    >>> sawb_alpha(torch.tensor([[0.5, -0.5, 0.5, -0.5]]), 12.68, 12.80)
    tensor([0.5000])
    """
    w = w.detach().to(torch.float32)
    return to_tensor(_alpha(w, c1, c2, row_statistics)).reshape(w.shape[0])


def _alpha(w: Tensor, c1: float, c2: float, statistics: Statistics) -> Array:
    """`sawb_alpha`; one row on the CPU gives a number."""
    batch, n = w.shape
    if batch == 0 or n == 0:
        return w.new_zeros(batch)
    squares, magnitudes, largest = statistics(w)
    with np.errstate(all="ignore"):
        m1 = divide(magnitudes, float(n))
        rms = square_root(divide(squares, float(n)))
        raw = times(rms, c1) - times(m1, c2)
        raw = select(raw >= m1, raw, m1 + m1)
        # A NaN weight makes all three NaN, and no comparison with NaN holds: the result is NaN.
        return select(largest <= raw, largest, raw)


def row_statistics(w: Tensor) -> tuple[Array, Array, Array]:
    """Sum of squares, sum of magnitudes and largest magnitude of every row of `[B, n]`."""
    batch, n = w.shape
    array = to_array(w)
    if isinstance(array, np.ndarray) and w.numel() <= _SMALL:
        pair = np.empty((2, batch, n), dtype=np.float32)
        with np.errstate(all="ignore"):
            np.multiply(array, array, out=pair[0])
            np.absolute(array, out=pair[1])
            sums = tree_sum_rows(pair.reshape(2 * batch, n))
        top: Array = pair[1].max(axis=1)
    else:
        both = torch.empty(2, batch, n, dtype=torch.float32, device=w.device)
        torch.mul(w, w, out=both[0])
        torch.abs(w, out=both[1])
        sums = to_array(tree_sum_last(both.view(2 * batch, n)))
        top = to_array(both[1].amax(dim=1))
    if batch == 1 and isinstance(sums, np.ndarray):
        return sums[0], sums[1], top[0]
    return sums[:batch], sums[batch:], top


_SMALL = 1 << 16  # elements up to which numpy's smaller overhead wins


@dataclass(frozen=True)
class SAWB(ScaleConfig):
    """SAWB with a published set of coefficients; see the module.

    coefficients: "ibm15" or "luq" for formats whose largest value is 7 (int4_sym, int4), "ibm16"
        for int4_zeroless.
    per_channel: one alpha for each index of dimension 0 (the output channel) instead of one.
    ste: what nn does with the gradient of clipped weights: "pass" lets it through (the toolkit's
        sawb+), "clip" zeroes it outside +-alpha.
    """

    coefficients: str = "ibm15"
    per_channel: bool = False
    ste: Ste = "pass"

    def __post_init__(self) -> None:
        if self.coefficients not in COEFFICIENTS:
            raise UserError(
                f"SAWB: no coefficients named {self.coefficients!r}; use one of "
                f"{', '.join(COEFFICIENTS)}.{suggest(self.coefficients, COEFFICIENTS)}"
            )
        if self.ste not in ("pass", "clip"):
            raise UserError(f"SAWB: ste must be 'pass' or 'clip', got {self.ste!r}")

    def fit(self, x: Tensor, format: Format, statistics: Statistics = row_statistics) -> Fit:
        """Fit to weights `x`; per tensor, or per index of dimension 0. `statistics` is what reads
        the tensor: another backend has its own.

        >>> from nybble.formats import get_format
        >>> SAWB().fit(torch.tensor([7.0, -7.0, 7.0]), get_format("int4_sym")).scale
        tensor(1.)
        """
        c1, c2, levels = COEFFICIENTS[self.coefficients]
        if value_range(format)[1] != levels:
            names = [k for k, v in COEFFICIENTS.items() if v[2] == value_range(format)[1]]
            use = f"use coefficients {' or '.join(names)}" if names else "use AbsMax"
            raise UserError(
                f"SAWB: coefficients {self.coefficients!r} are for formats whose largest value is "
                f"{levels:g}, {format.name!r} ends at {value_range(format)[1]:g}; {use}"
            )
        if not self.per_channel:
            flat = in_memory_order(x.detach().to(torch.float32)).reshape(1, -1)
            return self._fit(_alpha(flat, c1, c2, statistics).reshape(()), levels)
        if x.dim() == 0:
            raise UserError("SAWB: per_channel needs a tensor with a channel dimension")
        rows = in_memory_order(x.detach().to(torch.float32)).reshape(x.shape[0], x[:1].numel())
        alpha = to_tensor(_alpha(rows, c1, c2, statistics)).view(-1, *[1] * (x.dim() - 1))
        return self._fit(to_array(alpha), levels, granularity="channel", axis=0)

    @staticmethod
    def _fit(alpha: Array, levels: float, **info: Any) -> Fit:
        scale = scale_of(alpha, levels)
        return Fit.of_array(scale, bound=to_tensor(alpha), **info)

    @property
    def short(self) -> str:
        channel = ", per channel" if self.per_channel else ""
        clip = ", clip" if self.ste == "clip" else ""
        return f"sawb({self.coefficients}{channel}{clip})"
