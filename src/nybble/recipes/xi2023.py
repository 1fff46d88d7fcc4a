"""`xi2023`: training Transformers with INT4 (Xi et al., NeurIPS 2023, arXiv 2306.11987).

    inputs, weights   Hadamard quantiser: both operands of the output Gemm after a block Hadamard,
                      INT4 [-8, 7] with a learned step each (LSQ; nn/steps.py)
    gradients         bit splitting: two digits of 4 bits, the lower one rounded at random, so that
                      the mean is the gradient; leverage-score sampling: of the 2 N rows about N are
                      kept, by their lengths (quantizers/scales/split_rows.py)
    backward          the gradient's digits with the forward codes, in their basis; then turned back

Source: abstract and code. The code searches the Hadamard's size layer by layer, from 1 to 1024;
here it is one for all. Its digits end at 6, which cuts off what is within 8 % of the largest
gradient; 7, which is unbiased, is the default here.

Not done here: the search for the Hadamard's size; integer kernels; learned steps inside the time
loop of a recurrent layer, which quantises hidden states by their largest magnitude.
"""

from __future__ import annotations

from dataclasses import replace

from nybble.formats import Stochastic, get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import LSQ, AbsMax, Hadamard, Quantizer, SplitRows
from nybble.recipes.ends import EMBEDDING, FIRST_LAST, common_rules
from nybble.recipes.recipe import Recipe, Rule, Switch, read_settings

SWITCHES = (
    Switch(
        "hadamard",
        ("32", "1", "16", "64", "128", "1024"),
        "32",
        "size, one for all layers; the code tries powers of two up to 1024 for each; 1: without",
    ),
    Switch(
        "limit",
        ("7", "6"),
        "7",
        "the largest digit of a split gradient: 6 is the code's, and biased near the maximum",
    ),
    Switch(
        "sampling",
        ("yes", "no"),
        "yes",
        "keep half of the rows; no is bit splitting alone, twice the work in 4 bits",
    ),
    FIRST_LAST,
    *EMBEDDING,
)


def xi2023(**switches: str) -> Recipe:
    """INT4 with learned steps after a Hadamard; split and sampled gradients."""
    settings = read_settings("xi2023", SWITCHES, switches)
    spec = learned_steps(settings)
    levels = get_format("int4_sym")
    turn = spec.output_weight.transform if spec.output_weight else None
    hidden = replace(
        spec,
        output_input=Quantizer(levels, AbsMax(), transform=turn),
        output_weight=Quantizer(levels, AbsMax(), transform=turn),
        grad_input_grad=Quantizer(levels, AbsMax(), Stochastic()),
        grad_weight_grad=Quantizer(levels, AbsMax(), Stochastic()),
    )
    return Recipe(
        "xi2023",
        "INT4: learned steps after a Hadamard, gradients split into digits and sampled",
        "Xi et al., NeurIPS 2023, arXiv 2306.11987",
        spec,
        rules=(
            *common_rules(settings, hidden),  # tables and products of attention learn no step
            Rule(hidden, type="time-loop", why="a step has to be known before the loop"),
        ),
        switches=SWITCHES,
        settings=tuple(settings.items()),
    )


def learned_steps(settings: dict[str, str]) -> LayerSpec:
    """The 4-bit layer."""
    size = int(settings["hadamard"])
    turn = None if size == 1 else Hadamard(size, "none")
    forward = Quantizer(get_format("int4"), LSQ(), transform=turn)
    rows = SplitRows(int(settings["limit"]), settings["sampling"] == "yes")
    gradient = Quantizer(get_format("int4_sym"), rows)
    return LayerSpec(
        output_input=forward,
        output_weight=forward,
        grad_input_grad=gradient,
        grad_weight_grad=gradient,
    )
