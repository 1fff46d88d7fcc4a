"""Published ways of training in few bits, as data. See `recipe.py` and `registry.py`."""

from nybble.recipes.recipe import LayerFacts, Recipe, Rule, Switch
from nybble.recipes.registry import RECIPES, get_recipe

__all__ = ["RECIPES", "LayerFacts", "Recipe", "Rule", "Switch", "get_recipe"]
