"""What a layer learns about its inputs from the first batch, and which slot follows from it.

    UNSIGNED    no value is below zero, as behind a ReLU
    SKEWED      some are, but none below -0.4 times the largest, as behind GELU or SiLU; told apart
                only where the recipe has a slot for it
    SIGNED      the others

The kind is kept: a layer whose inputs turn out otherwise later saturates them on its levels.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from nybble.formats import get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import PACT, SAWB, Quantizer
from nybble.quantizers.scales.pact import has_negative

__all__ = ["SIGNED", "SKEWED", "UNSEEN", "UNSIGNED", "input_forms", "kind_of", "signed_input"]

UNSEEN, UNSIGNED, SIGNED, SKEWED = 0, 1, 2, 3
_SKEW = 0.4


def kind_of(x: Tensor, spec: LayerSpec) -> int:
    """The kind of a batch that is not empty.

    >>> import torch
    >>> kind_of(torch.tensor([0.0, 2.0]), LayerSpec()), kind_of(torch.tensor([-1.0]), LayerSpec())
    (1, 2)
    """
    if not has_negative(x):
        return UNSIGNED
    if spec.skewed_slot is None:
        return SIGNED
    low, high = float(x.amin()), float(x.amax())
    return SKEWED if -low <= _SKEW * high else SIGNED


def input_forms(spec: LayerSpec) -> dict[int, LayerSpec]:
    """What the spec becomes for each kind of input.

    >>> input_forms(LayerSpec())[SIGNED] == LayerSpec()
    True
    """
    signed = signed_input(spec)
    skewed = signed
    if spec.skewed_slot is not None:
        skewed = replace(spec, output_input=spec.skewed_slot)
    return {UNSEEN: spec, UNSIGNED: spec, SIGNED: signed, SKEWED: skewed}


def signed_input(spec: LayerSpec) -> LayerSpec:
    """`spec` with its unsigned PACT input slot replaced by its signed form.

    UINT4 becomes [-7, 7] with one clip, INT4 with two clips and a zero point, or the levels of the
    weights with the clip that their SAWB finds in each batch ([-7, 7] where they have none). A spec
    with a `signed_slot` says itself what it becomes.
    """
    slot = spec.output_input
    if spec.signed_slot is not None:
        return replace(spec, output_input=spec.signed_slot)
    if not isinstance(slot, Quantizer) or not isinstance(slot.scale, PACT):
        return spec
    bits = slot.format.bits
    two_sided = spec.signed_inputs == "two_sided"
    name = f"int{bits}" if two_sided else f"int{bits}_sym"
    if spec.signed_inputs != "sawb":
        scale = replace(slot.scale, kind="two_sided" if two_sided else "symmetric")
        return replace(spec, output_input=replace(slot, format=get_format(name), scale=scale))
    weight = spec.output_weight
    if isinstance(weight, Quantizer) and isinstance(weight.scale, SAWB):
        levels, sawb = weight.format, SAWB(weight.scale.coefficients)
    else:
        levels, sawb = get_format(name), SAWB()
    return replace(spec, output_input=replace(slot, format=levels, scale=sawb))
