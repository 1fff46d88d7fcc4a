"""What a ready study takes from the registry of recipes, and what it leaves out, with a note."""

from __future__ import annotations

from collections.abc import Sequence

from nybble.errors import UserError
from nybble.ops.spec import SLOTS, LayerSpec
from nybble.recipes import RECIPES, get_recipe

FEW_BITS = 8
"""A recipe is one of few bits if an operand of its layers has at most this many."""


def few_bit_recipes() -> tuple[str, ...]:
    """Every recipe of the registry that has an operand of few bits, in its order.

    >>> {"sun2020", "hfp8"} <= set(few_bit_recipes()), "fp16" in few_bit_recipes()
    (True, False)
    """
    return tuple(name for name in RECIPES if _has_few_bits(get_recipe(name).spec))


def _has_few_bits(spec: LayerSpec) -> bool:
    slots = [spec.slot(name) for name in SLOTS]
    return any(slot is not None and slot.format.bits <= FEW_BITS for slot in slots)


def known_recipes(texts: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The recipes that the registry accepts, and a note that names those it refuses.

    >>> known_recipes(["fp32", "sun2020:factor=7"])
    (('fp32',), ('left out, because the registry does not know them: sun2020:factor=7',))
    """
    found: list[str] = []
    refused: list[str] = []
    for text in texts:
        try:
            get_recipe(text)
        except UserError:
            refused.append(text)
        else:
            found.append(text)
    notes = (f"left out, because the registry does not know them: {', '.join(refused)}",)
    return tuple(found), notes if refused else ()
