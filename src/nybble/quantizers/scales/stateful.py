"""Scales with a memory: what a layer keeps of earlier gradients decides the scale of this one.

    state    one float32 number a layer, 0 before the first gradient
    step     (state that this gradient uses, state to keep), from the state and max|g|
    factors  (inv, scale) of a state: y = fl(g * inv), g ~= value * scale
    advance  the state after an iteration in which the largest |g| was `statistic`

Two families have it: `GradScale` (a power of two that is doubled and halved) and `Hindsight` (a
moving average of the maximum). A layer moves its state once an iteration (nn/state.py).

Not done here: the state itself, and states of more than one number.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor

from nybble.quantizers.scales.fit import ScaleConfig

if TYPE_CHECKING:
    from typing import Literal

__all__ = ["StatefulScale"]


class StatefulScale(ScaleConfig):
    """See the module. `mode`: "delayed" uses the stored state, "immediate" and "fit" need this
    gradient's own maximum first. `scope`: "layer", or "global" for one state in all layers."""

    mode: Literal["delayed", "immediate", "fit"]
    scope: Literal["layer", "global"]

    @abstractmethod
    def step(self, state: Tensor, statistic: Tensor, max_value: float) -> tuple[Tensor, Tensor]:
        """(state to use now, state to keep), each of the shape of `state`."""

    @abstractmethod
    def factors(self, state: Tensor, max_value: float) -> tuple[Tensor, Tensor]:
        """(what the gradient is multiplied by, what undoes it), of the shape of `state`."""

    @abstractmethod
    def advance(self, state: Tensor, statistic: Tensor, max_value: float) -> Tensor:
        """The state of the next iteration; `statistic`: the largest |g| of this one, 0 for none."""

    @abstractmethod
    def advance_number(self, state: float, statistic: float, max_value: float) -> float:
        """`advance` on numbers, the same float32 operations."""
