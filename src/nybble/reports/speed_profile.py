"""Where a step's time goes, as a table and as a sentence: the `profile` of a record of speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["profile_table", "reason"]

Record = Mapping[str, Any]


def profile_table(profile: Record) -> list[list[str]]:
    """Milliseconds and shares by place; products of both sides in one row each.

    >>> side = {"ms": {"forward products": 6.0, "rest": 2.0}, "total_ms": 8.0}
    >>> profile_table({"threads": 1, "float32": side, "ours": side})[1]
    ['forward products', '6.0 ms', '75 %', '6.0 ms', '75 %']
    """
    sides = [profile["float32"], profile["ours"]]
    names = [name for name in sides[0]["ms"] if any(side["ms"].get(name) for side in sides)]
    table = [["place", "float32", "", "4-bit", ""]]
    for name in names:
        row = [name]
        for side in sides:
            row += [f"{side['ms'][name]:.1f} ms", f"{100 * _share(side, name):.0f} %"]
        table.append(row)
    total = ["all"]
    for side in sides:
        total += [f"{side['total_ms']:.1f} ms", "100 %"]
    return [*table, total]


def _share(side: Record, name: str) -> float:
    return float(side["ms"][name]) / float(side["total_ms"] or 1.0)


def reason(profile: Record, least: float) -> str:
    """Why a step misses its aim, by its profile: what every place takes of float32's step.

    >>> ms = {"forward products": 60.0, "backward products": 0.0, "elementwise": 40.0}
    >>> ours = {"ms": {**ms, "forward products": 10.0, "quantise": 20.0}, "total_ms": 70.0}
    >>> print(reason({"float32": {"ms": ms, "total_ms": 100.0}, "ours": ours}, 2.0))
    Reason: an aim of 2.0x allows 50 % of float32's step. Ours takes 70 %: products 10 % (float32:
    60 %), elementwise 40 % (float32: 40 %), quantise 20 %.
    """
    from nybble.studies.speed.profile import PRODUCTS

    float32, ours = profile["float32"], profile["ours"]
    whole = float32["total_ms"]

    def share(side: Record, names: Sequence[str]) -> float:
        return 100 * sum(float(side["ms"].get(name, 0.0)) for name in names) / float(whole)

    parts = [f"products {share(ours, PRODUCTS):.0f} % (float32: {share(float32, PRODUCTS):.0f} %)"]
    others = [name for name in ours["ms"] if name not in PRODUCTS]
    for name in sorted(others, key=lambda name: -float(ours["ms"][name])):
        own, base = share(ours, [name]), share(float32, [name])
        if own >= 1:
            parts.append(f"{name} {own:.0f} %" + (f" (float32: {base:.0f} %)" if base >= 1 else ""))
    return (
        f"Reason: an aim of {least}x allows {100 / least:.0f} % of float32's step. Ours takes "
        f"{100 * ours['total_ms'] / whole:.0f} %: {', '.join(parts)}."
    )
