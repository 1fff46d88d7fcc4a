"""`sun2020`: ultra-low precision 4-bit training (Sun et al., NeurIPS 2020), the paper's system.

    inputs      INT4: a learned clip (PACT) where the first batch has no negative value, as behind
                a ReLU; else the clip that SAWB finds in every batch
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

from nybble.errors import UserError
from nybble.formats import LogFormat, LogNearest, Rounding, Stochastic, get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import PACT, SAWB, GradScale, Quantizer, Unit
from nybble.recipes.hfp8 import ACCUMULATOR, accumulator_of
from nybble.recipes.parts import hfp8_spec, uniform_spec
from nybble.recipes.recipe import OPTIONAL, Recipe, Rule, Switch, read_settings

SWITCHES = (
    Switch(
        "gradients",
        ("radix4", "radix2"),
        "radix4",
        "FP4 radix-4 [1,3,0] is the paper's format, range 4096; radix-2, range 64, is what it was"
        " chosen over: its integers fit 8 bits, so Gemms of it are faster, and it has no odd grid,"
        " so both backward Gemms take the one grid, rounded at the arithmetic midpoint",
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
        ("even-odd", "odd-even", "even-even", "odd-odd"),
        "even-odd",
        "which phase feeds grad_input and which grad_weight: no available text says; the even grid"
        " goes to grad_input, whose bias would be carried through all layers below; equal phases"
        " are the ablation without two-phase rounding",
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
        ("sawb", "symmetric", "two_sided"),
        "sawb",
        "inputs with negative values: the clip that SAWB finds in every batch, one learned clip and"
        " [-7, 7], or two learned clips and 16 levels; learned clips stay behind the inputs of a"
        " Transformer that trains fast, until all of a layer's inputs are beyond the clip and no"
        " gradient passes it; the paper's text was not available, its successor LUQ takes SAWB",
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


def gradient_quantizers(settings: dict[str, str]) -> tuple[Quantizer, Quantizer]:
    """The quantizers of the output gradient for grad_input and for grad_weight."""
    even = get_format(f"fp4_{settings['gradients']}")
    if not isinstance(even, LogFormat):
        raise TypeError(f"{even.name} must be a LogFormat")
    scale = GradScale(
        mode=cast("Literal['delayed', 'immediate', 'fit']", settings["gradscale"]),
        start=cast("Literal['fit', 'one']", settings["gradscale_start"]),
    )
    if settings["gradients"] == "radix2":
        one = Quantizer(even, scale, _midpoint(settings))
        return one, one
    grids = {"even": even, "odd": even.odd(offset=int(settings["odd_offset"]))}
    rounding: Rounding = Stochastic()
    if settings["factor"] != "stochastic":
        rounding = LogNearest(settings["factor"], settings["underflow"])
    first, second = settings["phases"].split("-")
    return (
        Quantizer(grids[first], scale, rounding),
        Quantizer(grids[second], scale, rounding),
    )


def _midpoint(settings: dict[str, str]) -> Rounding:
    """The rounding of the radix-2 grid, whose arithmetic midpoint is 2^n / (4/3); what is defined
    on base 4 is refused."""
    for name in ("phases", "odd_offset"):
        default = next(switch.default for switch in SWITCHES if switch.name == name)
        if settings[name] != default:
            raise UserError(
                f"sun2020: gradients=radix2 has one grid, so {name}={settings[name]} has no"
                " meaning; leave it out"
            )
    if settings["factor"] == "stochastic":
        return Stochastic()
    if settings["factor"] != "1.6":
        raise UserError(
            f"sun2020: factor={settings['factor']} is a threshold of radix 4; with"
            " gradients=radix2 use factor=1.6, the midpoint, or factor=stochastic"
        )
    return LogNearest("mid", settings["underflow"])


def four_bit_spec(settings: dict[str, str]) -> LayerSpec:
    """The 4-bit layer: INT4 forward, FP4 radix-4 gradients."""
    levels = "int4_zeroless" if settings["sawb"] == "ibm16" else "int4_sym"
    per_channel = settings["sawb_channel"] == "yes"
    ste = cast("Literal['pass', 'clip']", settings["ste"])
    weight_scale = SAWB(settings["sawb"], per_channel=per_channel, ste=ste)
    for_input, for_weight = gradient_quantizers(settings)
    return LayerSpec(
        output_input=Quantizer(get_format("uint4"), PACT("unsigned")),
        output_weight=Quantizer(get_format(levels), weight_scale),
        grad_input_grad=for_input,
        grad_weight_grad=for_weight,
        accumulator=accumulator_of(settings["accumulator"]),
        signed_inputs=cast("Literal['symmetric', 'two_sided', 'sawb']", settings["signed"]),
    )


def optional_rules(settings: dict[str, str], spec: LayerSpec) -> list[Rule]:
    """Rules for what is in 4 bits only where it is asked for: tables, products of attention."""
    return [Rule(spec, type=kind, why="asked for") for kind in OPTIONAL if settings[kind] == "yes"]


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
