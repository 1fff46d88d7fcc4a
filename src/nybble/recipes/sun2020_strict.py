"""`sun2020-strict`: every number of the main computation is one of 16.

The article's reading of the paper: no layer is exempt. The first layer's input (the image) is
scaled linearly to INT4 [-8, 7], refitted every batch (MinMax: the smallest value becomes -8, the
largest 7); all other inputs, all weights and all gradients are as in `sun2020`, whose switches it
shares except those for exempt layers.

Not 4-bit, here as there: normalisation, biases, loss, optimizer and master weights. The image is
not differentiated, so its slot has no backward of its own.
"""

from __future__ import annotations

from dataclasses import replace

from nybble.formats import get_format
from nybble.quantizers import MinMax, Quantizer
from nybble.recipes.parts import optional_rules
from nybble.recipes.recipe import Recipe, Rule, read_settings
from nybble.recipes.sun2020 import SWITCHES, four_bit_spec, hidden_rules

_EXEMPT = ("first_last", "one_by_one", "depthwise")
STRICT_SWITCHES = tuple(switch for switch in SWITCHES if switch.name not in _EXEMPT)


def sun2020_strict(**switches: str) -> Recipe:
    """4 bits everywhere; the first layer's input by MinMax."""
    settings = read_settings("sun2020-strict", STRICT_SWITCHES, switches)
    spec = four_bit_spec(settings)
    image = Quantizer(get_format("int4"), MinMax())
    return Recipe(
        "sun2020-strict",
        "4-bit training without exempt layers",
        "Sun et al., NeurIPS 2020, as the press described it",
        spec,
        rules=(
            *optional_rules(settings, spec),
            Rule(
                replace(spec, output_input=image),
                position="first",
                why="input images by linear scaling to 16 values",
            ),
            *hidden_rules(spec, settings),
        ),
        switches=STRICT_SWITCHES,
        settings=tuple(settings.items()),
    )
