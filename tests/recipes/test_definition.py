"""What a recipe says, as a text: the same where the recipe is, another where anything counts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from nybble.errors import UserError
from nybble.formats import Stochastic, get_format
from nybble.quantizers import AbsMax, Quantizer
from nybble.recipes import RECIPES, Rule, get_recipe
from nybble.recipes.definition import _sparse, changed, definition, definitions
from nybble.recipes.tail import Tail


def test_every_recipe_and_every_value_of_its_switches_is_told_apart() -> None:
    found: dict[str, str] = {}
    for name in RECIPES:
        recipe = get_recipe(name)
        for switch in recipe.switches:
            for choice in switch.choices:
                text = f"{name}:{switch.name}={choice}"
                try:
                    other = get_recipe(text)
                except UserError:  # not with the defaults of the others
                    continue
                same = (other.spec, other.rules, other.tail) == (
                    recipe.spec,
                    recipe.rules,
                    recipe.tail,
                )
                assert (definition(other) == definition(recipe)) == same, text
        found[name] = definition(recipe)
    assert len(set(found.values())) == len(found)


def test_words_do_not_count_and_all_else_does() -> None:
    recipe = get_recipe("luq")
    text = definition(recipe)
    assert definition(replace(recipe, name="x", title="y", source="z", switches=())) == text
    rules = (replace(recipe.rules[0], why="another reason"), *recipe.rules[1:])
    assert definition(replace(recipe, rules=rules)) == text
    gradient = Quantizer(get_format("int4_sym"), AbsMax("row"), Stochastic())
    for other in (
        replace(recipe, rules=(*recipe.rules, Rule(None, type="conv"))),
        replace(recipe, rules=recipe.rules[::-1]),
        replace(recipe, tail=Tail(0.1)),
        replace(recipe, spec=replace(recipe.spec, samples=2)),
        replace(
            recipe,
            spec=replace(recipe.spec, grad_input_grad=gradient, grad_weight_grad=gradient),
        ),
    ):
        assert definition(other) != text


def test_a_field_that_is_added_with_a_default_changes_nothing() -> None:
    @dataclass
    class Part:
        size: int = 1

    before = _sparse(Part(3))

    @dataclass
    class Part:  # type: ignore[no-redef]
        size: int = 1
        more: list[int] = field(default_factory=list)
        name: str = "x"

    assert _sparse(Part(3)) == before != _sparse(Part(3, name="y"))


def test_names() -> None:
    names = ["fp32", "luq", "none", "luq", "luq:samples=2"]
    assert list(definitions(names)) == ["luq", "luq:samples=2"]
    with pytest.raises(UserError, match="no such recipe"):
        definitions(["no such recipe"])
    assert changed({"a": "1"}, {"a": "2", "b": "1"}) == ["a"]
    assert changed({}, {"a": "2"}) == []
