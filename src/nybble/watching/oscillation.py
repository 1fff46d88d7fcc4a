"""How many weights go back and forth between codes: a burst of consecutive steps, on a sample.

    flips = share of the sampled weights whose level changed direction at least twice in the burst

A weight that moves steadily changes level in one direction; one that sits on a threshold goes up
and down (Nagel et al. 2022, "Overcoming oscillations in quantization-aware training"; TetraJet 2025
counts the same as a ratio of distances). `BURST` steps are looked at, one after the other, after
the step in which the layer has its turn, with the weight's scale of each step.

Not done here: freezing what oscillates; that is a recipe's business (tetrajet2).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from nybble.quantizers import LSQ, Quantizer, Unit
from nybble.quantizers.layout import flatten

__all__ = ["BURST", "Burst"]

BURST: Final = 8
SAMPLE: Final = 4096
_TURNS: Final = 2


class Burst:
    """The levels of a sample of one weight over a burst of steps.

    >>> from nybble.quantizers import get_quantizer
    >>> burst = Burst(get_quantizer("int4_sym:absmax"))
    >>> for step in range(BURST):
    ...     burst.see(torch.tensor([7.0, 2.4 + 0.2 * (step % 2), 1.0]))
    >>> round(float(burst.share()), 2)
    0.33
    """

    def __init__(self, slot: Quantizer) -> None:
        self.slot = slot
        self.levels: list[Tensor] = []

    @staticmethod
    def suits(slot: Quantizer | None) -> bool:
        """Whether the slot's weights are few levels whose scale one look at the weight gives."""
        if slot is None or slot.format.bits > 4 or slot.transform is not None:
            return False
        if isinstance(slot.scale, Unit | LSQ):
            return False
        return getattr(slot.scale, "granularity", "tensor") == "tensor"

    @property
    def done(self) -> bool:
        """Whether the burst is over."""
        return len(self.levels) >= BURST

    def see(self, weight: Tensor) -> None:
        """Look at the weight of one more step."""
        weight = weight.detach().float()
        fit = self.slot.scale.fit(weight, self.slot.format)
        flat = flatten(weight)
        part = flat[:: max(1, flat.numel() // SAMPLE)][:SAMPLE]
        self.levels.append(self.slot.format.round(part * fit.inv.reshape(-1)[0], None, None))

    def share(self) -> Tensor:
        """The share of the module, one number on the weight's device."""
        levels = torch.stack(self.levels)
        moves = levels.diff(dim=0).sign()
        turns = torch.zeros_like(moves[0])
        last = moves[0]
        for move in moves[1:]:
            turns += (move * last < 0).to(turns.dtype)
            last = torch.where(move != 0, move, last)
        return (turns >= _TURNS).to(torch.float32).mean()
