"""`nybble4-hadamard` rounds gradients to the nearest level of W20 after a block Hadamard along the
sum, with one least-squares factor a row; the other operand is kept in 4 bits, and its decoded codes
are rotated at backward time and rounded to 8 bits.

What is kept for backward is nybble4's: 4-bit codes of inputs and weights alone. Natively, the
backward Gemms of linear layers and of convolutions without groups are products of 8-bit integers,
and the rotations are kernels; scales and rounding are torch's operators.
"""

from __future__ import annotations

from typing import Literal, cast

from nybble.formats import get_format
from nybble.quantizers import AbsMax, BestOfTwo, Hadamard, Quantizer, RowLeastSquares
from nybble.recipes.ends import EMBEDDING, FIRST_LAST
from nybble.recipes.nybble4 import FORWARD, build
from nybble.recipes.recipe import Recipe, Switch, read_settings

SWITCHES = (
    *FORWARD,
    Switch("block", ("64", "32", "16", "128"), "64", "size of the Hadamard"),
    Switch("order", ("strided", "consecutive"), "strided", "whether a block spans the whole row"),
    Switch(
        "partner",
        ("int8_sym", "w20"),
        "int8_sym",
        "the rotated weight or input: 8 bits from the 4-bit codes, or 4 again",
    ),
    FIRST_LAST,
    *EMBEDDING,
)


def nybble4_hadamard(**switches: str) -> Recipe:
    """The recipe with rotated gradients."""
    settings = read_settings("nybble4-hadamard", SWITCHES, switches)
    order = cast(Literal["strided", "consecutive"], settings["order"])
    turn = Hadamard(int(settings["block"]), "random", order)
    grad = Quantizer(get_format("w20"), RowLeastSquares("free"), transform=turn)
    partner = Quantizer(get_format("int8_sym"), AbsMax("free"), transform=turn)
    if settings["partner"] == "w20":
        partner = Quantizer(get_format("w20"), BestOfTwo("free"), transform=turn)
    spec, rules = build(
        settings,
        {
            "grad_input_grad": grad,
            "grad_input_weight": partner,
            "grad_weight_grad": grad,
            "grad_weight_input": partner,
            "double": True,
        },
    )
    return Recipe(
        "nybble4-hadamard",
        "nybble4 with gradients rotated by a block Hadamard and rounded to nearest",
        "this project",
        spec,
        rules=tuple(rules),
        switches=SWITCHES,
        settings=tuple(settings.items()),
    )
