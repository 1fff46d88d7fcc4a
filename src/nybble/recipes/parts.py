"""Pieces that several recipes share: layer specs whose six slots hold the same wide format, and the
rules for the first and the last layer."""

from __future__ import annotations

from nybble.formats import get_format
from nybble.ops.spec import EXACT, Accumulator, LayerSpec
from nybble.quantizers import Quantizer, Unit
from nybble.recipes.recipe import OPTIONAL, Rule, Switch

FIRST_LAST = Switch(
    "first_last",
    ("fp16", "hfp8", "fp32", "same"),
    "fp16",
    "the first and the last layer: FP16 as in `sun2020`, so that recipes differ in the layers"
    " between; same: like every other layer",
)


def uniform_spec(format_name: str, accumulator: Accumulator = EXACT) -> LayerSpec:
    """Every operand rounded to one format without a scale: FP16, BF16."""
    operand = Quantizer(get_format(format_name), Unit())
    return LayerSpec(
        output_input=operand,
        output_weight=operand,
        grad_input_grad=operand,
        grad_weight_grad=operand,
        accumulator=accumulator,
    )


def hfp8_spec(accumulator: Accumulator = EXACT) -> LayerSpec:
    """HFP8 (Sun et al., NeurIPS 2019): forward operands FP8 1-4-3, gradients FP8 1-5-2."""
    forward = Quantizer(get_format("fp8_143"), Unit())
    gradient = Quantizer(get_format("fp8_152"), Unit())
    return LayerSpec(
        output_input=forward,
        output_weight=forward,
        grad_input_grad=gradient,
        grad_weight_grad=gradient,
        accumulator=accumulator,
    )


def end_rules(value: str) -> list[Rule]:
    """The rules that the value of `FIRST_LAST` stands for.

    >>> [rule.describe() for rule in end_rules("fp16")], end_rules("same")
    (['first layer', 'last layer'], [])
    """
    if value == "same":
        return []
    spec = {"fp16": uniform_spec("fp16"), "hfp8": hfp8_spec()}.get(value)
    why = "as in sun2020"
    return [Rule(spec, position="first", why=why), Rule(spec, position="last", why=why)]


def optional_rules(settings: dict[str, str], spec: LayerSpec) -> list[Rule]:
    """Rules for what is in 4 bits only where it is asked for: tables, products of attention."""
    return [Rule(spec, type=kind, why="asked for") for kind in OPTIONAL if settings[kind] == "yes"]
