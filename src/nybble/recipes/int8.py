"""`int8`: a sober baseline in 8 bits, integers everywhere. No paper's own recipe: the plain form of
what 8-bit integer training does (surveyed by Zhu et al., CVPR 2020), without any refinement.

    inputs      INT8 [-127, 127], scale from the largest magnitude of the tensor (or of each row)
    weights     INT8 [-127, 127], one scale for each output channel, or one
    gradients   INT8 [-127, 127], scale from the largest magnitude, rounded stochastically, once
                for both backward Gemms

Per-channel weight scales leave the sum of the output Gemm; in grad_input the sum runs over the
output channels, so there the weights take one scale a tensor (a second rounding of the weight).

First and last layer are FP16 as in the 4-bit recipes, so that the layers between are what differs.

Not done here: error feedback, 8-bit weight update, and learned clips but for hidden states.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from nybble.formats import Stochastic, get_format
from nybble.ops.spec import SAME, BackwardSlot, LayerSpec
from nybble.quantizers import PACT, AbsMax, Quantizer
from nybble.quantizers.scales.fit import Granularity
from nybble.recipes.ends import EMBEDDING, FIRST_LAST, common_rules
from nybble.recipes.recipe import Recipe, Rule, Switch, read_settings

SWITCHES = (
    Switch(
        "weights",
        ("channel", "tensor"),
        "channel",
        "one scale for each output channel, as inference engines have it, or one a tensor",
    ),
    Switch(
        "inputs",
        ("tensor", "row"),
        "tensor",
        "one scale a tensor, or (not in convolutions) one for each row: then grad_weight, whose sum"
        " runs over the rows, takes inputs quantised once more with one scale",
    ),
    Switch("rounding", ("stochastic", "nearest"), "stochastic", "of the gradients"),
    Switch(
        "recurrent",
        ("max", "hidden"),
        "max",
        "hidden states of time loops: their largest magnitude, or one learned clip as in `sun2020`,"
        " which shows what that clip does without few bits (study `hidden-clip`)",
    ),
    FIRST_LAST,
    *EMBEDDING,
)


def eight_bit_spec(settings: dict[str, str]) -> LayerSpec:
    """The 8-bit layer."""
    levels = get_format("int8_sym")
    whole = Quantizer(levels, AbsMax("tensor"))
    weights = Quantizer(levels, AbsMax(cast("Granularity", settings["weights"])))
    inputs = Quantizer(levels, AbsMax(cast("Granularity", settings["inputs"])))
    rounding = Stochastic() if settings["rounding"] == "stochastic" else None
    gradient = Quantizer(levels, AbsMax("tensor"), rounding)
    again: tuple[BackwardSlot, BackwardSlot] = (
        SAME if weights == whole else whole,
        SAME if inputs == whole else whole,
    )
    return LayerSpec(
        output_input=inputs,
        output_weight=weights,
        grad_input_grad=gradient,
        grad_input_weight=again[0],
        grad_weight_grad=gradient,
        grad_weight_input=again[1],
        gradient_pair="one",
    )


def int8(**switches: str) -> Recipe:
    """INT8 operands in all three Gemms."""
    settings = read_settings("int8", SWITCHES, switches)
    spec = eight_bit_spec(settings)
    rules = common_rules(settings, spec)
    if settings["inputs"] == "row":
        whole = eight_bit_spec({**settings, "inputs": "tensor"})
        rules.append(Rule(whole, type="conv", why="a line of an image is no row of a Gemm"))
    if settings["weights"] == "channel":
        # Dimension 0 of a transposed convolution's weight is summed over.
        spec_t = eight_bit_spec({**settings, "inputs": "tensor"})
        second = Quantizer(get_format("int8_sym"), AbsMax("channel", axis=1))
        spec_t = replace(spec_t, output_weight=second)
        rules.append(
            Rule(spec_t, type="transposed", why="output channels are the second dimension")
        )
    if settings["recurrent"] == "hidden":
        clipped = Quantizer(get_format("int8_sym"), PACT("symmetric"))
        # The backward pass reads the clipped states too, not whole ones of another scale.
        loop = replace(spec, output_input=clipped, grad_weight_input=SAME)
        rules.append(Rule(loop, type="time-loop", why="states are bounded: one learned clip"))
    return Recipe(
        "int8",
        "8-bit integers everywhere, a baseline",
        "this project; the plain form of 8-bit integer training",
        spec,
        rules=tuple(rules),
        switches=SWITCHES,
        settings=tuple(settings.items()),
    )
