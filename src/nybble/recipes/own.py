"""A recipe of the user's own, by name: `module:NAME`, or with switches `module:NAME:KEY=VALUE`.

NAME is a `Recipe`, or a function that takes its switches as keyword arguments, all of them text,
and returns one. A run and a study keep the name and what the recipe said as a digest
(`definition.py`): they import the module again, and refuse one that says something else. A saved
model has what the recipe said.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

from nybble.errors import UserError
from nybble.own import import_own
from nybble.recipes.recipe import Recipe, Switch

__all__ = ["own_recipe"]


def own_recipe(name: str, switches: dict[str, str]) -> Recipe:
    """The recipe `module:NAME` of a user's own.

    Raises:
        UserError: it cannot be imported, is no recipe, or refuses its switches.
    """
    module, attribute = import_own(name, "The recipe")
    found = getattr(module, attribute, None)
    if isinstance(found, Recipe) and not switches:
        return replace(found, switches=(), candidates=())  # a name takes none, whatever it is of
    if isinstance(found, Recipe) or not callable(found):
        what = "is not there" if found is None else f"is {type(found).__name__}, no recipe"
        if isinstance(found, Recipe):
            what = "is a Recipe, which has no switches"
        raise UserError(
            f"The recipe '{name}': '{attribute}' {what}; give a Recipe, or a function of its "
            "switches that returns one."
        )
    try:
        made = found(**switches)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"The recipe '{name}', called with {switches or 'no switches'}, gave "
            f"{type(error).__name__}: {str(error).rstrip('.')}."
        ) from error
    if not isinstance(made, Recipe):
        raise UserError(f"The recipe '{name}' must return a Recipe, not {type(made).__name__}.")
    known = _switches(found, made)
    values = {switch.name: switch.default for switch in known} | switches
    # Candidates are settings of the switches: none are left where those were another recipe's.
    candidates = made.candidates if known == made.switches else ()
    settings = tuple(sorted(values.items()))
    return replace(made, switches=known, candidates=candidates, settings=settings)


def _switches(make: Callable[..., object], made: Recipe) -> tuple[Switch, ...]:
    """The arguments of a function, as far as it has a signature to read, that have a default: as
    its recipe describes them, or as they are."""
    try:
        arguments = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        return ()
    described = {switch.name: switch for switch in made.switches}
    if any(a.kind is inspect.Parameter.VAR_KEYWORD for a in arguments):
        return made.switches
    given = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(
        described.get(a.name, Switch(a.name, (), str(a.default), ""))
        for a in arguments
        if a.kind in given and a.default is not inspect.Parameter.empty
    )
