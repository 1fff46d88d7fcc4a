"""`nybble4`: this project's own recipe; every Gemm is a product of small integers.

    weights     W20, 16 levels +-{1, 3, 5, 7, 9, 12, 15, 20}, a scale for each output channel: the
                better of its maximum's and its rms's
    inputs      without negative values U31, {0 ... 6, 8, 10, 12, 14, 17, 20, 23, 27, 31}; as behind
                GELU or SiLU S31, {-10, -6, -4, -2, -1, 0, 1, 3, 5, 7, 10, 13, 16, 20, 25, 31}; the
                row's maximum is the top level; others W20, a scale for each row as for weights;
                convolutions behind a ReLU: UINT4 with PACT's learned clip, one a tensor
    gradients   G31, {0, +-1, 2, 4, 8, 13, 20, 31}: a grid between uniform and logarithmic, rounded
                at random, a scale for each row (grad_input) or output channel (grad_weight); the
                same random bits for both, which are drawn once
    fold        the scale of a weight or an input that runs along a backward sum is multiplied into
                the gradient before that is quantised, so that only integers are left in the sum
    control     grad_weight + (sum of dy - sum of Q(dy)) x (mean of the input)
    variate

Products of codes are at most 31 x 31, so every Gemm fits 8-bit multipliers. Why: unbiased rounding
first (nearest radix-4 shrinks log-uniform data by 13 %); scales by row take the range away, so that
codes can be spent on resolution; the best unbiased grid for a row at its maximum lies between
uniform and radix 2; the rank-1 term takes from grad_weight the noise that multiplies the input's
mean, which is large for inputs that are never negative. Source: this project's search;
docs/nybble4.md.
"""

from __future__ import annotations

from dataclasses import replace

from nybble.formats import Stochastic, get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import PACT, AbsMax, BestOfTwo, Quantizer
from nybble.recipes.ends import EMBEDDING, FIRST_LAST, common_rules
from nybble.recipes.recipe import Recipe, Rule, Switch, read_settings
from nybble.recipes.tail import Tail

FORWARD = (
    Switch(
        "weights",
        ("w20", "int4"),
        "w20",
        "16 levels where a Gaussian has its mass, or 15 uniform ones",
    ),
    Switch(
        "conv_weights",
        ("int4", "w20"),
        "int4",
        "in convolutions of 3x3 the fast Winograd path takes uniform levels only",
    ),
    Switch("inputs", ("u31", "uint4"), "u31", "levels of inputs that are never negative"),
    Switch(
        "control",
        ("yes", "no"),
        "yes",
        "the control variate of grad_weight",
    ),
)
SWITCHES = (
    *FORWARD,
    Switch(
        "conv_inputs",
        ("pact", "image"),
        "pact",
        "convolutions: UINT4 with a learned clip, or the levels of `inputs` with a scale for each"
        " image (docs/nybble4.md has what was seen of either)",
    ),
    Switch(
        "gradients",
        ("g31", "fp4_radix2", "int4_sym", "fp4_e2m1"),
        "g31",
        "the grid of gradients, all with a scale a row and random rounding",
    ),
    Switch("samples", ("1", "2"), "1", "random roundings that grad_weight averages"),
    Switch(
        "recurrent",
        ("row", "hidden"),
        "row",
        "hidden states of time loops: W20 with a scale for each row, or INT4 with one learned clip,"
        " as in `sun2020`, whose LSTM does better than float32's in the recorded study",
    ),
    Switch(
        "tail",
        ("0", "0.05", "0.1", "0.2"),
        "0",
        "the share of the steps, at the end, in which inputs and gradients are FP16 and the weights"
        " stay 4-bit, under the run's own schedule; 0 is without",
    ),
    FIRST_LAST,
    *EMBEDDING,
)


def forward_spec(settings: dict[str, str], weights: str) -> LayerSpec:
    """The output Gemm of a layer."""
    if weights == "w20":
        weight = Quantizer(get_format("w20"), BestOfTwo("free"))
    else:
        weight = Quantizer(get_format("int4_sym"), BestOfTwo("free", rms=0.35))
    return LayerSpec(
        output_input=Quantizer(get_format(settings["inputs"]), AbsMax("free")),
        output_weight=weight,
        signed_slot=Quantizer(get_format("w20"), BestOfTwo("free")),
        skewed_slot=Quantizer(get_format("s31"), AbsMax("free")),
        control_variate=settings["control"] == "yes",
    )


def build(
    settings: dict[str, str], backward: dict[str, Quantizer | str | bool | int]
) -> tuple[LayerSpec, list[Rule]]:
    spec = replace(forward_spec(settings, settings["weights"]), **backward)  # type: ignore[arg-type]
    conv = replace(forward_spec(settings, settings["conv_weights"]), **backward)  # type: ignore[arg-type]
    why = "a scale for each image: a pixel's would lie along the sum"
    if settings.get("conv_inputs") == "pact":
        conv = replace(conv, output_input=Quantizer(get_format("uint4"), PACT("unsigned")))
        why = "one clip a tensor"
    rules = [*common_rules(settings, spec), Rule(conv, type="conv", why=why)]
    if settings.get("recurrent") == "hidden":
        clipped = Quantizer(get_format("int4_sym"), PACT("symmetric"))
        loop = replace(spec, output_input=clipped, signed_slot=None, skewed_slot=None)
        rules.append(Rule(loop, type="time-loop", why="states are bounded: one learned clip"))
    return spec, rules


def nybble4(**switches: str) -> Recipe:
    """The recipe without transforms."""
    settings = read_settings("nybble4", SWITCHES, switches)
    grad = Quantizer(get_format(settings["gradients"]), AbsMax("free"), Stochastic())
    spec, rules = build(
        settings,
        {
            "grad_input_grad": grad,
            "grad_weight_grad": grad,
            "gradient_pair": "shared",
            "fold": True,
            "samples": int(settings["samples"]),
        },
    )
    share = float(settings["tail"])
    return Recipe(
        "nybble4",
        "integer Gemms over 16-entry tables, row scales, unbiased gradients",
        "this project",
        spec,
        rules=tuple(rules),
        switches=SWITCHES,
        settings=tuple(settings.items()),
        tail=Tail(share) if share else None,
    )
