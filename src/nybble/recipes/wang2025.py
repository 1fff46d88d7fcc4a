"""`wang2025`: FP4 forward with a differentiable estimator and outlier compensation (Wang et al.,
ICML 2025, arXiv 2501.17116).

    inputs      E2M1, one scale a token, after clamping at the quantiles 1 - a and a, a = 0.99; what
                was cut off is multiplied apart in high precision (OCC: ops/reference/outliers.py)
    weights     E2M1, one scale an output channel; their gradient is multiplied with the slope of a
                smooth staircase (DGE: ops/reference/estimator.py), k = 5, at most 3
    gradients   wide: BF16, or FP8

    y = Q(clamp(x)) Q(w) + (x - clamp(x)) Q(w)          dw <- dw f'(w / s)

Source: the paper's text for the three formulas, a and k. In which precision its two backward Gemms
run, and on which copy of the operands, is not in the texts that were available: switches.

Not done here: FP8 optimizer states and gradient communication (MS-AMP); outliers inside the time
loop of a recurrent layer, whose hidden states are below 1; a sparse kernel for the residual.
"""

from __future__ import annotations

from dataclasses import replace

from nybble.formats import get_format
from nybble.ops.spec import DGE, BackwardSlot, LayerSpec
from nybble.quantizers import AbsMax, Quantizer, Unit
from nybble.recipes.ends import EMBEDDING, FIRST_LAST, common_rules
from nybble.recipes.recipe import Recipe, Rule, Switch, read_settings

SWITCHES = (
    Switch(
        "dge",
        ("5", "3", "10", "none"),
        "5",
        "k of the estimator: 5 in the paper; none passes the gradient through. Later work (AMD"
        " ALTO, 2026) found that it hurts",
    ),
    Switch(
        "outliers",
        ("0.99", "0.999", "0.97", "none"),
        "0.99",
        "the quantile at which inputs are clamped: 0.99 in the paper, which tried the others",
    ),
    Switch(
        "gradient",
        ("bf16", "fp8"),
        "bf16",
        "the output gradient: bf16 leaves the forward pass as the only cause of a difference; fp8"
        " is E5M2 with a scale a tensor",
    ),
    Switch(
        "backward",
        ("same", "bf16"),
        "same",
        "weights and inputs of the backward Gemms: the codes of the forward pass, whose gradient"
        " then is the gradient of what was computed, or the tensors in BF16",
    ),
    FIRST_LAST,
    *EMBEDDING,
)


def wang2025(**switches: str) -> Recipe:
    """E2M1 forward with DGE and OCC; wide gradients."""
    settings = read_settings("wang2025", SWITCHES, switches)
    spec = fp4_forward(settings)
    rules = common_rules(settings, spec)
    if spec.outliers is not None:
        why = "hidden states are below 1: no outliers"
        rules.append(Rule(replace(spec, outliers=None), type="time-loop", why=why))
    return Recipe(
        "wang2025",
        "FP4 forward: differentiable estimator, outlier compensation; wide gradients",
        "Wang et al., ICML 2025, arXiv 2501.17116",
        spec,
        rules=tuple(rules),
        switches=SWITCHES,
        settings=tuple(settings.items()),
    )


def fp4_forward(settings: dict[str, str]) -> LayerSpec:
    """The 4-bit layer."""
    vector = Quantizer(get_format("fp4_e2m1"), AbsMax("free"))
    wide = Quantizer(get_format("bf16"), Unit())
    gradient = wide
    if settings["gradient"] == "fp8":
        gradient = Quantizer(get_format("fp8_e5m2"), AbsMax())
    backward: BackwardSlot = "same" if settings["backward"] == "same" else wide
    return LayerSpec(
        output_input=vector,
        output_weight=vector,
        grad_input_grad=gradient,
        grad_input_weight=backward,
        grad_weight_grad=gradient,
        grad_weight_input=backward,
        outliers=None if settings["outliers"] == "none" else float(settings["outliers"]),
        weight_gradient=None if settings["dge"] == "none" else DGE(k=float(settings["dge"])),
    )
