"""`quartet2`: Quartet II, NVFP4 with unbiased backward Gemms by MS-EDEN (ICML 2026; 2601.22813).

    forward     inputs and weights E2M1 in NV blocks of 16, Four Over Six, to nearest, not turned
    backward    all four operands quantised along the sum of their Gemm by MS-EDEN: a Hadamard of 32
                with signs drawn anew, nearest rounding, one correction <t, t> / <t, q> for each
                group of 32, put into the block scales, and these rounded at random to E4M3

The randomness has moved from the elements, where it costs the most, to the scales.

Source: abstract and code (128 is the Hadamard of its kernels, 32 that of its reference). Whether
the backward Gemms quantise the tensors or the forward codes again is not in the texts that were
available: a switch.

Not done here: kernels; every Gemm multiplies decoded values in float32. The end of a line that the
Hadamard does not divide is off in the mean (quantizers/scales/eden.py).
"""

from __future__ import annotations

from nybble.formats import Stochastic, get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import AbsMax, Eden, FourOverSix, Hadamard, Quantizer
from nybble.recipes.ends import EMBEDDING, FIRST_LAST, common_rules
from nybble.recipes.parts import forward_backward
from nybble.recipes.recipe import Recipe, Switch, read_settings

SWITCHES = (
    Switch("hadamard", ("32", "128", "16"), "32", "32 in the reference code, 128 in its kernels"),
    Switch(
        "backward",
        ("eden", "stochastic"),
        "eden",
        "MS-EDEN is the paper's point; stochastic rounding of the elements, with scales 17/16"
        " larger, is what it is compared with",
    ),
    Switch(
        "source",
        ("codes", "tensor"),
        "codes",
        "what weights and inputs are quantised from for backward: their forward codes, so that the"
        " gradient is, on average, that of what was computed and only codes are kept; or the"
        " tensors",
    ),
    Switch(
        "forward",
        ("four-over-six", "nvfp4"),
        "four-over-six",
        "the better of two block scales, or the largest magnitude alone",
    ),
    FIRST_LAST,
    *EMBEDDING,
)


def quartet2(**switches: str) -> Recipe:
    """Four Over Six forward, MS-EDEN backward."""
    settings = read_settings("quartet2", SWITCHES, switches)
    spec = eden_blocks(settings)
    return Recipe(
        "quartet2",
        "NVFP4 in all three Gemms: Four Over Six forward, MS-EDEN backward",
        "Quartet II, arXiv 2601.22813",
        spec,
        rules=tuple(common_rules(settings, spec)),
        switches=SWITCHES,
        settings=tuple(settings.items()),
    )


def eden_blocks(settings: dict[str, str]) -> LayerSpec:
    """The 4-bit layer."""
    e2m1 = get_format("fp4_e2m1")
    size = int(settings["hadamard"])
    turn = Hadamard(size, "random")
    forward = Quantizer(e2m1, AbsMax.nv())
    if settings["forward"] == "four-over-six":
        forward = Quantizer(e2m1, FourOverSix())
    back = Quantizer(e2m1, Eden(group=size), transform=turn)
    if settings["backward"] == "stochastic":
        back = Quantizer(e2m1, AbsMax.nv(headroom=17 / 16), Stochastic(), turn)
    return forward_backward(forward, back, double=settings["source"] == "codes")
