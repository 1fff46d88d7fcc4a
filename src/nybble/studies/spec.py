"""What the user wrote: lists of recipes with switches, and lists of seeds.

    RECIPES  = RECIPE { ("," | ";") RECIPE }
    RECIPE   = NAME [ ":" KEY "=" VALUE { "+" KEY "=" VALUE } ]      NAME may be module:NAME
    SEEDS    = (N | N "-" N) { "," (N | N "-" N) }

`fp32,sun2020,sun2020:factor=1.848+odd_offset=+1` is three recipes: a comma (or semicolon, which
needs no thought inside quotes) always ends a recipe, and a plus sign joins the switches of one.  So
names, keys and values cannot contain `, ; + : =` or spaces, except that a value may begin with a
plus sign: `odd_offset=+1` is one switch, as `get_recipe` reads it.

Whether a recipe or a switch exists is the registry's business (`nybble.recipes.get_recipe` takes
the same text); here only the text is read.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nybble.errors import UserError
from nybble.recipes.registry import split_name

_NAME = re.compile(r"[^\s,;+:=]+(:[^\s,;+:=]+)?")
_SWITCH = re.compile(r"([^\s,;+:=]+)=(\+?[^\s,;+:=]+)")


@dataclass(frozen=True)
class RecipeSpec:
    """A recipe's name and the switches set on it, in the order they were written."""

    name: str
    switches: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """The form that `get_recipe` reads, equal for equal recipes whatever the order written.

        >>> RecipeSpec("sun2020", (("odd_offset", "+1"), ("factor", "1.848"))).text
        'sun2020:factor=1.848+odd_offset=+1'
        >>> RecipeSpec("fp32").text
        'fp32'
        """
        if not self.switches:
            return self.name
        return self.name + ":" + "+".join(f"{k}={v}" for k, v in sorted(self.switches))


def parse_recipe(text: str) -> RecipeSpec:
    """Read one recipe.

    Raises:
        UserError: an empty name, a switch that is not KEY=VALUE, a switch given twice.

    >>> parse_recipe("sun2020:factor=1.848")
    RecipeSpec(name='sun2020', switches=(('factor', '1.848'),))
    """
    given = text.strip()
    name, rest = split_name(given)
    if not _NAME.fullmatch(name):
        raise UserError(f"recipe '{given}': no name; write NAME or NAME:KEY=VALUE+KEY=VALUE")
    switches: list[tuple[str, str]] = []
    colon = len(given) > len(name)
    for part in re.split(r"(?<!=)\+", rest) if colon else []:  # the plus in "=+1" is a sign
        found = _SWITCH.fullmatch(part)
        if not found:
            raise UserError(
                f"recipe '{given}': '{part}' is not a switch; "
                f"write {name}:KEY=VALUE, more of them joined by +"
            )
        key, value = found[1], found[2]
        if key in dict(switches):
            raise UserError(f"recipe '{given}': switch '{key}' is given twice; keep one")
        switches.append((key, value))
    return RecipeSpec(name, tuple(switches))


def parse_recipes(text: str) -> tuple[RecipeSpec, ...]:
    """Read a list of recipes, separated by commas or semicolons.

    Raises:
        UserError: the list is empty, has an empty entry, or names the same recipe twice.

    >>> [spec.text for spec in parse_recipes("fp32,sun2020,sun2020:factor=1.848+odd_offset=+1")]
    ['fp32', 'sun2020', 'sun2020:factor=1.848+odd_offset=+1']
    """
    if not text.strip():
        raise UserError("recipes: the list is empty; give for example fp32,sun2020")
    specs: list[RecipeSpec] = []
    for part in re.split("[,;]", text):
        if not part.strip():
            raise UserError(f"recipes '{text}': an entry is empty; remove the extra separator")
        spec = parse_recipe(part)
        if spec.text in [known.text for known in specs]:
            raise UserError(f"recipes '{text}': '{spec.text}' is there twice; keep one")
        specs.append(spec)
    return tuple(specs)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read a list of seeds; `0-4` is 0,1,2,3,4.

    Raises:
        UserError: not whole numbers >= 0, a range that runs backwards, or a seed given twice.

    >>> parse_seeds("0,1,2")
    (0, 1, 2)
    >>> parse_seeds("10-12,20")
    (10, 11, 12, 20)
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        if not found:
            raise UserError(
                f"seeds '{text}': '{part.strip()}' is no whole number below 10^9 and no range; "
                "give for example 0,1,2 or 0-4"
            )
        first = int(found[1])
        last = int(found[2]) if found[2] else first
        if last < first or last - first > 9999:
            raise UserError(
                f"seeds '{text}': the range '{part.strip()}' is backwards or too long; "
                "give for example 0-4"
            )
        seeds.extend(range(first, last + 1))
    repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if repeated:
        raise UserError(f"seeds '{text}': {repeated[0]} is there twice; every seed counts once")
    return tuple(seeds)


def parse_counts(text: str, what: str) -> tuple[int, ...]:
    """Read a list of whole numbers >= 1, such as numbers of threads.

    Raises:
        UserError: anything else.

    >>> parse_counts("1,2", "threads")
    (1, 2)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[1-9]\d{0,5}", part) for part in parts):
        raise UserError(f"{what} '{text}': give whole numbers of at least 1, as in 1,2.")
    return tuple(dict.fromkeys(int(part) for part in parts))


def apply_switches(recipes: tuple[RecipeSpec, ...], switches: str) -> tuple[RecipeSpec, ...]:
    """Set switches on every recipe of the list that has the name and does not set them itself.

    `switches` is itself a list of recipes with switches: `sun2020:factor=1.848`.  A switch written
    in the recipe list wins.

    Raises:
        UserError: a name that is not in the list, or an entry without switches.

    >>> found = apply_switches(parse_recipes("fp32,sun2020"), "sun2020:factor=1.848")
    >>> [spec.text for spec in found]
    ['fp32', 'sun2020:factor=1.848']
    """
    changed = list(recipes)
    for wanted in parse_recipes(switches) if switches.strip() else ():
        if not wanted.switches:
            raise UserError(
                f"switches '{switches}': '{wanted.name}' sets nothing; "
                f"write {wanted.name}:KEY=VALUE"
            )
        if wanted.name not in [spec.name for spec in recipes]:
            names = ", ".join(dict.fromkeys(spec.name for spec in recipes))
            raise UserError(
                f"switches '{switches}': recipe '{wanted.name}' is not compared; "
                f"the recipes are {names}"
            )
        for place, spec in enumerate(changed):
            if spec.name == wanted.name:
                merged = {**dict(wanted.switches), **dict(spec.switches)}
                changed[place] = RecipeSpec(spec.name, tuple(merged.items()))
    texts = [spec.text for spec in changed]
    repeated = [text for text in texts if texts.count(text) > 1]
    if repeated:
        raise UserError(f"switches '{switches}' make '{repeated[0]}' appear twice; keep one")
    return tuple(changed)


def slug(text: str) -> str:
    """A folder name for a recipe: different texts give different names.

    >>> slug("sun2020:factor=1.848+odd_offset=+1")
    'sun2020@factor=1.848+odd_offset=+1'
    >>> slug("sun2020-strict")
    'sun2020-strict'
    """

    def escape(found: re.Match[str]) -> str:
        return "@" if found[0] == ":" else f"%{ord(found[0]):02x}"

    return re.sub(r"[^A-Za-z0-9.=+_-]|^\.", escape, text)


def other_seeds(seeds: Sequence[int], count: int = 2, start: int = 10) -> tuple[int, ...]:
    """The first `count` seeds from `start` on that are not among `seeds`.

    >>> other_seeds((0, 1, 2)), other_seeds((0, 10))
    ((10, 11), (11, 12))
    """
    free = (seed for seed in itertools.count(start) if seed not in seeds)
    return tuple(itertools.islice(free, count))
