"""Recipe and seed lists: what is read, and that every malformed text is refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.studies.spec import (
    RecipeSpec,
    apply_switches,
    parse_recipe,
    parse_recipes,
    parse_seeds,
    slug,
)

WORD = st.text(alphabet="abcXYZ019._-", min_size=1, max_size=8)
SPEC = st.builds(
    RecipeSpec,
    WORD,
    st.dictionaries(
        WORD, st.builds("".join, st.tuples(st.sampled_from(["", "+"]), WORD)), max_size=3
    ).map(lambda d: tuple(sorted(d.items()))),
)


@given(st.lists(SPEC, min_size=1, max_size=5, unique_by=lambda s: s.text), st.sampled_from(",;"))
def test_written_lists_are_read_back(specs: list[RecipeSpec], separator: str) -> None:
    assert parse_recipes(separator.join(s.text for s in specs)) == tuple(specs)


def test_order_of_switches_does_not_make_another_recipe() -> None:
    assert parse_recipe("r:b=2+a=1").text == parse_recipe("r:a=1+b=2").text
    with pytest.raises(UserError, match="there twice"):
        parse_recipes("r:b=2+a=1,r:a=1+b=2")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("fp32,,sun2020", "an entry is empty"),
        ("fp32,", "an entry is empty"),
        (":a=1", "no name"),
        ("sun 2020", "no name"),
        ("sun2020:", "is not a switch"),
        ("sun2020:factor", "is not a switch"),
        ("sun2020:factor=", "is not a switch"),
        ("sun2020:a=1+", "is not a switch"),
        ("sun2020:a=1=2", "is not a switch"),
        ("sun2020:a=++1", "is not a switch"),
        ("sun2020:a=1++b=2", "is not a switch"),
        ("sun2020:a=1+a=2", "given twice"),
        ("fp32,fp32", "there twice"),
    ],
)
def test_malformed_recipes(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        parse_recipes(text)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", (0,)), ("2,0,1", (2, 0, 1)), ("0-2", (0, 1, 2)), ("5-5,7", (5, 7))]
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "a", "1,", "-1", "1.5", "3-1", "0,1,0", "0-2,1", "0-99999", "1e3"]
)
def test_malformed_seeds(text: str) -> None:
    with pytest.raises(UserError, match="seeds"):
        parse_seeds(text)


def test_switches_go_to_the_named_recipe_and_never_override_what_was_written() -> None:
    recipes = parse_recipes("fp32,sun2020:factor=2,hfp8")
    changed = apply_switches(recipes, "sun2020:factor=1.848+odd_offset=1")
    assert [s.text for s in changed] == ["fp32", "sun2020:factor=2+odd_offset=1", "hfp8"]
    assert apply_switches(recipes, "") == recipes


@pytest.mark.parametrize(
    ("recipes", "switches", "reason"),
    [
        ("fp32,sun2020", "hfp8:a=1", "not compared"),
        ("fp32,sun2020", "sun2020", "sets nothing"),
        ("sun2020,sun2020:a=1", "sun2020:a=1", "appear twice"),
    ],
)
def test_switches_that_cannot_be_set(recipes: str, switches: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        apply_switches(parse_recipes(recipes), switches)


@given(st.lists(SPEC, min_size=2, max_size=2, unique_by=lambda s: s.text))
def test_slugs_are_safe_and_different_file_names(specs: list[RecipeSpec]) -> None:
    names = [slug(spec.text) for spec in specs]
    assert names[0] != names[1]
    for name in names:
        assert name and "/" not in name and ":" not in name and not name.startswith(".")


def test_slugs_of_odd_texts() -> None:
    assert slug("a/b") == "a%2fb"
    assert slug("../x") == "%2e.%2fx"
    assert slug("a.x:b=1") != slug("a:x.b=1")
