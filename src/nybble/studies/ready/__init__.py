"""The studies that come with nybble: one small file each, and one line here.

A study is made when it is asked for, so that recipes that were added later are in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nybble.errors import UserError, suggest
from nybble.studies.ready import (
    ablation_sun2020,
    hidden_clip,
    miyashita2016,
    nybble4,
    recipes,
    robustness,
)
from nybble.studies.study.grid import Study


@dataclass(frozen=True)
class Ready:
    """A study of the registry: what it asks, and how it is made; `quick` is the short form."""

    title: str
    make: Callable[[bool], Study]


STUDIES: dict[str, Ready] = {
    "recipes": Ready(recipes.TITLE, recipes.make),
    "nybble4": Ready(nybble4.TITLE, nybble4.make),
    "ablation-sun2020": Ready(ablation_sun2020.TITLE, ablation_sun2020.make),
    "hidden-clip": Ready(hidden_clip.TITLE, hidden_clip.make),
    "miyashita2016": Ready(miyashita2016.TITLE, miyashita2016.make),
    "robustness": Ready(robustness.TITLE, robustness.make),
    "robustness-training": Ready(robustness.TRAINING_TITLE, robustness.make_training),
}


def get_study(name: str, quick: bool = False) -> Study:
    """The study of a name.

    Raises:
        UserError: there is none.

    >>> get_study("recipes", quick=True).name
    'recipes-quick'
    """
    if name not in STUDIES:
        raise UserError(
            f"unknown study '{name}': the studies are {', '.join(STUDIES)}.{suggest(name, STUDIES)}"
        )
    return STUDIES[name].make(quick)


__all__ = ["STUDIES", "Ready", "get_study"]
