"""What one layer does: six quantizer slots, and how sums are accumulated.

A layer has three Gemms with two operands each, hence six slots:

    output       input   x weight     (forward)
    grad_input   grad    x weight     (backward, towards the layer below)
    grad_weight  grad    x input      (backward, towards the optimizer)

A slot holds a `Quantizer`, `None` (the operand stays in float32) or, for the two operands that the
backward pass shares with the forward one, `SAME`: the very codes that the output Gemm used.
Beside the slots stand the few things that recipes do to a Gemm as a whole: see `LayerSpec`.
A `LayerSpec` is data: frozen, comparable, and written as JSON for operators and checkpoints.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any, Final, Literal

from nybble.errors import UserError
from nybble.formats import LogFormat, get_format
from nybble.formats.hash_once import hash_once
from nybble.ops.spec_checks import SLOTS, GradientPair, check_spec
from nybble.quantizers import (
    LSQ,
    Hadamard,
    Quantizer,
    ScaleConfig,
    StatefulScale,
    Unit,
)
from nybble.quantizers.hooks import LayerHook, hook_from_dict

__all__ = [
    "DGE",
    "EXACT",
    "LOSS_SCALE",
    "SAME",
    "SLOTS",
    "Accumulator",
    "BackwardSlot",
    "GradientPair",
    "LayerSpec",
    "Same",
    "Slot",
    "is_composite",
    "parse_spec",
]

LOSS_SCALE: Final = 1024.0
_WIDE: Final = 2.0**100  # formats that end above it have float32's range, about

Same = Literal["same"]
SAME: Final[Same] = "same"
Slot = Quantizer | None
BackwardSlot = Quantizer | Same | None


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


@dataclass(frozen=True)
class DGE:
    """Differentiable gradient estimator (Wang et al. 2025, arXiv 2501.17116): grad_weight times

        f'(x) = min((1 / k) |2 x / delta - 1|^(1 / k - 1), clip)

    with x the scaled weight's distance from the grid level below it and delta the distance between
    the two levels around it; 1 beyond the grid. Where it is at most the clip, f is a smooth curve
    through the steps of the quantiser.
    """

    k: float = 5.0
    clip: float = 3.0

    def __post_init__(self) -> None:
        if not self.k >= 1.0 or not self.clip > 0.0:
            raise UserError(f"DGE: k must be at least 1 and clip positive, got {self}")


@hash_once
@dataclass(frozen=True)
class LayerSpec:
    """Six slots and an accumulator: all that a layer needs to know of its recipe.

    What is done to a Gemm as a whole:

    signed_slot: the input slot of layers whose first batch holds negative values; None: as
        `signed_inputs` says for PACT, and the same slot for other scales.
    skewed_slot: that of layers whose first batch is mostly above zero, as behind GELU or SiLU: its
        smallest value is negative, but within 0.4 of the largest; None: the signed slot.
    samples: how often the gradient is rounded at random for grad_weight; the products are averaged.
    fold: a scale of the weight or input that varies along the sum of a backward Gemm is multiplied
        into the gradient before that is quantised, so that the Gemm is one of integers.
    control_variate: grad_weight + (sum of dy - sum of Q(dy)) x (mean of the input), a rank-1 term
        that removes the rounding noise which multiplies the input's mean.
    double: backward operands are quantised from the forward codes, which alone are kept, and not
        from the tensors themselves.
    outliers: a quantile, 0.99 say; what inputs have beyond it and below 1 minus it is multiplied
        apart, in float32.
    weight_gradient: an estimator of the quantiser's gradient for weights; None passes it through.
    hook: what is done to the weight before each forward or after each step of the optimizer, with a
        state of its own (quantizers/hooks); operators never see it.

    `signed_inputs` says what becomes of a PACT input slot when the first batch holds negative
    values: `"symmetric"` (one clip, [-7, 7]), `"two_sided"` (two clips, 16 levels, zero point) or
    `"sawb"` ([-7, 7], the clip from each batch's moments).

    `gradient_pair` says what the two gradient slots are to the two backward Gemms: `"each"` (its
    own slot, its own random bits), `"shared"` (its own slot, the same random bits: both roundings
    are as unbiased as before, and the bits are drawn once), `"one"` (equal slots, rounded once for
    both), `"mean"` (each Gemm runs with both operands, and the mean of the two products is the
    result) or `"random"` (each Gemm takes one of the two slots, drawn for every layer and call).
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
    signed_slot: Slot = None
    skewed_slot: Slot = None
    samples: int = 1
    gradient_pair: GradientPair = "each"
    fold: bool = False
    control_variate: bool = False
    double: bool = False
    outliers: float | None = None
    weight_gradient: DGE | None = None
    hook: LayerHook | None = None

    def __post_init__(self) -> None:
        check_spec(self)

    @cached_property
    def bare(self) -> LayerSpec:
        """This spec as operators get it: without what works outside of them. A hook has changed the
        weight before; learned steps have divided the operands, so that the scale is 1, and stop
        what was clipped themselves."""
        changes: dict[str, Any] = {} if self.hook is None else {"hook": None}
        for name in ("output_input", "output_weight"):
            slot = getattr(self, name)
            if isinstance(slot, Quantizer) and isinstance(slot.scale, LSQ):
                changes[name] = replace(slot, scale=Unit())
        return replace(self, **changes) if changes else self

    @cached_property
    def composite(self) -> bool:
        """Whether a layer needs `ops/reference/composite.py`: scales along the sum, transforms,
        scales that depend on the rounding, or something done to a Gemm as a whole."""
        slots = [self.slot(name) for name in SLOTS] + [self.signed_slot, self.skewed_slot]
        return (
            self.fold
            or self.control_variate
            or self.double
            or self.outliers is not None
            or self.weight_gradient is not None
            or any(q is not None and is_composite(q) for q in slots)
        )

    def slot(self, name: str) -> Slot:
        """The quantizer of a slot, with `SAME` resolved to the forward operand's.

        >>> LayerSpec().slot("grad_weight_input") is None
        True
        """
        value = getattr(self, name)
        if value == SAME:
            value = self.output_weight if name == "grad_input_weight" else self.output_input
        return value  # type: ignore[no-any-return]

    def reuses(self, name: str) -> bool:
        """Whether a backward operand, `grad_input_weight` or `grad_weight_input`, is made from the
        codes of the output Gemm."""
        return getattr(self, name) == SAME or (self.double and self.slot(name) is not None)

    def kept(self, name: str) -> Slot:
        """The quantizer whose codes are kept for a backward operand.

        >>> LayerSpec().kept("grad_weight_input") is None
        True
        """
        if not self.reuses(name):
            return self.slot(name)
        return self.output_weight if name == "grad_input_weight" else self.output_input

    @property
    def transform(self) -> Hadamard | None:
        """The output Gemm's transform."""
        return None if self.output_weight is None else self.output_weight.transform

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
        slots = [self.slot(name) for name in SLOTS] + [self.signed_slot, self.skewed_slot]
        drawn = any(q is not None and q.draws for q in slots)
        return drawn or self.gradient_pair == "random"

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
        for name, default in _EXTRAS.items():
            value = getattr(self, name)
            if value != default:
                data[name] = _plain(value)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LayerSpec:
        """Build a spec from `to_dict()`'s result; unknown keys are an error."""
        unknown = set(data) - {f.name for f in fields(cls)}
        if unknown:
            raise UserError(f"a layer spec has no field {', '.join(sorted(unknown))}")
        values: dict[str, Any] = dict(data)
        for name in (*SLOTS, "signed_slot", "skewed_slot"):
            if isinstance(values.get(name), dict):
                values[name] = Quantizer.from_dict(values[name])
        for name, kind in (("weight_gradient", DGE), ("accumulator", Accumulator)):
            if isinstance(values.get(name), dict):
                try:
                    values[name] = kind(**values[name])
                except TypeError as error:
                    raise UserError(f"{name}: {error}") from None
        if isinstance(values.get("hook"), dict):
            values["hook"] = hook_from_dict(values["hook"])
        return cls(**values)

    @cached_property
    def key(self) -> str:
        """The canonical JSON text: what operators receive, since their schemas know strings."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))


_EXTRAS: Final = {f.name: f.default for f in fields(LayerSpec) if f.name not in SLOTS}
for _name in ("accumulator", "signed_inputs"):
    del _EXTRAS[_name]


def _plain(value: Any) -> Any:
    """A field as JSON values."""
    if isinstance(value, Quantizer | LayerHook):
        return value.to_dict()
    return asdict(value) if isinstance(value, DGE) else value


@lru_cache(maxsize=4096)
def is_composite(slot: Quantizer) -> bool:
    """Whether a slot's operand is more than codes with a scale that leaves the sum."""
    scale = slot.scale
    return (
        slot.transform is not None
        or scale.along(-1, None) != scale
        or type(scale).encode is not ScaleConfig.encode
        or getattr(scale, "granularity", "tensor") in ("block", "tile")
        or (isinstance(scale, Unit) and scale.ste == "clip")
    )


@lru_cache(maxsize=4096)
def parse_spec(key: str) -> LayerSpec:
    """The spec of a `LayerSpec.key`; cached, because every operator call asks for it."""
    return LayerSpec.from_dict(json.loads(key))
