"""Recipes in words: nothing of a recipe is left out, and what was set is told from the default."""

from __future__ import annotations

import json

import pytest

from nybble.recipes import RECIPES, get_recipe
from nybble.reports.recipes import as_json, bits, describe, listing

ALL = [get_recipe(name) for name in RECIPES]


def test_listing_has_one_line_a_recipe() -> None:
    lines = listing(ALL).splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(ALL)]] == list(RECIPES)
    starts = lines[0].index("source")
    for line, recipe in zip(lines[1:], ALL, strict=False):
        assert line[starts:].startswith(recipe.title)


def test_bits_of_known_recipes() -> None:
    assert set(bits(get_recipe("sun2020").spec).values()) == {"4 x 4"}
    assert set(bits(get_recipe("fp32").spec).values()) == {"32 x 32"}
    assert set(bits(get_recipe("hfp8").spec).values()) == {"8 x 8"}


def test_every_kind_of_input_is_told_where_a_recipe_has_levels_for_it() -> None:
    told = "where mostly above zero, as behind GELU, s31·absmax(free)"
    assert told in describe(get_recipe("nybble4"))
    assert "mostly above zero" not in describe(get_recipe("sun2020"))


def test_sun2020_in_full() -> None:
    text = describe(get_recipe("sun2020"))
    for wanted in (
        "Sun et al., NeurIPS 2020",
        "uint4·pact(unsigned); where negative int4_sym·sawb(ibm15)",
        "- time-loop layer:",
        "uint4·pact(unsigned); where negative int4_sym·pact(symmetric)",
        "int4_sym·sawb(ibm15)",
        "fp4_radix4·gradscale",
        "fp4_radix4_odd·gradscale",
        "- first layer:",
        "- last layer:",
        "loss scale: 1024",
        "factor = 1.6 | 1.848 | stochastic   (default 1.6)",
    ):
        assert wanted in text
    slots = [line for line in text.splitlines() if line.startswith("  output ")]
    assert "input     4 bits" in slots[0]


def test_a_switch_that_was_set_is_told_from_the_default() -> None:
    text = describe(get_recipe("sun2020:factor=1.848"))
    assert "(set to 1.848, default 1.6)" in text
    assert "log-nearest(1.848)" in text


def test_an_exception_to_float32_says_so() -> None:
    assert "- first layer: float32" in describe(get_recipe("sun2020:first_last=fp32"))


@pytest.mark.parametrize("recipe", ALL, ids=lambda r: r.name)
def test_json_is_json_and_complete(recipe) -> None:
    data = json.loads(json.dumps(as_json(recipe)))
    assert data["name"] == recipe.name
    assert [s["name"] for s in data["switches"]] == [s.name for s in recipe.switches]
    assert all(s["why"] for s in data["switches"])


def test_what_is_not_done_and_rules_of_outliers_are_told() -> None:
    assert "Not done here: kernels; every Gemm multiplies" in describe(get_recipe("quartet2"))
    assert "Not done here: kernels" in describe(get_recipe("quartet2:hadamard=128"))
    assert "Not done here" not in describe(get_recipe("nybble4"))
    text = describe(get_recipe("wang2025"))
    assert "  outliers    none" in text.partition("time-loop")[2]
