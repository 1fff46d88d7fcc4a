"""`luq`: accurate neural training with 4-bit matrix multiplications (Chmiel et al., ICLR 2023,
arXiv 2112.10769): logarithmic unbiased quantisation of the gradients.

    inputs, weights   INT4 by SAWB, rounded to nearest
    gradients         FP4 radix-2 [1,3,0]: zero and alpha 2^0 .. alpha 2^6, alpha = max|g| / 2^6
        |g| < alpha            sign(g) alpha with probability |g| / alpha, else 0
        lo <= |g| < hi = 2 lo  hi with probability (|g| - lo) / (hi - lo), else lo
    so E[q] = g. One rounding for both backward Gemms; SMP-n averages the products of n roundings in
    grad_weight, whose variance is divided by n.

Levels are counted: the paper's printed exponent of alpha gives 5 or 8 magnitudes, [1,3,0] with zero
has 7. The rounding is an explicit Bernoulli trial between the two neighbours: the paper's cheap
form, uniform noise added before rounding to the nearest power, is biased for numbers up to a
quarter above a level (E[q] = 0.875 at 1). First and last layer stay FP16, as in `sun2020`, with
which it is compared; what the paper's own experiments did is not in the texts that were available.

Not done here: accumulators of 16 bits; the hardware block of the paper (MF-BPROP).
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from nybble.errors import UserError
from nybble.formats import Stochastic, get_format
from nybble.ops.spec import GradientPair, LayerSpec
from nybble.quantizers import PACT, SAWB, AbsMax, Hindsight, Quantizer, ScaleConfig
from nybble.recipes.ends import EMBEDDING, FIRST_LAST, common_rules
from nybble.recipes.recipe import Recipe, Rule, Switch, read_settings
from nybble.recipes.tail import Tail

SWITCHES = (
    Switch(
        "samples",
        ("1", "2", "4", "8"),
        "1",
        "SMP: independent roundings of the gradient whose grad_weight products are averaged; the"
        " paper uses 2 at most in its tables and 1 is its plain form",
    ),
    Switch(
        "scale",
        ("max", "hindsight"),
        "max",
        "the maximum of this gradient, or the moving average of earlier ones, which saves a read",
    ),
    Switch(
        "eta",
        ("0.1", "0", "0.5", "0.9"),
        "0.1",
        "weight of the past in the hindsight maximum; no available text gives the value",
    ),
    Switch(
        "power_of_two",
        ("no", "yes"),
        "no",
        "alpha as a power of two, the paper's option for hardware; rounded up, so that nothing"
        " saturates",
    ),
    Switch(
        "tail",
        ("0", "0.05", "0.1", "0.2"),
        "0",
        "FNT: the share of the steps, at the end, in which all but the weights are FP16, under a"
        " triangular learning rate (the paper: 1 to 3 epochs after training); 0 is without",
    ),
    Switch(
        "pair",
        ("one", "each"),
        "one",
        "one rounding for both backward Gemms, as the paper counts them, or one for each",
    ),
    Switch(
        "sawb",
        ("ibm15", "luq"),
        "ibm15",
        "SAWB's coefficients: of IBM's own code for 15 levels, or of the public port of LUQ's code",
    ),
    Switch(
        "inputs",
        ("sawb", "pact"),
        "sawb",
        "SAWB is the paper's, for weights and inputs alike: of inputs without negative values, as"
        " behind a ReLU, it uses 8 of 15 levels. pact takes the inputs of `sun2020` (a learned clip"
        " and 16 levels there), so that the gradients alone differ from it",
    ),
    FIRST_LAST,
    *EMBEDDING,
)


def four_bit_spec(settings: dict[str, str]) -> LayerSpec:
    """The 4-bit layer."""
    levels = get_format("int4_sym")
    forward = Quantizer(levels, SAWB("luq" if settings["sawb"] == "luq" else "ibm15"))
    power = settings["power_of_two"] == "yes"
    scale: ScaleConfig = AbsMax("tensor", power_of_two=power)
    if settings["scale"] == "hindsight":
        scale = Hindsight(float(settings["eta"]), power_of_two=power)
    elif settings["eta"] != "0.1":
        raise UserError(f"luq: eta={settings['eta']} is for scale=hindsight; add it or leave eta")
    gradient = Quantizer(get_format("fp4_radix2"), scale, Stochastic())
    learned = Quantizer(get_format("uint4"), PACT("unsigned"))
    return LayerSpec(
        output_input=forward if settings["inputs"] == "sawb" else learned,
        output_weight=forward,
        grad_input_grad=gradient,
        grad_weight_grad=gradient,
        samples=int(settings["samples"]),
        gradient_pair=cast("GradientPair", settings["pair"]),
        signed_inputs="sawb",
    )


def luq(**switches: str) -> Recipe:
    """INT4 forward, unbiased FP4 radix-2 gradients."""
    settings = read_settings("luq", SWITCHES, switches)
    spec = four_bit_spec(settings)
    loops = []
    if settings["inputs"] == "pact":
        symmetric = replace(spec, signed_inputs="symmetric")
        loops.append(Rule(symmetric, type="time-loop", why="hidden states, as in sun2020"))
    share = float(settings["tail"])
    return Recipe(
        "luq",
        "INT4 weights and inputs, unbiased radix-2 FP4 gradients",
        "Chmiel et al., ICLR 2023, arXiv 2112.10769",
        spec,
        rules=(*common_rules(settings, spec), *loops),
        switches=SWITCHES,
        candidates=("samples=2", "scale=hindsight"),
        settings=tuple(settings.items()),
        tail=Tail(share, rate="triangle") if share else None,
    )
