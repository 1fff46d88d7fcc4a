"""Hindsight maximum: the scale of a gradient from the maxima of earlier ones (LUQ, ICLR 2023).

    m_t   = (1 - eta) max|g_{t-1}| + eta m_{t-1}       the state, one number a layer
    scale = max(fl(m_t / max_value), 2**-126)          as AbsMax, with m_t in place of max|g_t|
    inv   = fl(1 / scale)

so that a gradient need not be read twice; larger numbers than m_t saturate. With `power_of_two` the
scale is the smallest power of two with m_t / scale <= max_value. The formula is LUQ's; the value of
eta is not in the texts that were available, and 0.1 is this project's choice. The first usable
gradient sets m to its own maximum. Zero, NaN and infinity never move m.

The average is three float32 operations: fl(fl(fl(1 - eta) max|g|) + fl(fl(eta) m)).

Not done here: the state; layers keep it (nn/state.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.quantizers.scales.absmax import AbsMax
from nybble.quantizers.scales.arithmetic import inverse_of, scale_of, to_array, to_tensor
from nybble.quantizers.scales.fit import Fit
from nybble.quantizers.scales.gradscale import is_number, usable, warm_start
from nybble.quantizers.scales.stateful import StatefulScale

if TYPE_CHECKING:
    from nybble.formats import Format

__all__ = ["Hindsight"]


@dataclass(frozen=True)
class Hindsight(StatefulScale):
    """The scale of a layer's output gradient; see the module.

    eta: weight of the past, in [0, 1); 0 takes the last maximum alone.
    power_of_two: round the scale up to a power of two.

    >>> Hindsight(power_of_two=True).short
    'hindsight(0.1, power of two)'
    """

    eta: float = 0.1
    power_of_two: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.eta, bool) or not isinstance(self.eta, int | float):
            raise UserError(f"Hindsight: eta must be a number in [0, 1), got {self.eta!r}")
        if not 0.0 <= self.eta < 1.0:
            raise UserError(f"Hindsight: eta must be in [0, 1), got {self.eta}")

    @property
    def mode(self) -> Literal["delayed"]:  # type: ignore[override]
        """The stored maximum is used, and moved afterwards."""
        return "delayed"

    @property
    def scope(self) -> Literal["layer"]:  # type: ignore[override]
        """Every layer has its own maximum."""
        return "layer"

    def fit(self, x: Tensor, format: Format) -> Fit:
        """The fit to the maximum of `x` itself: what the first gradient of a layer gets.

        >>> from nybble.formats import get_format
        >>> Hindsight().fit(torch.tensor([0.5, -16.0]), get_format("fp4_radix2")).scale
        tensor(2.)
        """
        return AbsMax("tensor", power_of_two=self.power_of_two).fit(x, format)

    def step(self, state: Tensor, statistic: Tensor, max_value: float) -> tuple[Tensor, Tensor]:
        """(m to use, m to keep). Until a usable gradient came, the scale is 1 and m stays 0.

        >>> Hindsight(eta=0.5).step(torch.tensor([4.0]), torch.tensor([8.0]), 8.0)
        (tensor([4.]), tensor([6.]))
        """
        statistic = statistic.detach().to(torch.float32).reshape(state.shape)
        started, ok = state > 0, usable(statistic)
        fresh = torch.where(ok, statistic, torch.full_like(statistic, max_value))
        used = torch.where(started, state, fresh)
        first = torch.where(ok, statistic, torch.zeros_like(statistic))
        return used, torch.where(started, self.advance(state, statistic, max_value), first)

    def factors(self, state: Tensor, max_value: float) -> tuple[Tensor, Tensor]:
        """(inv, scale).

        >>> Hindsight().factors(torch.tensor([16.0]), 8.0)
        (tensor([0.5000]), tensor([2.]))
        """
        state = state.detach().to(torch.float32)
        if self.power_of_two:
            inv = warm_start(state, max_value)
            return inv, inv.reciprocal()
        scale = scale_of(to_array(state), max_value)
        with np.errstate(all="ignore"):
            return to_tensor(inverse_of(scale)), to_tensor(scale)

    def advance(self, state: Tensor, statistic: Tensor, max_value: float) -> Tensor:
        """m of the next iteration.

        >>> Hindsight(eta=0.25).advance(torch.tensor([4.0]), torch.tensor([8.0]), 8.0)
        tensor([7.])
        """
        if is_number(state) and is_number(statistic):
            number = self.advance_number(state.item(), statistic.item(), max_value)
            return torch.full_like(state, number)
        moved = statistic * (1.0 - self.eta) + state * self.eta
        return torch.where(usable(statistic), moved, state)

    def advance_number(self, state: float, statistic: float, max_value: float) -> float:
        if not 0.0 < statistic < math.inf:
            return state
        new, old = np.float32(1.0 - self.eta), np.float32(self.eta)
        return float(new * np.float32(statistic) + old * np.float32(state))

    @property
    def short(self) -> str:
        power = ", power of two" if self.power_of_two else ""
        return f"hindsight({self.eta:g}{power})"
