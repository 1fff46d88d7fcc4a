"""Pieces that several recipes share: layer specs whose six slots hold the same wide format, and the
rules for what is quantised only where it is asked for."""

from __future__ import annotations

from typing import Any

from nybble.formats import get_format
from nybble.ops.spec import EXACT, Accumulator, LayerSpec
from nybble.quantizers import Quantizer, Unit
from nybble.recipes.recipe import OPTIONAL, Rule


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


def optional_rules(settings: dict[str, str], spec: LayerSpec) -> list[Rule]:
    """Rules for what is in 4 bits only where it is asked for: tables, products of attention."""
    return [Rule(spec, type=kind, why="asked for") for kind in OPTIONAL if settings[kind] == "yes"]


def forward_backward(forward: Quantizer, back: Quantizer, **extras: Any) -> LayerSpec:
    """One quantizer for both operands of the output Gemm, one for all four of the backward Gemms.

    >>> half = Quantizer(get_format("fp16"), Unit())
    >>> forward_backward(half, half).grad_weight_input == half
    True
    """
    return LayerSpec(
        output_input=forward,
        output_weight=forward,
        grad_input_grad=back,
        grad_input_weight=back,
        grad_weight_grad=back,
        grad_weight_input=back,
        **extras,
    )
