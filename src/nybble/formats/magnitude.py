"""Sign-magnitude codes found by comparing |x| with a table: any format, any thresholds.

    code of |x| = number of thresholds <= |x|,     threshold m = smallest float32 that rounds to m

Ties, whichever way they go, are inside the thresholds, so a comparison with float32 numbers is
exact. This is the general path; the formats have faster ones and the tests compare the two.
It needs magnitudes that ascend with their code, as they do in every sign-magnitude format.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nybble.formats.base import step_up

_TINY = torch.finfo(torch.float32).tiny * 2.0**-23  # smallest positive float32


def count_thresholds(thresholds: Tensor, magnitude: Tensor) -> Tensor:
    """Return how many of the ascending thresholds are <= magnitude (int32); NaN counts none.

    >>> count_thresholds(torch.tensor([0.5, 1.5]), torch.tensor([0.4, 0.5, 9.0]))
    tensor([0, 1, 2], dtype=torch.int32)
    """
    clean = magnitude.nan_to_num(0.0, float("inf")).contiguous()
    return torch.bucketize(clean, thresholds, out_int32=True, right=True)


def with_sign(m: Tensor, x: Tensor, sign_bit: int) -> Tensor:
    """Return magnitude codes (int32) with the sign of x; zero has no sign.

    >>> with_sign(torch.tensor([0, 3]), torch.tensor([-0.1, -2.0]), 8)
    tensor([ 0, 11], dtype=torch.int32)
    """
    negative = ((x < 0) & (m > 0)).to(torch.int32)
    return m.to(torch.int32).bitwise_or(negative.mul_(sign_bit))


def stochastic_magnitude(levels: Tensor, magnitude: Tensor, u: Tensor) -> Tensor:
    """Return int32 codes of the lower or upper neighbour of each magnitude among `levels`.

    Args:
        levels: ascending float32, levels[0] for code 0.
        magnitude: float32, not NaN. Beyond the first or last level the code saturates.
        u: uniform in [0, 1): the upper neighbour is taken where u < p.

    >>> stochastic_magnitude(torch.tensor([0.0, 1.0, 4.0]), torch.tensor([2.5, 2.5]),
    ...                      torch.tensor([0.49, 0.5]))
    tensor([2, 1], dtype=torch.int32)
    """
    magnitude = torch.maximum(magnitude, levels[0]).clamp_(max=float(levels[-1]))
    low = count_thresholds(levels[1:], magnitude)
    high = low.add(1).clamp_(max=levels.numel() - 1)
    lo = levels[low.reshape(-1).long()].reshape(magnitude.shape)
    hi = levels[high.reshape(-1).long()].reshape(magnitude.shape)
    width = hi.sub(lo).clamp_(min=_TINY)  # 0 only at the top, where the numerator is 0 too
    up = step_up(magnitude.sub_(lo).div_(width), u)
    return torch.minimum(low.add_(up.to(torch.int32)), high)
