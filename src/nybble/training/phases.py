"""The last phase of a recipe in a run: when it begins, its learning rate, and the watch for it.

    a tail with a share   begins at a step that is known from the start
    a tail with a watch   begins one step after the watch struck; `RunState.tail_step` keeps it

Whether a step is in the tail follows from these numbers alone, so a run that is killed anywhere and
resumed takes the same steps. The watch compares, at one of every N steps, the gradient of the step
with that of the same batch without quantised gradients (`noise.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from nybble.convert import loss_scale
from nybble.nn.registry import quantized_layers
from nybble.phases import start_tail
from nybble.training import schedule

if TYPE_CHECKING:
    from nybble.recipes import Recipe
    from nybble.training.state import RunState

__all__ = ["Phases"]


class Phases:
    """The phases of a run of `total` steps by `recipe` (None: float32)."""

    def __init__(self, recipe: Recipe | None, total: int) -> None:
        self.tail = None if recipe is None else recipe.tail
        self.total = total
        self.started = False

    def begins(self, state: RunState) -> int | None:
        """The first step of the tail, None where it is not known or never comes."""
        if self.tail is None:
            return None
        planned = self.tail.begins(self.total)
        return state.tail_step if planned is None else planned

    def contains(self, step: int, state: RunState) -> bool:
        """Whether `step`, counted from 0, is in the tail."""
        first = self.begins(state)
        return first is not None and step >= first

    def enter(self, model: nn.Module, state: RunState, step: int, *, resumed: bool = False) -> bool:
        """Begin the tail in the model if `step` is in it; whether it began now. A resumed run has
        the loss scale that it had."""
        if self.started or not self.contains(step, state):
            return False
        self.started = True
        if any(layer.nybble_tail is not None for _, layer in quantized_layers(model)):
            before = loss_scale(model)
            start_tail(model)
            if not resumed and before == 1 and state.loss_scale == 1:
                # no layer needed a loss scale until now
                state.loss_scale = loss_scale(model)
        return True

    def factor(self, name: str, step: int, warmup: float) -> float:
        """The multiple of the peak learning rate at `step`.

        >>> from nybble.recipes import get_recipe
        >>> phases = Phases(get_recipe("luq:tail=0.2"), 20)
        >>> [round(phases.factor("constant", s, 0.0), 3) for s in (0, 15, 16, 17, 18, 19)]
        [1.0, 1.0, 0.05, 0.1, 0.067, 0.033]
        """
        first = None if self.tail is None else self.tail.begins(self.total)
        if self.tail is None or first is None or self.tail.rate == "continue":
            return schedule.factor(name, step, self.total, warmup)
        if step < first:
            return schedule.factor(name, step, first, warmup)
        return self.tail.peak * schedule.triangle(step - first, self.total - first)

    def looks(self, step: int, state: RunState) -> bool:
        """Whether the watch looks at this step's gradients."""
        watch = None if self.tail is None else self.tail.watch
        if watch is None or state.tail_step is not None:
            return False
        return step >= watch.start * self.total and (step + 1) % watch.every == 0

    def saw(self, step: int, ratio: float, state: RunState) -> bool:
        """Note what the watch saw; whether it struck, so that the next step is in the tail."""
        watch = None if self.tail is None else self.tail.watch
        if watch is None:
            return False
        state.watched.append([step, ratio])
        if ratio < watch.factor:
            state.tail_step = step + 1
        return state.tail_step is not None

    def record(self, state: RunState) -> dict[str, Any] | None:
        """What result.json says of the phases; None for recipes with one."""
        if self.tail is None:
            return None
        return {"tail_begins": self.begins(state), "watched": state.watched}
