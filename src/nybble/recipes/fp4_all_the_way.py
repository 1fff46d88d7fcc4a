"""`fp4-all-the-way`: NVFP4 in all three Gemms (Chmiel et al., NeurIPS 2025, arXiv 2505.19115).

    operands     E2M1 in blocks of 16 along each Gemm's sum, an E4M3 scale each, one float32 scale a
                 tensor; weights and inputs are quantised for every Gemm from the tensor itself
    forward      rounding to nearest
    backward     stochastic rounding of the output gradient in both Gemms and of the input in
                 grad_weight; weights to nearest

Split rounding, the paper's result: a forward pass gains nothing from being unbiased, for what
follows is not linear, while grad_weight is linear in both of its operands, so that it is unbiased
only if both are.

Stop rule: training in 4 bits stalls when ||gradient|| < sqrt(3) x its quantisation noise; the run
then ends with a short phase in higher precision (QAF, quantisation-aware fine-tuning). Here the
backward Gemms become BF16 and the forward pass stays FP4, as that name says.

Source: abstract, and secondary texts for which operand is rounded how and for the stop rule; what
becomes wider in the last phase is read from its name.

Not done here: no Hadamard, as in the paper; the study of block sizes and scale formats.
"""

from __future__ import annotations

from nybble.formats import Rounding, Stochastic, get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import AbsMax, Quantizer
from nybble.recipes.ends import EMBEDDING, FIRST_LAST, common_rules
from nybble.recipes.recipe import Recipe, Switch, read_settings
from nybble.recipes.tail import Tail, Watch

SWITCHES = (
    Switch(
        "update_input",
        ("stochastic", "nearest"),
        "stochastic",
        "the input operand of grad_weight: the paper rounds it at random, which makes the update"
        " unbiased in both operands; nearest is NVIDIA's choice",
    ),
    Switch(
        "gradient",
        ("stochastic", "nearest"),
        "stochastic",
        "the output gradient in both backward Gemms; nearest is the paper's ablation",
    ),
    Switch(
        "headroom",
        ("no", "yes"),
        "no",
        "scales of what is rounded at random 17/16 larger, so that a block scale that E4M3 rounds"
        " down cannot push the block's maximum beyond 6, where rounding is no longer unbiased;"
        " later work does it, the texts on this paper do not speak of it",
    ),
    Switch(
        "tail",
        ("watch", "0.05", "0.1", "0"),
        "watch",
        "when the last phase begins: by the stop rule, looked at every 100 steps, the paper's; with"
        " the last share of the steps; or never",
    ),
    FIRST_LAST,
    *EMBEDDING,
)
BACKWARD = ("grad_input_grad", "grad_input_weight", "grad_weight_grad", "grad_weight_input")


def fp4_all_the_way(**switches: str) -> Recipe:
    """NVFP4 everywhere: nearest forward, stochastic where the update has to be unbiased."""
    settings = read_settings("fp4-all-the-way", SWITCHES, switches)
    spec = split_rounding(settings)
    return Recipe(
        "fp4-all-the-way",
        "NVFP4 in all three Gemms, split rounding",
        "Chmiel et al., NeurIPS 2025, arXiv 2505.19115",
        spec,
        rules=tuple(common_rules(settings, spec)),
        switches=SWITCHES,
        settings=tuple(settings.items()),
        tail=last_phase(settings["tail"]),
    )


def last_phase(when: str) -> Tail | None:
    """The phase of higher precision at the end of a run."""
    if when == "watch":
        return Tail(slots=BACKWARD, format="bf16", watch=Watch())
    return None if when == "0" else Tail(float(when), BACKWARD, "bf16")


def split_rounding(settings: dict[str, str]) -> LayerSpec:
    """The 4-bit layer."""
    e2m1 = get_format("fp4_e2m1")
    over = 17 / 16 if settings["headroom"] == "yes" else 1.0
    nearest = Quantizer(e2m1, AbsMax.nv())

    def rounded(setting: str) -> Quantizer:
        if setting == "nearest":
            return nearest
        rounding: Rounding = Stochastic()
        return Quantizer(e2m1, AbsMax.nv(headroom=over), rounding)

    gradient = rounded(settings["gradient"])
    return LayerSpec(
        output_input=nearest,
        output_weight=nearest,
        grad_input_grad=gradient,
        grad_input_weight=nearest,
        grad_weight_grad=gradient,
        grad_weight_input=rounded(settings["update_input"]),
    )
