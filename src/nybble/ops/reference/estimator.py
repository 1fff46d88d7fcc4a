"""The factor of the differentiable gradient estimator: see `DGE` in ops/spec.py.

For a weight w with scale s, x = w / s between neighbouring levels lo < hi of the format:

    t = (x - lo) / (hi - lo) in [0, 1]
    f' = min((1 / k) |2 t - 1|^(1 / k - 1), clip)         1 below the lowest and above the highest

Near a level f' is 1 / k, and it is largest in the middle between two, where rounding jumps.
Source: Wang et al. 2025 (arXiv 2501.17116), section 3.1, by way of secondary texts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nybble.ops.reference.places import Place
from nybble.ops.spec import DGE
from nybble.quantizers import Quantizer

__all__ = ["weight_factor"]


def weight_factor(weight: Tensor, slot: Quantizer | None, place: Place, config: DGE) -> Tensor:
    """f' of every element of `weight`, float32."""
    if slot is None:
        return torch.ones_like(weight)
    scale = slot.scale.along(place.contraction, place.free)
    scaled = scale.fit(weight, slot.format).scaled(weight)
    return factor(scaled.contiguous(), levels_of(slot), config)


def levels_of(slot: Quantizer) -> Tensor:
    """The format's levels in ascending order."""
    return torch.tensor(sorted(set(slot.format.values())), dtype=torch.float32)


def factor(x: Tensor, levels: Tensor, config: DGE) -> Tensor:
    """f' of scaled values.

    >>> factor(torch.tensor([0.0, 0.5, 9.0]), torch.tensor([0.0, 1.0]), DGE()).tolist()
    [0.20000000298023224, 3.0, 1.0]
    """
    levels = levels.to(x.device)
    below = (torch.searchsorted(levels, x.contiguous(), right=True) - 1).clamp(0, len(levels) - 2)
    low, high = levels[below], levels[below + 1]
    middle = (2.0 * (x - low) / (high - low) - 1.0).abs()
    found = (middle.clamp_(max=1.0) ** (1.0 / config.k - 1.0) / config.k).clamp_(max=config.clip)
    return torch.where((x < levels[0]) | (x > levels[-1]), torch.ones_like(x), found)
