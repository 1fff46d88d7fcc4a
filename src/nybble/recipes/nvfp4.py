"""`nvfp4`: pre-training in NVFP4 (NVIDIA 2025, arXiv 2509.25149; Transformer Engine's docs).

    inputs       E2M1 in blocks of 16 along the sum, an E4M3 scale each, one float32 scale a tensor
    weights      the same with square blocks of 16 x 16, so that both Gemms that read the weights
                 multiply the same values
    gradients    E2M1 in blocks of 16 along the sum of each Gemm, rounded at random
    grad_weight  both operands are first turned by a Hadamard of 16 with one fixed vector of signs,
                 the input anew from the tensor itself (no double quantisation)
    exceptions   first and last layer; about 15 % of the layers, the last ones, in BF16

Every Gemm multiplies decoded values in float32: scales vary along the sum.

Not done here: BF16 storage of what lies between the layers; the paper's exact list of BF16 layers
is per network (12B: the first 2 blocks and the last 8, as remembered).
"""

from __future__ import annotations

from nybble.formats import Stochastic, get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import AbsMax, Hadamard, Quantizer
from nybble.recipes.ends import EMBEDDING, FIRST_LAST, common_rules
from nybble.recipes.parts import uniform_spec
from nybble.recipes.recipe import Recipe, Rule, Switch, read_settings

SWITCHES = (
    Switch(
        "keep",
        ("0.15", "0"),
        "0.15",
        "the last share of the layers that stays in BF16; about 15 % by secondary texts",
    ),
    Switch(
        "hadamard", ("fixed", "random", "none"), "fixed", "signs of the Hadamard of grad_weight"
    ),
    Switch(
        "headroom",
        ("no", "yes"),
        "no",
        "scales of gradients 17/16 larger, so that a block scale that E4M3 rounds down cannot push"
        " the block's maximum beyond 6; later work does it, NVIDIA's texts do not speak of it",
    ),
    Switch("weights", ("tile", "block"), "tile", "blocks of 16 x 16, or of 16 along each sum"),
    FIRST_LAST,
    *EMBEDDING,
)


def nvfp4(**switches: str) -> Recipe:
    """NVIDIA's recipe: two-level scales, 2-D weights, Hadamard and random rounding in backward."""
    settings = read_settings("nvfp4", SWITCHES, switches)
    spec = nv_spec(settings)
    rules = common_rules(settings, spec)
    if settings["keep"] != "0":
        why = f"the last {float(settings['keep']):.0%} of the layers"
        rules.append(Rule(uniform_spec("bf16"), share=float(settings["keep"]), why=why))
    return Recipe(
        "nvfp4",
        "NVFP4 pre-training: two-level block scales, 2-D weights, Hadamard, stochastic gradients",
        "NVIDIA 2025, arXiv 2509.25149",
        spec,
        rules=tuple(rules),
        switches=SWITCHES,
        settings=tuple(settings.items()),
    )


def nv_spec(settings: dict[str, str]) -> LayerSpec:
    """The 4-bit layer."""
    e2m1 = get_format("fp4_e2m1")
    block = Quantizer(e2m1, AbsMax.nv())
    weight = block
    if settings["weights"] == "tile":
        weight = Quantizer(e2m1, AbsMax("tile", block=16, scale_format="fp8_e4m3"))
    signs = settings["hadamard"]
    turn = None if signs == "none" else Hadamard(16, signs)  # type: ignore[arg-type]
    grad = AbsMax.nv(headroom=17 / 16 if settings["headroom"] == "yes" else 1.0)
    return LayerSpec(
        output_input=block,
        output_weight=weight,
        grad_input_grad=Quantizer(e2m1, grad, Stochastic()),
        # Tiles are the same values either way; blocks are fitted along the other dimension.
        grad_input_weight="same" if settings["weights"] == "tile" else weight,
        grad_weight_grad=Quantizer(e2m1, grad, Stochastic(), turn),
        grad_weight_input=Quantizer(e2m1, AbsMax.nv(), transform=turn),
    )
