"""What a `LayerSpec` refuses: slots and extras that have no meaning, alone or together.

Each message says which slot or field it is, what was given and what to use. The checks run once,
when a spec is built: recipes, rules and specs from files all pass here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

from nybble.errors import UserError
from nybble.quantizers import (
    LSQ,
    PACT,
    SAWB,
    Hadamard,
    Quantizer,
    SplitRows,
    StatefulScale,
    Stochastic,
)

if TYPE_CHECKING:
    from nybble.ops.spec import LayerSpec

__all__ = ["MAX_SAMPLES", "PAIRS", "SHARED", "SLOTS", "GradientPair", "check_spec"]

SLOTS: Final = (
    "output_input",
    "output_weight",
    "grad_input_grad",
    "grad_input_weight",
    "grad_weight_grad",
    "grad_weight_input",
)
SHARED: Final = ("grad_input_weight", "grad_weight_input")
"""The slots that may be `"same"`: the forward operand of their tensor."""

GradientPair = Literal["each", "shared", "one", "mean", "random"]
PAIRS: Final[tuple[GradientPair, ...]] = get_args(GradientPair)
MAX_SAMPLES: Final = 15


def check_spec(spec: LayerSpec) -> None:
    """Raise UserError where a spec contradicts itself."""
    for name in SLOTS:
        value = getattr(spec, name)
        if isinstance(value, Quantizer):
            _check_slot(name, value)
        elif value is not None and not (value == "same" and name in SHARED):
            raise UserError(
                f"slot {name} is {value!r}: it takes a Quantizer, None for float32"
                + (", or 'same'" if name in SHARED else "")
            )
    _check_extras(spec)
    _check_gradients(spec)


def _check_extras(spec: LayerSpec) -> None:
    """Refuse what does not go together."""
    if spec.outliers is not None and not 0.5 < spec.outliers < 1.0:
        raise UserError(f"outliers is {spec.outliers!r}: a quantile between 0.5 and 1, as 0.99")
    for name in ("signed_slot", "skewed_slot"):
        slot = getattr(spec, name)
        if isinstance(slot, Quantizer):
            _check_slot("output_input", slot)
        elif slot is not None:
            raise UserError(f"{name} is {slot!r}: it takes a Quantizer or None")
    if spec.hook is not None:
        spec.hook.check(spec.output_weight)
    for left, right in (
        (spec.output_input, spec.output_weight),
        (spec.signed_slot or spec.output_input, spec.output_weight),
        (spec.skewed_slot or spec.output_input, spec.output_weight),
        (spec.grad_input_grad, spec.grad_input_weight),
        (spec.grad_weight_grad, spec.grad_weight_input),
    ):
        if _transform(left) != _transform(right):
            names = [t.short if t else "none" for t in map(_transform, (left, right))]
            raise UserError(
                "the operands of a Gemm must have the same transform, got"
                f" {names[0]} and {names[1]}"
            )
    _check_clips(spec)
    for name, forward in zip(SHARED, (spec.output_weight, spec.output_input), strict=True):
        if spec.double and forward is None and spec.slot(name) is not None:
            raise UserError(
                f"double=True: {name} is to be quantised from forward codes, but the output"
                " Gemm's operand is float32; give that slot a Quantizer too"
            )
    if spec.fold and spec.grad_scale is not None:
        raise UserError(
            "fold=True multiplies scales into the gradient before its own scale is found;"
            " GradScale is found before: use AbsMax, or fold=False"
        )


def _check_clips(spec: LayerSpec) -> None:
    """Refuse clips that would not get their gradient."""
    first, later = spec.output_input, spec.slot("grad_weight_input")
    learned = first is not None and isinstance(first.scale, PACT)
    clips = 0 if not learned else 2 if spec.signed_inputs == "two_sided" else 1
    for name in ("output_input", "signed_slot", "skewed_slot"):
        slot = getattr(spec, name)
        if slot is None or not isinstance(slot.scale, PACT):
            continue
        if slot is not first and clips < slot.scale.clips:
            raise UserError(
                f"{name} is {slot.short}: a layer has its clips where output_input is PACT too,"
                " and two of them where signed_inputs is 'two_sided'"
            )
        if later is not None and later.transform is not None:
            raise UserError(
                "PACT's gradient reads from the codes of grad_weight_input on which side an"
                " input was clipped, and a transform mixes them: use another scale"
            )


def _transform(slot: object) -> Hadamard | None:
    return slot.transform if isinstance(slot, Quantizer) else None


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
    turn = quantizer.transform
    if isinstance(scale, LSQ) and turn is not None and turn.signs == "random":
        raise UserError(
            f"slot {name}: LSQ needs the signs of the transform for its steps' gradients; use "
            "signs='fixed' or 'none'"
        )
    if isinstance(scale, LSQ) and name not in ("output_input", "output_weight"):
        raise UserError(
            f"slot {name}: LSQ learns steps of the output Gemm's operands; use AbsMax or 'same'"
        )
    if isinstance(scale, SplitRows) and not is_gradient:
        raise UserError(f"slot {name}: SplitRows is for gradients; use AbsMax, SAWB or LSQ")
    clips = isinstance(scale, SAWB) and scale.ste == "clip"
    if (clips or isinstance(scale, PACT | StatefulScale)) and quantizer.transform is not None:
        raise UserError(f"slot {name}: {scale.short} takes no transform; use AbsMax")


def _check_gradients(spec: LayerSpec) -> None:
    """Refuse a pair of gradient slots, or a number of samples, that means nothing."""
    first, second, pair = spec.grad_input_grad, spec.grad_weight_grad, spec.gradient_pair
    if pair not in PAIRS:
        raise UserError(f"gradient_pair is {pair!r}: use {' | '.join(PAIRS)}")
    if pair not in ("each", "shared") and spec.composite:
        raise UserError(
            f"gradient_pair={pair!r} does not go with what this layer does to its Gemms"
        )
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
    if pair not in ("each", "shared", "one"):
        raise UserError(
            f"samples={n} goes with gradient_pair 'each', 'shared' or 'one', not {pair!r}"
        )
