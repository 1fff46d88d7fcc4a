"""The last phase of a run: some operands become wider, and the learning rate may begin anew.

    share   of the steps, at the end; the tail begins at step ceil(total (1 - share))
    slots   what becomes wider; an operand that is as wide already stays
    watch   begin when the gradient has sunk into the noise of its quantisation instead (`Watch`)

LUQ (ICLR 2023) calls it FNT: some epochs in FP16 with the weights still in few bits, under a
triangular learning rate. "FP4 all the way" (Chmiel et al., NeurIPS 2025) ends its runs with a
phase of high precision once the norm of the gradient is below sqrt(3) times the noise.

Both are pure functions of what a checkpoint holds: the step, and the step at which a watch struck.
`nybble train` applies a tail by itself; own loops call `nybble.start_tail(model)`.

Not done here: the loop (training/loop.py, training/phases.py).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from nybble.errors import UserError
from nybble.formats import get_format
from nybble.ops.spec import SAME, SLOTS, BackwardSlot, LayerSpec
from nybble.quantizers import Quantizer, Unit

__all__ = ["Tail", "Watch"]

Wide = Literal["fp32", "fp16", "bf16"]
Rate = Literal["continue", "triangle"]


@dataclass(frozen=True)
class Watch:
    """Begin the tail when ||g|| < factor ||g_q - g||, seen at one of every `every` steps.

    g and g_q: the gradients of the converted layers' weights for one batch, without and with
    quantised output gradients. `factor`: sqrt(3), the paper's threshold. `every` is this project's
    choice: a look costs one more forward and backward pass. `start`: the share of the run before
    which nothing is looked at.
    """

    every: int = 100
    factor: float = math.sqrt(3.0)
    start: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise UserError(f"Watch: every is {self.every!r}; use a whole number of steps from 1")
        if not 0.0 < self.factor < math.inf:
            raise UserError(f"Watch: factor is {self.factor!r}; use a positive number")
        if not 0.0 <= self.start < 1.0:
            raise UserError(f"Watch: start is {self.start!r}; use a share of the run in [0, 1)")


@dataclass(frozen=True)
class Tail:
    """See the module.

    share: of the steps, in (0, 1); with a watch, the steps that are left when it strikes.
    slots: names of slots; the default leaves the weights as they are.
    format: what these operands become: fp32, fp16 or bf16.
    rate: "continue" the run's schedule, or "triangle": the schedule ends before the tail, in which
    the rate goes linearly from 0 to `peak` times the run's largest, and back to 0.

    >>> Tail(0.1).begins(1000)
    900
    """

    share: float | None = None
    slots: tuple[str, ...] = (
        "output_input",
        "grad_input_grad",
        "grad_weight_grad",
        "grad_weight_input",
    )
    format: Wide = "fp16"
    rate: Rate = "continue"
    peak: float = 0.1
    watch: Watch | None = None

    def __post_init__(self) -> None:
        if (self.share is None) == (self.watch is None):
            raise UserError("Tail: give either share, of the steps, or watch")
        if self.share is not None and not 0.0 < self.share < 1.0:
            raise UserError(f"Tail: share is {self.share!r}; use a number between 0 and 1")
        unknown = [name for name in self.slots if name not in SLOTS]
        if unknown or not self.slots:
            raise UserError(f"Tail: slots is {self.slots!r}; use some of {', '.join(SLOTS)}")
        if self.format not in get_args(Wide):
            raise UserError(f"Tail: format is {self.format!r}; use {', '.join(get_args(Wide))}")
        if self.rate not in get_args(Rate):
            raise UserError(f"Tail: rate is {self.rate!r}; use {', '.join(get_args(Rate))}")
        if self.watch is not None and self.rate != "continue":
            raise UserError("Tail: nobody knows when a watch strikes; use rate='continue'")
        if not 0.0 < self.peak <= 1.0:
            raise UserError(f"Tail: peak is {self.peak!r}; use a share of the rate in (0, 1]")

    def begins(self, total: int) -> int | None:
        """The first step of the tail in a run of `total` steps, of which it has at least the last
        one; None: the watch will say.

        >>> Tail(0.05).begins(4)
        3
        """
        if self.share is None:
            return None
        return max(0, min(math.ceil(total * (1.0 - self.share)), total - 1))

    def of(self, spec: LayerSpec) -> LayerSpec | None:
        """`spec` in the tail; None where nothing of it changes.

        What is done to a Gemm as a whole ends with the few bits that it was for: samples, pairs,
        folded scales and control variates with those of the gradient, slots for signed inputs and
        outliers with those of the input, hooks with those of the weight. Backward slots that share
        the forward operand go on to, and an operand that meets a rotated one is rotated too.

        >>> Tail(0.1).of(LayerSpec()) is None
        True
        """
        wide = None if self.format == "fp32" else Quantizer(get_format(self.format), Unit())
        slots = {name: getattr(spec, name) for name in SLOTS}
        for name in self.slots:
            slot = spec.slot(name)
            if slot is None or slots[name] == SAME:
                continue
            if wide is None or slot.format.bits < wide.format.bits:
                slots[name] = wide
        changed = {name for name in SLOTS if slots[name] != getattr(spec, name)}
        if not changed:
            return None
        extras: dict[str, Any] = {}
        if changed & {"grad_input_grad", "grad_weight_grad"}:
            extras |= {"samples": 1, "gradient_pair": "each", "fold": False}
            extras["control_variate"] = False
        if changed & {"output_input", "output_weight"}:
            extras["double"] = False
        if "output_weight" in changed:
            extras["hook"] = None
        if "output_input" in changed:
            extras |= {"signed_slot": None, "skewed_slot": None, "outliers": None}
        for left, right in _GEMMS:
            slots[left], slots[right] = _matched(slots[left], slots[right])
        for name, forward in _SHARED.items():
            here = slots[name]
            plain = isinstance(here, Quantizer) and here.transform is None
            if plain and here == slots[forward]:  # a rotated operand is rotated for its own Gemm
                slots[name] = SAME
        return replace(spec, **slots, **extras)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    def __str__(self) -> str:
        names = ", ".join(self.slots)
        if self.watch is None:
            when = f"the last {100 * (self.share or 0):g} % of the steps"
        else:
            when = (
                f"from ||g|| < {self.watch.factor:.3f} ||g_q - g|| on"
                f" (seen every {self.watch.every} steps)"
            )
        rate = "the schedule goes on"
        if self.rate == "triangle":
            rate = f"the schedule ends before, then a triangle up to {self.peak:g} of the rate"
        return f"{when}: {names} in {self.format}; {rate}"


_SHARED = {"grad_input_weight": "output_weight", "grad_weight_input": "output_input"}
_GEMMS = (
    ("output_input", "output_weight"),
    ("grad_input_grad", "grad_input_weight"),
    ("grad_weight_grad", "grad_weight_input"),
)


def _matched(left: BackwardSlot, right: BackwardSlot) -> tuple[BackwardSlot, BackwardSlot]:
    """The operands of one Gemm under one transform: that of the other where a wide operand can
    take it, else none."""
    pair = [left, right]
    turns = [slot.transform if isinstance(slot, Quantizer) else None for slot in pair]
    if turns[0] == turns[1]:
        return left, right
    turn = turns[0] or turns[1]
    whole = all(isinstance(slot, Quantizer) for slot in pair)
    for i, slot in enumerate(pair):
        if isinstance(slot, Quantizer):
            pair[i] = replace(slot, transform=turn if whole else None)
    return pair[0], pair[1]
