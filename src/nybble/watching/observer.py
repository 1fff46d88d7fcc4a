"""What a converted layer calls while it is looked at: the operands of its Gemms, as they come.

    forward    input and weight, before they are quantised
    backward   the output gradient, before it is quantised and its memory used again

Layers take turns: with `every` = N and L layers, layer l is looked at in the steps s with
(s + l N / L) mod N = 0, so that the cost is spread over the steps. Nothing of the layer is changed:
no state moves, no random bit that training uses is drawn, no tensor is written.

Not done here: the hidden states of a time loop, whose operands exist one step at a time (its
input-hidden Gemm and its weights are looked at); embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nybble.nn.function import LayerCall
from nybble.ops.geometry import Geometry
from nybble.ops.reference.operand import (
    GRAD_INPUT_GRAD,
    GRAD_WEIGHT_GRAD,
    INPUT,
    WEIGHT,
    Draw,
)
from nybble.quantizers import LSQ, Quantizer
from nybble.watching.measure import Look, Numbers, look
from nybble.watching.oscillation import Burst

if TYPE_CHECKING:
    from nybble.nn.state import QuantizedLayer

__all__ = ["Observer", "Pending"]

_LOOKS = {
    "input": Look("input", "output", 0, INPUT),
    "weight": Look("weight", "output", 1, WEIGHT),
    "grad_input": Look("grad_input", "grad_input", 0, GRAD_INPUT_GRAD),
    "grad_weight": Look("grad_weight", "grad_weight", 0, GRAD_WEIGHT_GRAD),
}


@dataclass
class Pending:
    """A look whose numbers are still on the device."""

    order: int
    step: int
    layer: str
    operand: str
    slot: Quantizer
    numbers: Numbers
    alpha: Tensor | None = None
    flips: Tensor | None = None


class Observer:
    """Of one layer. `due` is set for the steps of its turn; `found` collects.

    Copies and pickles of a model leave it behind: they are not watched.
    """

    def __init__(self, layer: QuantizedLayer, name: str, order: Iterator[int]) -> None:
        self.layer, self.name, self.order = layer, name, order
        self.step = 0
        self.due = False
        self.found: list[Pending] = []
        self.burst: Burst | None = None
        self._seen: set[str] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()

    def begin(self, step: int, due: bool) -> None:
        """A training step begins."""
        if getattr(self.layer, "nybble_observer", None) is not self:
            return  # the layer was reverted meanwhile
        self.step, self.due = step, due
        self._seen.clear()
        if self.burst is not None or due:
            self._burst(due)

    # ---- called by the layer ------------------------------------------------------------------

    def forward(self, call: LayerCall, x: Tensor, weight: Tensor, alpha: Tensor | None) -> None:
        """The operands of the output Gemm, float32."""
        if not self.due or torch.compiler.is_compiling():
            return
        spec = call.spec
        self._look("input", spec.output_input, x, call, alpha=alpha)
        self._look("weight", spec.output_weight, weight, call)

    def backward(self, call: LayerCall, grad: Tensor, needs: tuple[bool, bool]) -> None:
        """The output gradient, float32; `needs`: which backward Gemms run."""
        if not self.due or torch.compiler.is_compiling():
            return
        slots = (call.spec.grad_input_grad, call.spec.grad_weight_grad)
        for name, slot, needed in zip(("grad_input", "grad_weight"), slots, needs, strict=True):
            if needed:
                self._look(name, slot, grad, call)

    def resume(self, levels: list[Tensor]) -> None:
        """Go on with a burst that a checkpoint cut in two."""
        slot = self.layer._resolved_spec().output_weight
        if slot is not None and Burst.suits(slot):
            self.burst = Burst(slot)
            self.burst.levels = list(levels)

    # ---- looking ------------------------------------------------------------------------------

    def _look(
        self,
        operand: str,
        slot: Quantizer | None,
        x: Tensor,
        call: LayerCall,
        alpha: Tensor | None = None,
    ) -> None:
        if slot is None or operand in self._seen or not x.numel():
            return
        self._seen.add(operand)  # the first call of a step stands for the others
        layer, top, state = self.layer, 1.0, None
        rule = layer.nybble_spec.grad_scale
        if rule is not None and operand.startswith("grad"):
            state, top = layer.nybble_grad_scale.detach().clone(), rule[1]
        with torch.no_grad():
            numbers = look(
                x,
                slot,
                _LOOKS[operand],
                call.geometry,
                Draw(call.seed, call.layer, call.call),
                alpha=None if isinstance(slot.scale, LSQ) else alpha,
                state=state,
                top=top,
            )
        kept = None if alpha is None else alpha.detach().clone()
        self.found.append(
            Pending(next(self.order), self.step, self.name, operand, slot, numbers, kept)
        )

    def _burst(self, due: bool) -> None:
        """One more step of the burst over the weight, or the first; a share when it is over."""
        layer = self.layer
        slot = layer._resolved_spec().output_weight
        if self.burst is None:
            if not due or slot is None or not Burst.suits(slot):
                return
            self.burst = Burst(slot)
        with torch.no_grad():
            self.burst.see(layer.weight)
            if not self.burst.done:
                return
            numbers = look(
                layer.weight,
                self.burst.slot,
                _LOOKS["weight"],
                Geometry("linear"),
                Draw(0, layer.nybble_index, 0),
            )
            found = (self.burst.slot, numbers, None, self.burst.share())
            self.found.append(Pending(next(self.order), self.step, self.name, "weight", *found))
        self.burst = None
