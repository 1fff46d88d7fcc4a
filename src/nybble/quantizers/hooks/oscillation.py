"""OsciReset: weights that jump between two levels while they hardly move are set on their level.

Over a window of `period` steps of the optimizer, for every weight:

    moved  = sum |w_t - w_(t-1)|          jumped = sum |Q(w_t) - Q(w_(t-1))|
    at its end    w <- Q(w)   where   jumped >= tau moved  and  jumped > 0;   then a new window

A weight in the middle between two levels jumps a whole level at the smallest step; on its level it
has half a level to go before it jumps again.

Source: TetraJet-v2 (arXiv 2510.27527), abstract and secondary texts: tau 16, from step 8000 on;
AMD's ALTO (2026) takes a window of 200, tau 4, from step 2000 on. The window of the paper itself is
not in the texts that were available.

Not done here: sums in fewer than 32 bits (four numbers of 32 bits a weight).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.quantizers.hooks.base import LayerHook, State

if TYPE_CHECKING:
    from nybble.quantizers.quantizer import Quantizer

__all__ = ["OsciReset"]

_SUMS = ("before", "before_q", "moved", "jumped")


@dataclass(frozen=True)
class OsciReset(LayerHook):
    """See the module. start: steps of the optimizer before the first window; a
    window begins with the weights that a step before it has left, so 0 is as 1.

    >>> OsciReset().short
    'osci-reset(tau 16, every 200 steps from 8000)'
    """

    tau: float = 16.0
    period: int = 200
    start: int = 8000

    def __post_init__(self) -> None:
        if not self.tau > 0.0:
            raise UserError(f"OsciReset: tau must be positive, got {self.tau!r}")
        for name, least in (("period", 1), ("start", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(
                    f"OsciReset: {name} is a number of steps from {least} on, got {value!r}"
                )

    def buffers(self, weight: Tensor) -> dict[str, Tensor]:
        """The last weight and its value, the two sums, and how many steps there were."""
        steps = torch.zeros(1, dtype=torch.int64, device=weight.device)
        sums = {name: torch.zeros_like(weight, dtype=torch.float32) for name in _SUMS}
        return {**sums, "steps": steps}

    @torch.no_grad()
    def after_step(self, weight: Tensor, state: State, slot: Quantizer) -> None:
        """Sum up, and set what oscillates at the end of a window."""
        state["steps"].add_(1)
        step = int(state["steps"]) - self.start
        if step < 0:
            return
        values = _values(weight, slot)
        if step > 0 and int(state["steps"]) > 1:  # what was before the first step is not known
            state["moved"].add_((weight - state["before"]).abs_())
            state["jumped"].add_((values - state["before_q"]).abs_())
        if step % self.period == 0:
            swings = (state["jumped"] >= self.tau * state["moved"]) & (state["jumped"] > 0)
            if bool(swings.any()):
                weight.copy_(torch.where(swings, values, weight))
                values = _values(weight, slot)  # a block's scale may have moved with its largest
            state["moved"].zero_()
            state["jumped"].zero_()
        state["before"].copy_(weight)
        state["before_q"].copy_(values)

    @property
    def short(self) -> str:
        return f"osci-reset(tau {self.tau:g}, every {self.period} steps from {self.start})"


def _values(weight: Tensor, slot: Quantizer) -> Tensor:
    """Q(w): what the slot makes of the weight, rounded to nearest."""
    fit = slot.scale.fit(weight, slot.format)
    return fit.dequantize(slot.format.round(fit.scaled(weight)))
