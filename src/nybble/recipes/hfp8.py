"""`hfp8`: hybrid 8-bit floating point (Sun et al., NeurIPS 2019).

Forward operands (inputs, weights) in FP8 1-4-3, gradients in FP8 1-5-2, no scale but the loss
scale; the first and the last layer in FP16 (the last from the paper as remembered, the first by
IBM's convention: neither was seen in a stored text). Sums are exact unless
`accumulator=chunked`, which is the FP16 chunk-based accumulation of the paper.

Not done here: 16-bit weight update with stochastic rounding.
"""

from __future__ import annotations

from nybble.ops.spec import Accumulator
from nybble.recipes.parts import hfp8_spec, uniform_spec
from nybble.recipes.recipe import Recipe, Rule, Switch, read_settings

ACCUMULATOR = Switch(
    "accumulator",
    ("exact", "chunked"),
    "exact",
    "the chip sums in FP16 (DLFLOAT16), 64 products a chunk; exact sums leave the formats as the"
    " only cause of a difference",
)


def accumulator_of(value: str) -> Accumulator:
    """The accumulator that the switch names."""
    return Accumulator("dlfloat16", 64) if value == "chunked" else Accumulator()


def hfp8(**switches: str) -> Recipe:
    """FP8 1-4-3 forward, FP8 1-5-2 gradients, first and last layer FP16."""
    settings = read_settings("hfp8", (ACCUMULATOR,), switches)
    accumulator = accumulator_of(settings["accumulator"])
    wide = uniform_spec("fp16", accumulator)
    return Recipe(
        "hfp8",
        "hybrid 8-bit floating point",
        "Sun et al., NeurIPS 2019",
        hfp8_spec(accumulator),
        rules=(
            Rule(wide, position="first", why="IBM's convention"),
            Rule(wide, position="last", why="as remembered of the paper"),
        ),
        switches=(ACCUMULATOR,),
        settings=tuple(settings.items()),
    )
