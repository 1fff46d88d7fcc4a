"""The recipes by name. A new recipe is its own file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from nybble.errors import UserError, suggest
from nybble.recipes.four_over_six import four_over_six
from nybble.recipes.fp4_all_the_way import fp4_all_the_way
from nybble.recipes.hfp8 import hfp8
from nybble.recipes.int8 import int8
from nybble.recipes.luq import luq
from nybble.recipes.miyashita2016 import miyashita2016
from nybble.recipes.nvfp4 import nvfp4
from nybble.recipes.nybble4 import nybble4
from nybble.recipes.nybble4_hadamard import nybble4_hadamard
from nybble.recipes.own import own_recipe
from nybble.recipes.plain import bf16, fp16, fp32
from nybble.recipes.quartet import quartet
from nybble.recipes.quartet2 import quartet2
from nybble.recipes.recipe import Recipe
from nybble.recipes.sun2020 import sun2020
from nybble.recipes.sun2020_strict import sun2020_strict
from nybble.recipes.tetrajet import tetrajet
from nybble.recipes.tetrajet2 import tetrajet2
from nybble.recipes.tseng2025 import tseng2025
from nybble.recipes.ufp4 import ufp4
from nybble.recipes.wang2025 import wang2025
from nybble.recipes.xi2023 import xi2023

RECIPES: dict[str, Callable[..., Recipe]] = {
    "fp32": fp32,
    "bf16": bf16,
    "fp16": fp16,
    "hfp8": hfp8,
    "int8": int8,
    "miyashita2016": miyashita2016,
    "sun2020": sun2020,
    "sun2020-strict": sun2020_strict,
    "luq": luq,
    "nvfp4": nvfp4,
    "tseng2025": tseng2025,
    "nybble4": nybble4,
    "nybble4-hadamard": nybble4_hadamard,
    "ufp4": ufp4,
    "four-over-six": four_over_six,
    "fp4-all-the-way": fp4_all_the_way,
    "wang2025": wang2025,
    "quartet": quartet,
    "quartet2": quartet2,
    "tetrajet": tetrajet,
    "tetrajet2": tetrajet2,
    "xi2023": xi2023,
}


def get_recipe(name: str | Recipe) -> Recipe:
    """The recipe of a name, with switches behind a colon: `sun2020:factor=1.848+ste=clip`; or one
    of your own, `module:NAME`, a `Recipe` or a function of its switches that returns one.

    A `Recipe` is returned as it is. Raises UserError for an unknown name or switch.

    >>> dict(get_recipe("sun2020:factor=1.848").settings)["factor"]
    '1.848'
    """
    if isinstance(name, Recipe):
        return name
    if not isinstance(name, str):
        raise UserError(f"a recipe is a name such as 'sun2020', or a Recipe, not {name!r}")
    base, switches = split_name(name)
    if base not in RECIPES and ":" not in base:
        known = ", ".join(RECIPES)
        raise UserError(
            f"unknown recipe {base!r}: the recipes are {known}, or your own as module:NAME."
            f"{suggest(base, RECIPES)}"
        )
    given: dict[str, str] = {}
    for part in _split(switches) if switches or name.endswith(":") else ():
        if not part:
            raise UserError(
                f"recipe {name!r}: an empty switch; write {base}:switch=value+switch=value"
            )
        key, equals, value = part.partition("=")
        if not equals or not key or not value:
            raise UserError(
                f"recipe {name!r}: {part!r} is no switch; write {base}:switch=value+switch=value"
            )
        if key in given:
            raise UserError(f"recipe {name!r}: switch {key!r} is given twice; keep one")
        given[key] = value
    return RECIPES[base](**given) if base in RECIPES else own_recipe(base, given)


def split_name(text: str) -> tuple[str, str]:
    """(name, switches): the name has a colon where it is `module:NAME`.

    >>> split_name("sun2020:factor=1.848"), split_name("mine:uniform"), split_name("mine:f:bits=3")
    (('sun2020', 'factor=1.848'), ('mine:uniform', ''), ('mine:f', 'bits=3'))
    """
    base, _, rest = text.partition(":")
    attribute, _, switches = rest.partition(":")
    if base in RECIPES or not attribute or "=" in attribute:
        return base, rest
    return f"{base}:{attribute}", switches


def _split(switches: str) -> list[str]:
    """Split at the pluses that separate switches; the plus of a value (`odd_offset=+1`) stays."""
    parts: list[str] = []
    for piece in switches.split("+"):
        if parts and parts[-1].endswith("="):
            parts[-1] += "+" + piece
        else:
            parts.append(piece)
    return parts
