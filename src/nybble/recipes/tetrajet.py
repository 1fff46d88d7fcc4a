"""`tetrajet`: MXFP4 training of vision Transformers (arXiv 2502.20853).

    forward     inputs and weights E2M1 in MX blocks of 32 along the sum, to nearest; scales
                2^ceil(log2(max|x| / 6)): nothing is cut off
    backward    the gradient, in both its layouts, and the forward codes of weight and input, which
                are quantised again along the sum of the backward Gemm: all rounded at random.
                With nothing cut off, each is unbiased, so the gradient is that of what was computed
    weights     Q-EMA: rounded to the neighbour that the moving average of the weight is nearer to
                (quantizers/hooks/qema.py), which stops weights from swinging between two levels

Source: code. Its decay, 0.9983, is used from the tenth step on. `nybble.hook_steps(model,
optimizer)` lets Q-EMA follow the steps in a loop of your own.

Not done here: Q-Ramping (its other cure: elements that swing are updated less often); kernels.
"""

from __future__ import annotations

from typing import Literal, cast

from nybble.formats import Rounding, Stochastic, get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import AbsMax, Quantizer
from nybble.quantizers.hooks import QEma
from nybble.recipes.ends import EMBEDDING, FIRST_LAST, common_rules
from nybble.recipes.parts import forward_backward
from nybble.recipes.recipe import Recipe, Switch, read_settings

SWITCHES = (
    Switch(
        "qema",
        ("0.9983", "0.99", "0.9", "none"),
        "0.9983",
        "the decay of Q-EMA: 0.9983 in the code, over some 600 steps; the others for shorter runs",
    ),
    Switch(
        "backward",
        ("stochastic", "nearest"),
        "stochastic",
        "stochastic rounding of all that is quantised for backward, or nearest, its ablation",
    ),
    Switch(
        "source",
        ("codes", "tensor"),
        "codes",
        "the code quantises weights and inputs for backward from their forward values"
        " (double quantisation); tensor takes the tensors themselves",
    ),
    Switch(
        "exponent",
        ("ceil", "floor"),
        "ceil",
        "of the E8M0 scales: ceil cuts nothing off, floor is the OCP rule, which saturates up to a"
        " quarter of a block's maximum",
    ),
    FIRST_LAST,
    *EMBEDDING,
)


def tetrajet(**switches: str) -> Recipe:
    """MXFP4 without saturation, unbiased double quantisation, Q-EMA."""
    settings = read_settings("tetrajet", SWITCHES, switches)
    spec = unbiased_blocks(settings)
    return Recipe(
        "tetrajet",
        "MXFP4 in all three Gemms: unbiased double quantisation, Q-EMA against swinging weights",
        "TetraJet, arXiv 2502.20853",
        spec,
        rules=tuple(common_rules(settings, spec)),
        switches=SWITCHES,
        settings=tuple(settings.items()),
    )


def unbiased_blocks(settings: dict[str, str]) -> LayerSpec:
    """The 4-bit layer."""
    e2m1 = get_format("fp4_e2m1")
    scale = AbsMax.mx(exponent=cast("Literal['ceil', 'floor']", settings["exponent"]))
    rounding: Rounding | None = Stochastic() if settings["backward"] == "stochastic" else None
    forward, back = Quantizer(e2m1, scale), Quantizer(e2m1, scale, rounding)
    return forward_backward(
        forward,
        back,
        double=settings["source"] == "codes",
        hook=None if settings["qema"] == "none" else QEma(float(settings["qema"])),
    )
