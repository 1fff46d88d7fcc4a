"""Q-EMA: a weight is rounded to that of its two neighbours that its moving average is nearer to.

    average <- fl(fl(decay average) + fl((1 - decay) w))      after every step; w after the first
    low <= w / s <= high                                      neighbouring levels of the format
    value = s low   if |average / s - low| <= |average / s - high|   else   s high

A weight that swings about the middle between two levels would jump at every step; its average
does not. The value takes the weight's place, and the Gemm's quantizer finds it on its grid: an E8M0
scale that follows from the values is the same or a smaller power of two, of which the values are
levels too. So only scales that are powers of two will do. A weight on a level stays there.

Source: TetraJet (arXiv 2502.20853) and its code: decay 0.9983, in use from the tenth step on.

Not done here: keeping the average in fewer than 32 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.quantizers.hooks.base import LayerHook, State
from nybble.quantizers.scales import AbsMax

if TYPE_CHECKING:
    from nybble.quantizers.quantizer import Quantizer

__all__ = ["QEma", "neighbours"]


@dataclass(frozen=True)
class QEma(LayerHook):
    """See the module. start: steps of the optimizer before the average is used.

    >>> QEma().short
    'q-ema(0.9983, from step 10)'
    """

    decay: float = 0.9983
    start: int = 10

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise UserError(f"QEma: decay must lie in [0, 1), got {self.decay!r}")
        if isinstance(self.start, bool) or not isinstance(self.start, int) or self.start < 1:
            raise UserError(f"QEma: start is a number of steps from 1 on, got {self.start!r}")

    def check(self, slot: Quantizer | None) -> None:
        """Only scales that are powers of two: see the module."""
        super().check(slot)
        assert slot is not None  # checked
        scale = slot.scale
        power = isinstance(scale, AbsMax) and (scale.scale_format == "e8m0" or scale.power_of_two)
        if not power or getattr(scale, "headroom", 1.0) != 1.0:
            raise UserError(
                "QEma needs a weight scale that is a power of two, such as AbsMax.mx(), got"
                f" {scale.short}"
            )

    def buffers(self, weight: Tensor) -> dict[str, Tensor]:
        """The average, and how many steps it has seen."""
        steps = torch.zeros(1, dtype=torch.int64, device=weight.device)
        return {"average": torch.zeros_like(weight, dtype=torch.float32), "steps": steps}

    def weight(self, weight: Tensor, state: State, slot: Quantizer) -> Tensor:
        """The nearer neighbour, once the average is in use.

        >>> from nybble.quantizers import get_quantizer
        >>> state = {"average": torch.tensor([2.6, 6.0]), "steps": torch.tensor([10])}
        >>> QEma().weight(torch.tensor([2.4, 6.0]), state, get_quantizer("fp4_e2m1:absmax(mx32)"))
        tensor([3., 6.])
        """
        if int(state["steps"]) < self.start:
            return weight
        fit = slot.scale.fit(weight, slot.format)
        low, high = neighbours(fit.scaled(weight), slot)
        average = fit.scaled(state["average"])
        return fit.dequantize(
            torch.where((average - low).abs() <= (average - high).abs(), low, high)
        )

    @torch.no_grad()
    def after_step(self, weight: Tensor, state: State, slot: Quantizer) -> None:
        """Move the average."""
        average, steps = state["average"], state["steps"]
        if int(steps) == 0:
            average.copy_(weight)
        else:
            average.mul_(self.decay).add_(weight * (1.0 - self.decay))
        steps.add_(1)

    @property
    def short(self) -> str:
        return f"q-ema({self.decay:g}, from step {self.start})"


def neighbours(y: Tensor, slot: Quantizer) -> tuple[Tensor, Tensor]:
    """The levels of the slot's format around scaled values: the same one twice on a level, and
    beyond the ends.

    >>> from nybble.quantizers import get_quantizer
    >>> neighbours(torch.tensor([2.4, 3.0, 9.0]), get_quantizer("fp4_e2m1:absmax(mx32)"))
    (tensor([2., 3., 6.]), tensor([3., 3., 6.]))
    """
    levels = torch.tensor(_levels(slot), device=y.device)
    y = y.clamp(levels[0], levels[-1])
    # The first level that is not below y; a NaN is beyond all of them, and its scale is NaN too.
    above = torch.searchsorted(levels, y.contiguous()).clamp(max=len(levels) - 1)
    high = levels[above]
    return torch.where(high == y, high, levels[(above - 1).clamp(min=0)]), high


@lru_cache(maxsize=64)
def _levels(slot: Quantizer) -> tuple[float, ...]:
    return tuple(sorted(set(slot.format.values())))
