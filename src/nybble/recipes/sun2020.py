"""`sun2020`: ultra-low precision 4-bit training (Sun et al., NeurIPS 2020), the paper's system.

    inputs      INT4: a learned clip (PACT) where the first batch has no negative value, as behind
                a ReLU; else the clip that SAWB finds in every batch (hidden states in a time loop:
                a learned one)
    weights     INT4 by SAWB: the clip from the first two moments, at every forward
    gradients   FP4 radix-4 [1,3,0] with a scale per layer (GradScale), rounded in two phases:
                even grid 4^n for one backward Gemm, odd grid 4^n / 2 for the other
    exceptions  first and last layer FP16; 1x1 convolutions HFP8 in ResNet-50/101; in MobileNetV2
                the gradients of the weight update FP8
    the rest    normalisation, activations, loss, optimizer and master weights in float32

Source: title page, abstract and introduction, the reviews, the granted patent's claim 1, and what
LUQ (ICLR 2023) quotes; the paper's body was not available. What those leave open is a switch
below: default and reason stand with it. None of these defaults was chosen for its accuracy. (The
learning rate of the clips, which the texts do not give either, belongs to `nybble.param_groups`.)

Not done here: 16-bit master weights; the reduced-precision optimizer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

from nybble.formats import get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import PACT, SAWB, Quantizer, Unit
from nybble.recipes.hfp8 import ACCUMULATOR, accumulator_of
from nybble.recipes.parts import hfp8_spec, optional_rules, uniform_spec
from nybble.recipes.recipe import Recipe, Rule, Switch, read_settings
from nybble.recipes.sun2020_gradients import gradient_pair, gradient_quantizers

SWITCHES = (
    Switch(
        "gradients",
        ("radix4", "radix2", "base3", "base8", "base10"),
        "radix4",
        "FP4 radix-4 [1,3,0] is the paper's format, range 4096; radix-2, range 64, is what it was"
        " chosen over: its integers fit 8 bits, so Gemms of it are faster. Only base 4 has an odd"
        " grid: with any other both backward Gemms take the one grid, rounded at the arithmetic"
        " midpoint. Bases 3, 8 and 10 show why 4",
    ),
    Switch(
        "gradient_bits",
        ("4", "3", "5"),
        "4",
        "bits of a gradient, sign included: 3 have 3 magnitudes, 5 have 15; shows why 4",
    ),
    Switch(
        "factor",
        ("1.6", "1.848", "stochastic"),
        "1.6",
        "4^n / 1.6 is the arithmetic midpoint, the rule in the notes on the paper; 1.848 removes"
        " the shrinkage of log-uniform data; stochastic is unbiased for any data",
    ),
    Switch(
        "underflow",
        ("rule", "half"),
        "rule",
        "the 1.6 rule applied at the smallest level too (the literal reading), or rounding to"
        " nearest between zero and the smallest level",
    ),
    Switch(
        "odd_offset",
        ("-1", "+1"),
        "-1",
        "odd grid 4^n / 2 or 2 * 4^n; with the maximum kept in (32, 64] the upper grid would never"
        " use its top code",
    ),
    Switch(
        "phases",
        ("even-odd", "odd-even", "even-even", "odd-odd", "average", "random"),
        "even-odd",
        "which phase feeds grad_input and which grad_weight: no available text says; the even grid"
        " goes to grad_input, whose bias would be carried through all layers below; equal phases"
        " are the ablation without two-phase rounding; average runs both Gemms with both phases and"
        " takes the mean (twice the work; grad_input in a time loop takes the even one alone);"
        " random draws a phase for each Gemm, layer and call",
    ),
    Switch(
        "gradscale",
        ("delayed", "immediate", "fit"),
        "delayed",
        "the notes' index i reads: use this iteration's scale, write the next; immediate moves it"
        " before use; fit takes the exact power of two at every step",
    ),
    Switch(
        "gradscale_start",
        ("fit", "one"),
        "fit",
        "the first scale of a layer: one exact fit to its first gradient, or 1 and then the rule;"
        " from 1 some twenty steps pass with every gradient rounded to zero",
    ),
    Switch(
        "scope",
        ("layer", "global"),
        "layer",
        "one GradScale a layer is the paper's; global is one adaptive scale for all layers, moved"
        " by the same rule: what the paper compares with",
    ),
    Switch(
        "sawb",
        ("ibm15", "ibm16", "luq"),
        "ibm15",
        "the coefficients of IBM's own code for 15 levels with a zero, for its 16 levels without"
        " one, or those of the public LUQ port",
    ),
    Switch("sawb_channel", ("no", "yes"), "no", "one clip a tensor, as SAWB defines it"),
    Switch(
        "ste",
        ("pass", "clip"),
        "pass",
        "gradient of weights beyond the clip: passed on (SAWB+, the default of IBM's toolkit) or"
        " stopped (SAWB)",
    ),
    Switch(
        "signed",
        ("auto", "symmetric", "two_sided", "sawb"),
        "auto",
        "inputs with negative values: one learned clip and [-7, 7], two learned clips and 16"
        " levels, or the clip that SAWB finds in every batch; auto is sawb, but symmetric for the"
        " hidden state in the time loop of an RNN. A learned clip stays behind the inputs of a"
        " Transformer that trains fast, until all of a layer's inputs are beyond it and no gradient"
        " passes; a hidden state is below 1, and its scale has to be known before the loop. What"
        " the paper did is not in the texts that were available; its successor LUQ takes SAWB",
    ),
    Switch(
        "first_last",
        ("fp16", "hfp8", "fp32", "int4"),
        "fp16",
        "IBM's convention for the first and the last layer is FP16 or 8 bits; the paper's text was"
        " not available",
    ),
    Switch(
        "one_by_one",
        ("auto", "int4", "hfp8", "fp16"),
        "auto",
        "1x1 convolutions are HFP8 in ResNet-50 and ResNet-101 (bottleneck networks), else 4-bit;"
        " fp16 keeps the shortcuts of a ResNet-18 wide, a convention of IBM's earlier work that is"
        " cited beside this paper",
    ),
    Switch(
        "depthwise",
        ("auto", "fp4"),
        "auto",
        "MobileNetV2 (depthwise-separable networks): gradients of the weight update in FP8",
    ),
    Switch(
        "embedding",
        ("no", "yes"),
        "no",
        "tables of nn.Embedding: a look-up multiplies nothing and no available text speaks of it;"
        " yes stores the table as a weight is and its gradient as a weight's update",
    ),
    Switch(
        "attention",
        ("no", "yes"),
        "no",
        "the products QK^T and PV of attention: no available text says whether they were 4-bit;"
        " yes quantises queries and probabilities as inputs, keys and values as weights",
    ),
    ACCUMULATOR,
)

CANDIDATES = ("factor=1.848", "phases=odd-even", "factor=1.848+sawb_channel=yes")
"""Settings that keep the formats and the deterministic rounding, and change what is open."""


def four_bit_spec(settings: dict[str, str]) -> LayerSpec:
    """The 4-bit layer: INT4 forward, FP4 radix-4 gradients."""
    levels = "int4_zeroless" if settings["sawb"] == "ibm16" else "int4_sym"
    per_channel = settings["sawb_channel"] == "yes"
    ste = cast("Literal['pass', 'clip']", settings["ste"])
    weight_scale = SAWB(settings["sawb"], per_channel=per_channel, ste=ste)
    for_input, for_weight = gradient_quantizers(settings, SWITCHES)
    return LayerSpec(
        output_input=Quantizer(get_format("uint4"), PACT("unsigned")),
        output_weight=Quantizer(get_format(levels), weight_scale),
        grad_input_grad=for_input,
        grad_weight_grad=for_weight,
        accumulator=accumulator_of(settings["accumulator"]),
        signed_inputs=cast(
            "Literal['symmetric', 'two_sided', 'sawb']",
            "sawb" if settings["signed"] == "auto" else settings["signed"],
        ),
        gradient_pair=gradient_pair(settings),
    )


def hidden_rules(spec: LayerSpec, settings: dict[str, str]) -> list[Rule]:
    """What `signed=auto` says of hidden states in a time loop."""
    if settings["signed"] != "auto":
        return []
    why = "hidden states: their scale has to be known before the loop"
    return [Rule(replace(spec, signed_inputs="symmetric"), type="time-loop", why=why)]


def sun2020(**switches: str) -> Recipe:
    """The paper's system; every open point is a switch (`nybble recipes show sun2020`)."""
    settings = read_settings("sun2020", SWITCHES, switches)
    spec = four_bit_spec(settings)
    accumulator = accumulator_of(settings["accumulator"])
    rules = optional_rules(settings, spec)
    if settings["first_last"] != "int4":
        wide = {"fp16": uniform_spec("fp16", accumulator), "hfp8": hfp8_spec(accumulator)}.get(
            settings["first_last"]
        )
        rules += [
            Rule(wide, position="first", why="IBM's convention"),
            Rule(wide, position="last", why="IBM's convention"),
        ]
    if settings["one_by_one"] == "auto":
        why = "the paper's remedy for ResNet-50"
        rules.append(Rule(hfp8_spec(accumulator), type="conv1x1", family="bottleneck", why=why))
    elif settings["one_by_one"] == "hfp8":
        rules.append(Rule(hfp8_spec(accumulator), type="conv1x1", why="asked for"))
    elif settings["one_by_one"] == "fp16":
        rules.append(Rule(uniform_spec("fp16", accumulator), type="conv1x1", why="asked for"))
    if settings["depthwise"] == "auto":
        update = Quantizer(get_format("fp8_152"), Unit())
        why = "MobileNetV2: FP4 gradients backward, FP8 gradients in the update"
        rules.append(
            Rule(replace(spec, grad_weight_grad=update), family="depthwise-separable", why=why)
        )
    rules += hidden_rules(spec, settings)
    return Recipe(
        "sun2020",
        "4-bit training: INT4 weights and inputs, radix-4 FP4 gradients",
        "Sun et al., NeurIPS 2020",
        spec,
        rules=tuple(rules),
        switches=SWITCHES,
        candidates=CANDIDATES,
        settings=tuple(settings.items()),
    )
