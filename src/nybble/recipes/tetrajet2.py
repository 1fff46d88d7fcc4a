"""`tetrajet2`: TetraJet-v2, NVFP4 training of language models (arXiv 2510.27527).

    scales      E2M1 in blocks of 16, an E4M3 scale each, and a float32 scale for every 128 elements
                along the sum ("double block"), not for the whole tensor
    forward     to nearest
    backward    all four operands after a Hadamard with random signs, rounded at random with scales
                17/16 larger: unbiased
    weights     OsciReset: what swings between two levels is set on its level from time to time
                (quantizers/hooks/oscillation.py)

Source: abstract and secondary texts: the blocks, Hadamard and rounding of the four operands, 17/16,
tau 16 and the start at step 8000. The size of the Hadamard, the window of OsciReset (200 is that of
AMD's ALTO) and what the backward operands are quantised from are not in them: switches.
`nybble.hook_steps(model, optimizer)` lets OsciReset follow the steps in a loop of your own.

Not done here: OutControl (outlier channels of the inputs in higher precision, chosen beforehand:
how they are chosen is not in the texts that were available); kernels.
"""

from __future__ import annotations

from nybble.formats import Stochastic, get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import AbsMax, Hadamard, Quantizer
from nybble.quantizers.hooks import OsciReset
from nybble.recipes.ends import EMBEDDING, FIRST_LAST, common_rules
from nybble.recipes.parts import forward_backward
from nybble.recipes.recipe import Recipe, Switch, read_settings

RESETS = {
    "v2": OsciReset(16.0, 200, 8000),
    "alto": OsciReset(4.0, 200, 2000),
    "short": OsciReset(4.0, 50, 100),
}
SWITCHES = (
    Switch(
        "reset",
        ("v2", "alto", "short", "none"),
        "v2",
        "OsciReset: v2 is tau 16 from step 8000 on; alto tau 4 from step 2000 on, as AMD runs it;"
        " short tau 4, window 50, from step 100 on, for runs of this project's size",
    ),
    Switch("hadamard", ("16", "32", "128", "none"), "16", "its size: one block of the scale"),
    Switch(
        "outer",
        ("128", "tensor"),
        "128",
        "elements that share a float32 scale; the tensor's is NVIDIA's",
    ),
    Switch(
        "source",
        ("codes", "tensor"),
        "codes",
        "what weights and inputs are quantised from for backward: their forward codes, as in the"
        " same authors' TetraJet, or the tensors",
    ),
    FIRST_LAST,
    *EMBEDDING,
)


def tetrajet2(**switches: str) -> Recipe:
    """NVFP4 with double-block scales, unbiased backward Gemms, OsciReset."""
    settings = read_settings("tetrajet2", SWITCHES, switches)
    spec = double_blocks(settings)
    return Recipe(
        "tetrajet2",
        "NVFP4 with scales of 128 and 16: unbiased backward Gemms, swinging weights reset",
        "TetraJet-v2, arXiv 2510.27527",
        spec,
        rules=tuple(common_rules(settings, spec)),
        switches=SWITCHES,
        settings=tuple(settings.items()),
    )


def double_blocks(settings: dict[str, str]) -> LayerSpec:
    """The 4-bit layer."""
    e2m1 = get_format("fp4_e2m1")
    outer = None if settings["outer"] == "tensor" else int(settings["outer"])
    size = settings["hadamard"]
    turn = None if size == "none" else Hadamard(int(size), "random")
    forward = Quantizer(e2m1, AbsMax.nv(outer=outer))
    back = Quantizer(e2m1, AbsMax.nv(outer=outer, headroom=17 / 16), Stochastic(), turn)
    return forward_backward(
        forward, back, double=settings["source"] == "codes", hook=RESETS.get(settings["reset"])
    )
