"""`ufp4`: a uniform 4-bit grid on all six operands (Ant 2026, arXiv 2606.20381).

    every operand  t = x R           R: a block Hadamard with random signs, along the Gemm's sum
                   q = round(t / s)  s = max|t| / 7 over 16 elements along the sum, one float32
                                     number a block; the grid is {-7, ..., 7} (E1M2 and INT4 alike)
    rounding       nearest; the two output gradients stochastic

Why: on E2M1, whose steps grow towards the ends, nearest rounding of values that lie anywhere makes
them smaller on average ("shrinkage bias"), and the Hadamard, which moves values to the middle of
the range, makes it worse. On a uniform grid there is none.

Source: abstract, and numbers from secondary texts: grid, blocks, scale, Hadamard on all three Gemms
and stochastic rounding of the gradient only. The size of the Hadamard and whether its signs are
drawn anew are not in them: switches.

Not done here: kernels; every Gemm multiplies decoded values in float32, for its scales vary along
the sum.
"""

from __future__ import annotations

from typing import Literal, cast

from nybble.formats import Rounding, Stochastic, get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import AbsMax, Hadamard, Quantizer
from nybble.recipes.ends import EMBEDDING, FIRST_LAST, common_rules
from nybble.recipes.recipe import Recipe, Switch, read_settings

SWITCHES = (
    Switch(
        "grid",
        ("uniform", "e2m1"),
        "uniform",
        "the uniform grid is the paper's point, E2M1 what it is compared with; all else stays",
    ),
    Switch(
        "hadamard",
        ("16", "32", "64", "128", "none"),
        "16",
        "size of the Hadamard: no available text gives it; one block of the scale, as in NVFP4",
    ),
    Switch(
        "signs",
        ("random", "fixed", "none"),
        "random",
        "drawn at every call, one vector for all, or no signs: the texts say random Hadamard",
    ),
    Switch(
        "gradient",
        ("stochastic", "nearest"),
        "stochastic",
        "the paper's rounding of the output gradient; nearest is its ablation",
    ),
    FIRST_LAST,
    *EMBEDDING,
)


def ufp4(**switches: str) -> Recipe:
    """INT4 in float32-scaled blocks of 16 after a Hadamard, in all three Gemms."""
    settings = read_settings("ufp4", SWITCHES, switches)
    spec = uniform_blocks(settings)
    return Recipe(
        "ufp4",
        "uniform 4-bit grid in blocks of 16, Hadamard on all three Gemms",
        "Ant 2026, arXiv 2606.20381",
        spec,
        rules=tuple(common_rules(settings, spec)),
        switches=SWITCHES,
        settings=tuple(settings.items()),
    )


def uniform_blocks(settings: dict[str, str]) -> LayerSpec:
    """The 4-bit layer."""
    grid = get_format("int4_sym" if settings["grid"] == "uniform" else "fp4_e2m1")
    turn = None
    if settings["hadamard"] != "none":
        signs = cast("Literal['none', 'fixed', 'random']", settings["signs"])
        turn = Hadamard(int(settings["hadamard"]), signs)
    rounding: Rounding | None = Stochastic() if settings["gradient"] == "stochastic" else None
    operand = Quantizer(grid, AbsMax("block", block=16), transform=turn)
    gradient = Quantizer(grid, AbsMax("block", block=16), rounding, turn)
    return LayerSpec(
        output_input=operand,
        output_weight=operand,
        grad_input_grad=gradient,
        grad_input_weight=operand,
        grad_weight_grad=gradient,
        grad_weight_input=operand,
    )
