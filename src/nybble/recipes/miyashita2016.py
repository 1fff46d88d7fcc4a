"""`miyashita2016`: training in 5-bit logarithms (Miyashita, Lee, Murmann: "Convolutional Neural
Networks using Logarithmic Data Representation", 2016, arXiv 1603.01025).

    weights, inputs, gradients   sign and exponent, radix 2: q = sign(x) 2^round(log2 |x|)

so that every product is a shift. Rounding is in the exponent: 2^n is taken from 2^(n - 1/2)
upwards, the geometric midpoint. All of this is remembered, as is that the paper trained a network
on CIFAR-10 so, close to float32 and above 5-bit linear numbers; no text of it was available here.

What the texts leave open: the paper's full-scale range is a power of two a layer; here it is the
smallest one that the largest magnitude of each tensor fits in. Gradients are rounded to nearest as
all else, which is biased; `gradients=stochastic` is not the paper's. First and last layer are in 5
bits too (`first_last=same`): the paper, as remembered, exempts none.

Not done here: the paper's accumulation in the logarithmic domain, and 4-bit inference.
"""

from __future__ import annotations

from nybble.formats import LogNearest, Stochastic, get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import AbsMax, Quantizer
from nybble.recipes.ends import EMBEDDING, FIRST_LAST, common_rules
from nybble.recipes.recipe import Recipe, Switch, read_settings

SQRT2 = "1.41421356"
"""Level / threshold: the geometric midpoint of two powers of 2 lies at level / sqrt(2)."""

ABLATION = (
    "miyashita2016",
    "miyashita2016:gradients=stochastic",
    "miyashita2016:gradients=fp32",
    "miyashita2016:first_last=fp16",
    "miyashita2016:bits=4",
)
"""The recipes of the study of where it falls apart (`nybble study miyashita2016`): one point is
changed at a time."""

SWITCHES = (
    Switch(
        "bits",
        ("5", "4"),
        "5",
        "of all operands; 4 shows how much the fifth bit, which is range alone, is worth",
    ),
    Switch(
        "gradients",
        ("nearest", "stochastic", "fp32"),
        "nearest",
        "how gradients are rounded; stochastic and fp32 show which part of a loss is theirs",
    ),
    Switch(
        "first_last",
        FIRST_LAST.choices,
        "same",
        "the paper, as remembered, exempts no layer; fp16 as in the later recipes",
    ),
    *EMBEDDING,
)


def logarithmic_spec(settings: dict[str, str]) -> LayerSpec:
    """Every operand a power of two."""
    fmt = get_format("log5_base2" if settings["bits"] == "5" else "fp4_radix2")
    scale = AbsMax("tensor", power_of_two=True)
    operand = Quantizer(fmt, scale, LogNearest(SQRT2))
    gradient = {
        "nearest": operand,
        "stochastic": Quantizer(fmt, scale, Stochastic()),
        "fp32": None,
    }[settings["gradients"]]
    return LayerSpec(
        output_input=operand,
        output_weight=operand,
        grad_input_grad=gradient,
        grad_weight_grad=gradient,
    )


def miyashita2016(**switches: str) -> Recipe:
    """5-bit powers of two in all three Gemms."""
    settings = read_settings("miyashita2016", SWITCHES, switches)
    spec = logarithmic_spec(settings)
    return Recipe(
        "miyashita2016",
        "5-bit logarithms of weights, inputs and gradients",
        "Miyashita et al. 2016, arXiv 1603.01025 (as remembered)",
        spec,
        rules=tuple(common_rules(settings, spec)),
        switches=SWITCHES,
        settings=tuple(settings.items()),
    )
