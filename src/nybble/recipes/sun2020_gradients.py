"""The gradient slots of `sun2020` from its switches: the paper's grids, and those it is compared
with in an ablation (other bases and widths, one phase, the mean of both, a random one).

    even grid   b^n                        b: the base, n: 2^(bits - 1) - 1 levels around 0
    odd grid    4^n / 2 or 2 * 4^n         base 4 only (`odd_offset`)

Not done here: everything else of the recipe, which is in sun2020.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, cast

from nybble.errors import UserError
from nybble.formats import LogFormat, LogNearest, Rounding, Stochastic
from nybble.ops.spec import GradientPair
from nybble.quantizers import GradScale, Quantizer
from nybble.recipes.recipe import Switch

__all__ = ["gradient_pair", "gradient_quantizers"]

_BASES = {"radix4": 4, "radix2": 2, "base3": 3, "base8": 8, "base10": 10}


def gradient_quantizers(
    settings: dict[str, str], switches: Iterable[Switch]
) -> tuple[Quantizer, Quantizer]:
    """The quantizers of the output gradient for grad_input and for grad_weight."""
    base, bits = _BASES[settings["gradients"]], int(settings["gradient_bits"])
    even = LogFormat(base, bits)
    if even.unit is None:
        raise UserError(
            f"sun2020: gradients={settings['gradients']} has no exact integers with gradient_bits="
            f"{bits}; use fewer bits, or another base"
        )
    scale = GradScale(
        mode=cast("Literal['delayed', 'immediate', 'fit']", settings["gradscale"]),
        start=cast("Literal['fit', 'one']", settings["gradscale_start"]),
        scope=cast("Literal['layer', 'global']", settings["scope"]),
    )
    if base != 4:
        one = Quantizer(even, scale, _midpoint(settings, switches))
        return one, one
    grids = {"even": even, "odd": even.odd(offset=int(settings["odd_offset"]))}
    rounding: Rounding = Stochastic()
    if settings["factor"] != "stochastic":
        rounding = LogNearest(settings["factor"], settings["underflow"])
    phases = settings["phases"]
    first, second = ("even", "odd") if phases in ("average", "random") else phases.split("-")
    return (
        Quantizer(grids[first], scale, rounding),
        Quantizer(grids[second], scale, rounding),
    )


def gradient_pair(settings: dict[str, str]) -> GradientPair:
    """What the two slots are to the two backward Gemms.

    >>> gradient_pair({"phases": "average"}), gradient_pair({"phases": "odd-even"})
    ('mean', 'each')
    """
    pairs: dict[str, GradientPair] = {"average": "mean", "random": "random"}
    return pairs.get(settings["phases"], "each")


def _midpoint(settings: dict[str, str], switches: Iterable[Switch]) -> Rounding:
    """The rounding of a grid of another base, at its arithmetic midpoint; what is defined on base
    4 is refused."""
    gradients = settings["gradients"]
    for name in ("phases", "odd_offset"):
        default = next(switch.default for switch in switches if switch.name == name)
        if settings[name] != default:
            raise UserError(
                f"sun2020: gradients={gradients} has one grid, so {name}={settings[name]} has no"
                " meaning; leave it out"
            )
    if settings["factor"] == "stochastic":
        return Stochastic()
    if settings["factor"] != "1.6":
        raise UserError(
            f"sun2020: factor={settings['factor']} is a threshold of radix 4; with"
            f" gradients={gradients} use factor=1.6, the midpoint, or factor=stochastic"
        )
    return LogNearest("mid", settings["underflow"])
