"""Recipes of a user's own, by name: from a module beside the user, wherever a name is taken."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import nybble
from nybble.cli.app import main
from nybble.errors import UserError
from nybble.recipes import Recipe, get_recipe
from nybble.studies.spec import parse_recipes
from nybble.training import TrainConfig

MODULE = """
from nybble.formats import get_format
from nybble.ops.spec import LayerSpec
from nybble.quantizers import AbsMax, Quantizer
from dataclasses import replace
from nybble.recipes import Recipe, get_recipe
from nybble.recipes.recipe import Switch

def made(bits="4", loud="no"):
    if bits == "5":
        raise RuntimeError("five")
    slot = Quantizer(get_format("int4" if bits == "4" else "int8"), AbsMax())
    return Recipe(f"own{bits}", "own", "here", LayerSpec(slot, slot, slot, "same", slot, "same"))

def of_another(grid="int4"):
    return get_recipe("nybble4:weights=" + grid)

def described(bits="4"):
    switches = (Switch("bits", ("4", "8"), "4", "as wide"),)
    return replace(made(bits), switches=switches, candidates=("", "bits=8"))

def forced(**switches):
    return get_recipe("nybble4:control=no")

def narrower(control="no", *, note):
    return get_recipe("nybble4:control=" + control)

def other_order(loud="no", bits="4"):
    switches = (Switch("bits", ("4", "8"), "4", "as wide"),)
    return replace(made(bits), switches=switches, candidates=("", "bits=8", "width=3"))

def wide(kind="fp32"):
    return get_recipe(kind)

class Unreadable:
    def __str__(self):
        raise ValueError("no text\\nof mine")

def unreadable(bits=Unreadable()):
    return made()

class Own(Recipe):
    def __init__(self, bits="4"):
        super().__init__("sub", "own", "here", made(bits).spec)

def __getattr__(name):
    if name == "lazy":
        raise RuntimeError("not today")
    raise AttributeError(name)

instance = Own()
mine = made()
another = get_recipe("nybble4")
number = 3
def wrong():
    return 3
"""


@pytest.fixture(autouse=True)
def beside_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "my_recipes.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("my_recipes", None)


def test_a_recipe_or_a_function_of_switches() -> None:
    assert get_recipe("my_recipes:mine").name == "own4"
    assert get_recipe("my_recipes:made").name == "own4"
    assert get_recipe("my_recipes:made:bits=8").name == "own8"
    assert isinstance(get_recipe("my_recipes:made:bits=8+loud=yes"), Recipe)


def test_its_switches_are_the_functions_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert get_recipe("my_recipes:made:bits=8").settings == (("bits", "8"), ("loud", "no"))
    assert main(["recipes", "show", "my_recipes:made:bits=8"]) == 0
    text = capsys.readouterr().out
    assert "Switches, written my_recipes:made:NAME=VALUE" in text
    assert "bits = any text   (set to 8, default 4)" in text


def test_the_switches_of_another_recipe_are_not_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A function that returns a recipe of nybble's takes its own arguments, and a name none."""
    made, named = get_recipe("my_recipes:of_another"), get_recipe("my_recipes:another")
    assert [switch.name for switch in made.switches] == ["grid"]
    assert named.switches == () == made.candidates == named.candidates
    assert named.spec == get_recipe("nybble4").spec
    assert main(["recipes", "show", "my_recipes:another"]) == 0
    assert "Switches" not in capsys.readouterr().out


def test_a_function_describes_its_switches() -> None:
    recipe = get_recipe("my_recipes:described")
    assert recipe.switches[0].choices == ("4", "8") and recipe.candidates == ("", "bits=8")


def test_what_the_recipe_says_of_its_settings_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert dict(get_recipe("my_recipes:forced").settings)["control"] == "no"
    made = get_recipe("my_recipes:narrower:note=a+control=yes")
    assert dict(made.settings)["control"] == "yes" and dict(made.settings)["note"] == "a"
    assert main(["recipes", "show", "my_recipes:narrower:note=a+control=yes"]) == 0
    text = capsys.readouterr().out
    assert "control = yes | no   (set to yes, default no)" in text
    assert "note = any text   (set to a, no default)" in text


def test_candidates_are_those_of_its_switches() -> None:
    assert get_recipe("my_recipes:other_order").candidates == ("", "bits=8")


def test_the_switches_of_what_converts_nothing_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["recipes", "show", "my_recipes:wide"]) == 0
    assert "kind = any text   (default fp32)" in capsys.readouterr().out


def test_a_recipe_of_a_class_of_ones_own() -> None:
    for name in ("instance", "Own", "Own:bits=8"):
        assert get_recipe(f"my_recipes:{name}").name == "sub"


def test_in_lists_of_recipes_beside_others() -> None:
    specs = parse_recipes("fp32,my_recipes:mine,my_recipes:made:loud=yes+bits=8,sun2020:ste=clip")
    assert [spec.text for spec in specs] == [
        *("fp32", "my_recipes:mine", "my_recipes:made:bits=8+loud=yes", "sun2020:ste=clip")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere:mine", "'nowhere:mine' cannot be imported: module 'nowhere' gave ModuleNotFound"),
        ("my_recipes:other", "'other' is not there"),
        ("my_recipes:number", "give a Recipe, or a function"),
        ("my_recipes:wrong", "must return a Recipe, not int"),
        ("my_recipes:mine:bits=8", "which has no switches"),
        ("my_recipes:made:bits=5", "gave RuntimeError: five"),
        ("my_recipes:made:colour=red", "gave TypeError"),
        ("my_recipes:made:bits", "is no switch"),
        ("my_recipes:unreadable", "asked for its arguments, gave ValueError: no text of mine"),
        ("my_recipes:lazy", "looked up, gave RuntimeError: not today"),
        ("sun2020:mine", "is no switch"),
    ],
)
def test_what_is_no_recipe_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        get_recipe(text)
    assert "\n" not in str(caught.value)


def test_a_configuration_takes_names_only() -> None:
    with pytest.raises(UserError, match="your own as 'module:NAME'"):
        TrainConfig(recipe=get_recipe("my_recipes:mine"))  # type: ignore[arg-type]


def test_it_converts_and_trains_and_a_run_names_it() -> None:
    pytest.importorskip("mlxtend")
    model = torch.nn.Sequential(torch.nn.Linear(8, 4))
    nybble.convert(model, "my_recipes:mine")
    model(torch.randn(3, 8)).sum().backward()
    arguments = ["train", "vision", "--model", "cnn", "--data", "mnist5k", "--epochs", "1"]
    small = ["--limit-train", "8", "--limit-test", "8", "--batch-size", "4", "--quiet"]
    assert main([*arguments, *small, "--recipe", "my_recipes:mine", "--out", "run"]) == 0
    assert (
        json.loads(Path("run", "config.json").read_text())["config"]["recipe"] == "my_recipes:mine"
    )
