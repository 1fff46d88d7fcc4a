"""`four-over-six`: NVFP4 training whose forward blocks choose their scale (Cook et al. 2025, arXiv
2512.02010).

    inputs, weights   E2M1 in blocks of 16 along the sum; of the two scales that take the block's
                      maximum to 6 and to 4 the one of less squared error; the tensor's scale takes
                      the largest block scale to 256, so that the larger one of the two fits E4M3
    gradients         NVFP4 in blocks of 16, rounded at random, scales 17/16 larger: unbiased
    grad_weight       both operands after a Hadamard of 16 with one fixed vector of signs, as in
                      NVIDIA's recipe, the input to nearest

Source: abstract and code: the rule, its three error measures, the limit of 256, the unbiased
gradients, and that forward weights and inputs are what it is used on in training. What the backward
Gemms read is not in the texts that were available: switches.

Not done here: other formats of the code (IF4); layers kept in BF16 beside the first and the last.
"""

from __future__ import annotations

from typing import Literal, cast

from nybble.formats import Stochastic, get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import AbsMax, FourOverSix, Hadamard, Quantizer
from nybble.recipes.ends import EMBEDDING, FIRST_LAST, common_rules
from nybble.recipes.recipe import Recipe, Switch, read_settings

SWITCHES = (
    Switch(
        "error",
        ("mse", "mae", "absmax"),
        "mse",
        "what decides between 4 and 6: the code's default, and its two other measures",
    ),
    Switch(
        "weights",
        ("block", "tile"),
        "block",
        "blocks along the sum of each Gemm, or 16 x 16 tiles, which the code has too: one set of"
        " codes for both passes",
    ),
    Switch(
        "backward_weight",
        ("four-over-six", "nvfp4"),
        "four-over-six",
        "the weight of grad_input: by the same rule as in the forward pass, so that both passes"
        " know one way to quantise a weight, or plain NVFP4",
    ),
    Switch(
        "hadamard",
        ("fixed", "random", "none"),
        "fixed",
        "signs of the Hadamard of grad_weight; NVIDIA's recipe, on which this one builds, has it",
    ),
    Switch(
        "gradient",
        ("stochastic", "nearest"),
        "stochastic",
        "unbiased in the paper's training; nearest is the ablation, without the factor 17/16",
    ),
    FIRST_LAST,
    *EMBEDDING,
)


def four_over_six(**switches: str) -> Recipe:
    """NVFP4 with the better of two scales forward, unbiased gradients."""
    settings = read_settings("four-over-six", SWITCHES, switches)
    spec = adaptive_blocks(settings)
    return Recipe(
        "four-over-six",
        "NVFP4 with the better of two block scales forward, unbiased gradients",
        "Cook et al. 2025, arXiv 2512.02010",
        spec,
        rules=tuple(common_rules(settings, spec)),
        switches=SWITCHES,
        settings=tuple(settings.items()),
    )


def adaptive_blocks(settings: dict[str, str]) -> LayerSpec:
    """The 4-bit layer."""
    e2m1 = get_format("fp4_e2m1")
    error = cast("Literal['mse', 'mae', 'absmax']", settings["error"])
    forward = Quantizer(e2m1, FourOverSix(error=error))
    plain = Quantizer(e2m1, AbsMax.nv())
    tiles = cast("Literal['block', 'tile']", settings["weights"])
    weight = Quantizer(e2m1, FourOverSix(error=error, granularity=tiles))
    again: Quantizer | Literal["same"] = forward if tiles == "block" else "same"
    signs = settings["hadamard"]
    turn = None
    if signs != "none":
        turn = Hadamard(16, cast("Literal['fixed', 'random']", signs))
    gradient = plain
    if settings["gradient"] == "stochastic":
        gradient = Quantizer(e2m1, AbsMax.nv(headroom=17 / 16), Stochastic())
    return LayerSpec(
        output_input=forward,
        output_weight=weight,
        grad_input_grad=gradient,
        grad_input_weight=again if settings["backward_weight"] == "four-over-six" else plain,
        grad_weight_grad=Quantizer(e2m1, gradient.scale, gradient.rounding, turn),
        grad_weight_input=Quantizer(e2m1, AbsMax.nv(), transform=turn),
    )
