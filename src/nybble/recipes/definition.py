"""What a recipe says, as a short text that two processes can compare.

    definition(recipe) = sha256 of its spec, its rules and its tail, in canonical JSON

Names stand for recipes in configurations: `module:NAME` may say something else tomorrow, and a
default of a recipe of nybble's own may change between versions. A run and a study keep the text
beside the name, so that neither goes on under another recipe. Fields that have their default are
left out: a version that adds one does not change a recipe that does not use it. Titles, sources and
reasons are no part of it.

Not done here: the code of a quantizer is not looked at; records name the commit of each run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from nybble.recipes.recipe import Recipe
from nybble.recipes.registry import get_recipe

__all__ = ["changed", "definition", "definitions"]

_WORDS = ("why", "origin")
"""Fields that explain."""


def definition(recipe: Recipe) -> str:
    """Sixteen hexadecimal digits.

    >>> definition(get_recipe("sun2020")) == definition(get_recipe("sun2020:factor=1.6"))
    True
    >>> definition(get_recipe("sun2020")) == definition(get_recipe("sun2020:factor=1.848"))
    False
    """
    parts = [_sparse(recipe.spec), _sparse(recipe.rules), _sparse(recipe.tail)]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def definitions(names: Iterable[str]) -> dict[str, str]:
    """By name, of those that are recipes: `fp32` and `none` convert nothing and are left out.

    Raises:
        UserError: an unknown recipe.
    """
    found = dict.fromkeys(name for name in names if name not in ("fp32", "none"))
    return {name: definition(get_recipe(name)) for name in found}


def changed(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The names that both know and that say something else now.

    >>> changed({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"})
    ['b']
    """
    return [name for name, text in now.items() if before.get(name, text) != text]


def _sparse(value: Any) -> Any:
    """`value` in JSON: of a dataclass its name and the fields that differ from their defaults."""
    if is_dataclass(value) and not isinstance(value, type):
        kept = {
            field.name: _sparse(getattr(value, field.name))
            for field in fields(value)
            if field.name not in _WORDS and getattr(value, field.name) != _default(field)
        }
        return {"": type(value).__name__, **kept}
    if isinstance(value, tuple | list):
        return [_sparse(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _sparse(item) for key, item in value.items()}
    if value is None or isinstance(value, str | int | float):
        return value
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return MISSING if field.default_factory is MISSING else field.default_factory()
