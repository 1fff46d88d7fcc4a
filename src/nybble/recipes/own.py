"""A recipe of the user's own, by name: `module:NAME`, or with switches `module:NAME:KEY=VALUE`.

NAME is a `Recipe`, or a function that takes its switches as keyword arguments, all of them text,
and returns one. A run and a study keep the name and what the recipe said as a digest
(`definition.py`): they import the module again, and refuse one that says something else. A saved
model has what the recipe said.

A function's switches are its arguments, as its recipe describes them or with any text for a value.
What the recipe says of its settings stands; arguments that it does not speak of are added.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

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
    found = _guarded(name, "looked up", lambda: getattr(module, attribute, None))
    if isinstance(found, Recipe) and not switches:
        # A name takes no switches, whichever recipe it is of.
        return _described(found, (), found.settings)
    if isinstance(found, Recipe) or not callable(found):
        what = "is not there" if found is None else f"is {type(found).__name__}, no recipe"
        if isinstance(found, Recipe):
            what = "is a Recipe, which has no switches"
        raise UserError(
            f"The recipe '{name}': '{attribute}' {what}; give a Recipe, or a function of its "
            "switches that returns one."
        )
    made = _guarded(name, f"called with {switches or 'no switches'}", lambda: found(**switches))
    if not isinstance(made, Recipe):
        raise UserError(f"The recipe '{name}' must return a Recipe, not {type(made).__name__}.")
    known = _guarded(name, "asked for its arguments", lambda: _switches(found, made))
    said = dict(made.settings)
    more = {s.name: switches.get(s.name, s.default) for s in known if s.name not in said}
    return _described(made, known, tuple(sorted((said | more).items())))


def _guarded(name: str, what: str, call: Callable[[], Any]) -> Any:
    """What the user's code returns; a UserError of one line for whatever it raises."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"The recipe '{name}', {what}, gave {type(error).__name__}: {text}."
        ) from error


def _described(
    recipe: Recipe, known: tuple[Switch, ...], settings: tuple[tuple[str, str], ...]
) -> Recipe:
    """With those switches, and the candidates that are settings of them."""
    if type(recipe) is not Recipe:  # a class of the user's, which may not be made anew
        return recipe
    names = {switch.name for switch in known}
    kept = tuple(text for text in recipe.candidates if _names(text) <= names)
    return replace(recipe, switches=known, candidates=kept if names else (), settings=settings)


def _names(settings: str) -> set[str]:
    """Of `factor=1.848+odd_offset=+1`: the switches in it."""
    parts = re.split(r"(?<!=)\+", settings) if settings else []
    return {part.partition("=")[0] for part in parts}


def _switches(make: Callable[..., object], made: Recipe) -> tuple[Switch, ...]:
    described = {switch.name: switch for switch in made.switches}
    arguments = _arguments(make)
    own = []
    for argument in arguments:
        if argument.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
            switch = described.get(argument.name, Switch(argument.name, (), "", ""))
            own.append(replace(switch, default=_text(argument.default)))
    if any(argument.kind is argument.VAR_KEYWORD for argument in arguments):
        taken = {switch.name for switch in own}
        own += [switch for switch in made.switches if switch.name not in taken]
    return tuple(own)


def _arguments(make: Callable[..., object]) -> list[inspect.Parameter]:
    """Those that it takes itself; of a wrapper that takes any, those of what it wraps."""
    try:
        found = list(inspect.signature(make, follow_wrapped=False).parameters.values())
        if any(a.kind is a.VAR_KEYWORD for a in found) and hasattr(make, "__wrapped__"):
            found = list(inspect.signature(make).parameters.values())
    except (TypeError, ValueError, NameError):  # builtins have none; annotations may name none
        return []
    return found


def _text(default: object) -> str:
    """A default in one line; empty where there is none."""
    if default is inspect.Parameter.empty:
        return ""
    return " ".join(str(default).split())
