"""Bit splitting and leverage-score sampling: the gradient parts of Xi et al. (NeurIPS 2023, arXiv
2306.11987), as values.

Bit splitting. A gradient G [N, C] becomes two matrices of small integers, the upper digit rounded
to nearest and the lower one at random, so that the mean of what they stand for is G:

    scale  = top / 98, the scale of scales/arithmetic.py        top = max|G|, 98 = 14 * 7
    y      = fl(G * fl(1 / scale))
    hi     = clamp(round(fl(y / 14)), -limit, limit)            ties to even
    lo     = stochastic(y - 14 * hi), within +-limit            y - 14 * hi is exact
    G     ~= (14 * hi + lo) * scale

Sampling. The 2 N rows [14 * hi; lo] are about as much work as G in 8 bits; keeping half of them at
random makes it the work of 4 bits. Rows that matter more are kept more often:

    score_i = fl(|row_i| |other_i|)      Euclidean lengths; other_i is row i, or i - N, of the other
                                         operand [N, K]
    p_i     = min(1, t * score_i)        t such that the p_i sum to the budget (N in the paper)
    keep row i with probability p_i, multiplied by 1 / p_i

so the mean of sum_i w_i row_i^T other_i is G^T other. `t` is found by clipping and sharing out what
is left until no p_i exceeds 1; p_i is then rounded up to a multiple of 2**-24, which 24 random bits
hit exactly. A row of score 0 is never kept and never needed. A NaN or infinite G is NaN throughout.

`limit`. The public code clamps both digits to +-6, which holds 90 and not 98: elements within 8 %
of the largest are cut, and the mean is not G. The default here is 7, which loses nothing; 6 is
there for comparison.

Source: the authors' code by way of this project's notes; nothing copied.

Not done here: layers; the weights 1 / p_i within an integer product (they vary along its sum).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.formats import Integer, Stochastic
from nybble.quantizers.scales.arithmetic import divide, scale_of, square_root, to_array, to_tensor
from nybble.quantizers.scales.gradscale import absolute_max
from nybble.quantizers.sums import tree_sum, tree_sum_last

__all__ = ["BitSplit", "bit_split", "keep_probabilities", "keep_weights", "leverage_scores"]

_BASE = 14.0
_SYMMETRIC = Integer(4, symmetric=True)


@dataclass(frozen=True)
class BitSplit:
    """G ~= (14 * hi + lo) * scale; `hi` and `lo` are float32 integers in the shape of G."""

    hi: Tensor
    lo: Tensor
    scale: Tensor

    def dequantize(self) -> Tensor:
        """fl((14 * hi + lo) * scale)."""
        return (self.hi * _BASE + self.lo) * self.scale

    def rows(self) -> Tensor:
        """The integers [14 * hi; lo], [2 N, C]: G ~= scale * (first N rows + last N rows)."""
        return torch.cat([self.hi * _BASE, self.lo])


def bit_split(x: Tensor, random: Tensor, limit: int = 7) -> BitSplit:
    """Split `x` into two digits; `random`: 24 random bits for each element (`random24`).

    >>> from nybble.quantizers import RandomKey, random24
    >>> x = torch.tensor([[98.0, -15.0, 0.0]])
    >>> split = bit_split(x, random24((1, 3), RandomKey()))
    >>> split.hi, split.lo, split.dequantize()
    (tensor([[ 7., -1.,  0.]]), tensor([[ 0., -1.,  0.]]), tensor([[ 98., -15.,   0.]]))
    """
    if limit not in (6, 7):
        raise UserError(f"bit_split: limit must be 7, or 6 as the public code has it, got {limit}")
    if random.shape != x.shape:
        raise UserError(
            f"bit_split: one random integer an element, {tuple(x.shape)}, got {tuple(random.shape)}"
        )
    x = x.detach().to(torch.float32)
    scale = to_tensor(scale_of(to_array(absolute_max(x)), _BASE * 7))
    y = x * torch.reciprocal(scale)
    hi = torch.as_tensor(divide(y, _BASE)).round().clamp(-limit, limit)
    lo = _SYMMETRIC.round_to_integers(y - hi * _BASE, Stochastic(), random).clamp(-limit, limit)
    return BitSplit(hi + 0.0, lo + 0.0, scale)


def leverage_scores(rows: Tensor, other: Tensor) -> Tensor:
    """The score of every row of `rows` [M, C] beside `other` [N, K], M a multiple of N.

    >>> leverage_scores(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[2.0]]))
    tensor([10.,  2.])
    """
    if rows.dim() != 2 or other.dim() != 2 or rows.shape[0] % max(other.shape[0], 1):
        raise UserError(
            "leverage_scores: two matrices, the rows of the first a multiple of the second's, got "
            f"{tuple(rows.shape)} and {tuple(other.shape)}"
        )
    rows, other = rows.detach().to(torch.float32), other.detach().to(torch.float32)
    lengths = square_root(tree_sum_last(rows * rows))
    others = square_root(tree_sum_last(other * other))
    return torch.mul(lengths, others.repeat(rows.shape[0] // max(other.shape[0], 1)))


def keep_probabilities(scores: Tensor, budget: float) -> Tensor:
    """min(1, t * score) with a sum of `budget`, or as near to it as scores of 0 allow; float32.

    >>> keep_probabilities(torch.tensor([1.0, 1.0, 2.0, 0.0]), 2.0)
    tensor([0.5000, 0.5000, 1.0000, 0.0000])
    >>> keep_probabilities(torch.tensor([1.0, 1.0, 9.0, 1.0]), 2.5)
    tensor([0.5000, 0.5000, 1.0000, 0.5000])
    """
    scores = scores.detach().to(torch.float32)
    if scores.dim() != 1 or not bool((scores >= 0).all()) or not bool(scores.isfinite().all()):
        raise UserError("keep_probabilities: a vector of finite scores, none below 0")
    if not 0 < budget < math.inf:
        raise UserError(f"keep_probabilities: budget must be a positive number, got {budget!r}")
    unsettled = scores > 0
    found = torch.zeros_like(scores)
    left = float(budget)
    while left > 0 and bool(unsettled.any()):
        shares = torch.where(unsettled, scores, 0.0)
        shares = shares / shares.amax()  # whose sum neither overflows nor vanishes
        tried = shares * (left / float(tree_sum(shares)))
        found = torch.where(unsettled, tried.clamp(max=1.0), found)
        full = unsettled & (tried >= 1.0)
        if not bool(full.any()):
            break
        unsettled &= ~full
        left -= float(full.sum())
    # Up to what 24 random bits can tell apart: the mean of the weights is then exactly 1.
    return torch.ceil(found * 2.0**24) * 2.0**-24


def keep_weights(probabilities: Tensor, random: Tensor) -> Tensor:
    """1 / p where a row is kept, else 0; kept where random * 2**-24 < p.

    >>> keep_weights(torch.tensor([0.5, 0.5, 1.0]), torch.tensor([0, 1 << 23, (1 << 24) - 1]))
    tensor([2., 0., 1.])
    """
    if random.shape != probabilities.shape:
        raise UserError(
            f"keep_weights: one random integer a row, {tuple(probabilities.shape)}, got "
            f"{tuple(random.shape)}"
        )
    kept = random.to(torch.float32) * 2.0**-24 < probabilities
    return torch.where(kept, torch.reciprocal(probabilities), 0.0)
