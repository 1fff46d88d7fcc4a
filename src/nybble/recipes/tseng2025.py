"""`tseng2025`: MXFP4 in the backward Gemms only (Tseng et al., AISTATS 2025, arXiv 2502.20586).

    forward     BF16, or FP8 E4M3 with a scale a tensor
    backward    all four operands E2M1 in blocks of 32 along the sum with an E8M0 scale, after a
                block Hadamard with random signs on both operands of the Gemm
    unbiased    values times 3/4 before they are rounded at random, so that a block's maximum, which
                the floor rule of MX may leave up to a third beyond 6, cannot saturate; the result
                is multiplied by 16/9 (4/3 an operand, in the scale here)

The Hadamard bounds the variance of random rounding: an outlier is spread over 64 elements.

Not done here: BF16 storage of what lies between the layers.
"""

from __future__ import annotations

from nybble.formats import Stochastic, get_format
from nybble.quantizers import AbsMax, Hadamard, Quantizer, Unit
from nybble.recipes.ends import EMBEDDING, FIRST_LAST, common_rules
from nybble.recipes.parts import forward_backward
from nybble.recipes.recipe import Recipe, Switch, read_settings

SWITCHES = (
    Switch("forward", ("bf16", "fp8"), "bf16", "the paper trains with either"),
    Switch("block", ("64", "32", "128"), "64", "size of the Hadamard; 64 is the code's default"),
    Switch(
        "rounding",
        ("stochastic", "nearest"),
        "stochastic",
        "unbiased is the paper's point; nearest (without the factor 3/4) is its ablation",
    ),
    FIRST_LAST,
    *EMBEDDING,
)


def tseng2025(**switches: str) -> Recipe:
    """BF16 forward, MXFP4 backward with random Hadamard and random rounding."""
    settings = read_settings("tseng2025", SWITCHES, switches)
    forward = Quantizer(get_format("bf16"), Unit())
    if settings["forward"] == "fp8":
        forward = Quantizer(get_format("fp8_e4m3"), AbsMax())
    turn = Hadamard(int(settings["block"]), "random")
    if settings["rounding"] == "nearest":
        back = Quantizer(get_format("fp4_e2m1"), AbsMax.mx(), transform=turn)
    else:
        scale = AbsMax.mx(headroom=4 / 3)
        back = Quantizer(get_format("fp4_e2m1"), scale, Stochastic(), turn)
    spec = forward_backward(forward, back)
    return Recipe(
        "tseng2025",
        "MXFP4 backward: random Hadamard, random rounding; BF16 or FP8 forward",
        "Tseng et al., AISTATS 2025",
        spec,
        rules=tuple(common_rules(settings, spec)),
        switches=SWITCHES,
        settings=tuple(settings.items()),
    )
