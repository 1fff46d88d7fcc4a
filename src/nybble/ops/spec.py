"""What one layer does: six quantizer slots, and how sums are accumulated.

A layer has three Gemms with two operands each, hence six slots:

    output       input   x weight     (forward)
    grad_input   grad    x weight     (backward, towards the layer below)
    grad_weight  grad    x input      (backward, towards the optimizer)

A slot holds a `Quantizer`, `None` (the operand stays in float32) or, for the two operands that the
backward pass shares with the forward one, `SAME`: the very codes that the output Gemm used.
A `LayerSpec` is data: frozen, comparable, and written as JSON for operators and checkpoints.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any, Final, Literal, get_args

from nybble.errors import UserError
from nybble.formats import LogFormat, get_format
from nybble.formats.hash_once import hash_once
from nybble.quantizers import PACT, Quantizer, StatefulScale, Stochastic, Unit

LOSS_SCALE: Final = 1024.0
_WIDE: Final = 2.0**100  # formats that end above it have float32's range, about

_SHARED: Final = ("grad_input_weight", "grad_weight_input")

Same = Literal["same"]
SAME: Final[Same] = "same"
Slot = Quantizer | None
BackwardSlot = Quantizer | Same | None

SLOTS: Final = (
    "output_input",
    "output_weight",
    "grad_input_grad",
    "grad_input_weight",
    "grad_weight_grad",
    "grad_weight_input",
)


@dataclass(frozen=True)
class Accumulator:
    """How a Gemm sums: exactly, or in a narrow format, chunk by chunk.

    `Accumulator()` is the exact accumulator. With `format` set, products are summed in chunks of
    `chunk` along the contraction, each chunk's sum is rounded to `format`, and so is every add of
    one chunk's sum to the total (Wang et al., NeurIPS 2018). Real hardware, and the oracle, also
    round every add inside a chunk; the reference backend sums the inside of a chunk in float32
    and rounds once. The difference is stated in docs/exactness.md.
    """

    format: str | None = None
    chunk: int = 64

    def __post_init__(self) -> None:
        if self.format is not None:
            get_format(self.format)
        if self.chunk < 1:
            raise UserError(f"accumulator chunk is {self.chunk}: it must be at least 1")

    def __str__(self) -> str:
        return "exact" if self.format is None else f"{self.format} in chunks of {self.chunk}"


EXACT: Final = Accumulator()

GradientPair = Literal["each", "one", "mean", "random"]
PAIRS: Final[tuple[GradientPair, ...]] = get_args(GradientPair)
MAX_SAMPLES: Final = 15


@hash_once
@dataclass(frozen=True)
class LayerSpec:
    """Six slots and an accumulator: all that a layer needs to know of its recipe.

    `signed_inputs` says what becomes of a PACT input slot when the first batch holds negative
    values: `"symmetric"` (one clip, [-7, 7]), `"two_sided"` (two clips, 16 levels, zero point) or
    `"sawb"` ([-7, 7], the clip from each batch's moments).

    `gradient_pair` says what the two gradient slots are to the two backward Gemms: `"each"` (its
    own slot, its own random bits), `"one"` (equal slots, rounded once for both), `"mean"` (each
    Gemm runs with both operands, and the mean of the two products is the result) or `"random"`
    (each Gemm takes one of the two slots, drawn for every layer and call).
    `samples`: so many independent roundings of the gradient feed grad_weight, whose products are
    averaged (SMP of LUQ, ICLR 2023).
    """

    output_input: Slot = None
    output_weight: Slot = None
    grad_input_grad: Slot = None
    grad_input_weight: BackwardSlot = SAME
    grad_weight_grad: Slot = None
    grad_weight_input: BackwardSlot = SAME
    accumulator: Accumulator = EXACT
    signed_inputs: Literal["symmetric", "two_sided", "sawb"] = "symmetric"
    samples: int = 1
    gradient_pair: GradientPair = "each"

    def __post_init__(self) -> None:
        for name in SLOTS:
            value = getattr(self, name)
            if isinstance(value, Quantizer):
                _check_slot(name, value)
            elif value is not None and not (value == SAME and name in _SHARED):
                raise UserError(
                    f"slot {name} is {value!r}: it takes a Quantizer, None for float32"
                    + (", or 'same'" if name in _SHARED else "")
                )
        _check_gradients(self)

    def slot(self, name: str) -> Slot:
        """The quantizer of a slot, with `SAME` resolved to the forward operand's.

        >>> LayerSpec().slot("grad_weight_input") is None
        True
        """
        value = getattr(self, name)
        if value == SAME:
            value = self.output_weight if name == "grad_input_weight" else self.output_input
        return value  # type: ignore[no-any-return]

    @property
    def quantizes(self) -> bool:
        """Whether any operand leaves float32."""
        return any(self.slot(name) is not None for name in SLOTS)

    @cached_property
    def grad_scale(self) -> tuple[StatefulScale, float] | None:
        """The GradScale or Hindsight of the gradient slots and the `Max` of its rule, or None.

        Both slots read one scaled gradient, so a layer has one state. `Max` is the largest value
        of the even grid, whichever phase feeds which Gemm and whichever Gemm is needed: the phase
        is then the only thing that a choice of phases changes.
        """
        for slot in (self.grad_input_grad, self.grad_weight_grad):
            if slot is not None and isinstance(slot.scale, StatefulScale):
                fmt = slot.format
                even = replace(fmt, phase="even") if isinstance(fmt, LogFormat) else fmt
                return slot.scale, even.max_value
        return None

    @cached_property
    def draws(self) -> bool:
        """Whether a slot rounds with random bits."""
        slots = (self.output_input, self.output_weight, self.grad_input_grad, self.grad_weight_grad)
        return self.gradient_pair == "random" or any(
            q is not None and isinstance(q.rounding, Stochastic) for q in slots
        )

    @property
    def loss_scale(self) -> float:
        """The power of two by which a training loop should multiply the loss, or 1.

        Gradients of 8 or 16 bits without a scale of their own underflow: FP16's smallest number is
        6e-8 (Micikevicius et al. 2018, arXiv 1710.03740). GradScale and bfloat16's range need none.

        >>> LayerSpec().loss_scale
        1.0
        """
        slots = (self.grad_input_grad, self.grad_weight_grad)
        bare = any(
            slot is not None and isinstance(slot.scale, Unit) and slot.format.max_value < _WIDE
            for slot in slots
        )
        return LOSS_SCALE if bare else 1.0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict; `LayerSpec.from_dict` is its inverse."""
        data: dict[str, Any] = {}
        for name in SLOTS:
            value = getattr(self, name)
            data[name] = value.to_dict() if isinstance(value, Quantizer) else value
        data["accumulator"] = {"format": self.accumulator.format, "chunk": self.accumulator.chunk}
        data["signed_inputs"] = self.signed_inputs
        data["samples"], data["gradient_pair"] = self.samples, self.gradient_pair
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LayerSpec:
        """Build a spec from `to_dict()`'s result; unknown keys are an error."""
        unknown = set(data) - {f.name for f in fields(cls)}
        if unknown:
            raise UserError(f"a layer spec has no field {', '.join(sorted(unknown))}")
        values: dict[str, Any] = dict(data)
        for name in SLOTS:
            if isinstance(values.get(name), dict):
                values[name] = Quantizer.from_dict(values[name])
        if "accumulator" in values:
            values["accumulator"] = Accumulator(**values["accumulator"])
        return cls(**values)

    @cached_property
    def key(self) -> str:
        """The canonical JSON text: what operators receive, since their schemas know strings."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))


def _check_slot(name: str, quantizer: Quantizer) -> None:
    """Refuse a scale where a layer has no use for it."""
    scale = quantizer.scale
    is_gradient = name in ("grad_input_grad", "grad_weight_grad")
    if isinstance(scale, StatefulScale):
        family = type(scale).__name__
        if not is_gradient:
            raise UserError(f"slot {name}: {family} is for gradients; use AbsMax, SAWB or PACT")
        if quantizer.format.unit is None:
            raise UserError(f"slot {name}: {family} needs a format of integers and a unit")
    if isinstance(scale, PACT) and not name.endswith("_input"):
        raise UserError(f"slot {name}: PACT learns the clip of inputs; use SAWB or AbsMax")
    if getattr(scale, "granularity", "tensor") == "block":
        raise UserError(f"slot {name}: block scales are not supported in layers, only in quantize")


def _check_gradients(spec: LayerSpec) -> None:
    """Refuse a pair of gradient slots, or a number of samples, that means nothing."""
    first, second, pair = spec.grad_input_grad, spec.grad_weight_grad, spec.gradient_pair
    if pair not in PAIRS:
        raise UserError(f"gradient_pair is {pair!r}: use {' | '.join(PAIRS)}")
    if pair == "one" and first != second:
        raise UserError(
            "gradient_pair='one' rounds the gradient once for both backward Gemms, so its two slots"
            f" must be equal: they are {first} and {second}"
        )
    if pair in ("mean", "random") and (first is None or second is None):
        raise UserError(f"gradient_pair={pair!r} needs a quantizer in both gradient slots")
    n = spec.samples
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_SAMPLES:
        raise UserError(f"samples is {n!r}: use a whole number from 1 to {MAX_SAMPLES}")
    if n == 1:
        return
    if second is None or not isinstance(second.rounding, Stochastic):
        raise UserError(f"samples={n}: independent roundings need rounding=Stochastic()")
    if pair not in ("each", "one"):
        raise UserError(f"samples={n} goes with gradient_pair 'each' or 'one', not {pair!r}")


@lru_cache(maxsize=4096)
def parse_spec(key: str) -> LayerSpec:
    """The spec of a `LayerSpec.key`; cached, because every operator call asks for it."""
    return LayerSpec.from_dict(json.loads(key))
