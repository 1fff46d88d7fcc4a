"""The text of the race; the numbers are those of race.py.

As in story.py no sentence has a digit of its own, and what is concluded follows from the numbers.

Not done here: the picture of the race.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from nybble.reports.explain.words import listed, number, paragraphs, percent, spelled

Numbers = Mapping[str, Any]


def race_before(n: Numbers) -> str:
    race, d = n["race"], n["data"]
    b = n["bits"]
    kind = "real handwriting" if d["real"] else "drawn"
    digits = (
        f"The digits are {kind}, {race['train']:,} to learn from and {race['test']:,} others for"
        f" the test, {d['side']} × {d['side']} dots each."
    )
    copies = spelled(len(race["racers"])).capitalize()
    network = (
        f"{copies} copies of one network with {n['memory']['weights']} weights and"
        f" {n['rulers']['layers']} layers start from the same weights and see the same digits in"
        " the same order."
        if n["model"] == "small"
        else f"{copies} copies of your network, <code>{escape(n['model'])}</code>, with"
        f" {n['memory']['weights']} weights, start from the same weights and see the same digits in"
        " the same order."
    )
    names = {r["key"]: escape(r["name"]) for r in race["racers"]}
    ends = ", and more bits in the first and the last layer" if race["wide_ends"] else ""
    return paragraphs(
        f"{network} {digits}",
        f"The first, <b>{names['float']}</b>, computes with {b['wide']} bits throughout. The"
        f" second, <b>{names['linear']}</b>, lays every number of every layer on a linear ruler of"
        f" {b['width']} bits, gradients included. The third follows <b>{names['paper']}</b>:"
        f" {b['width']}-bit whole numbers for weights and inputs, logarithmic gradients in two"
        f" phases{ends}.",
        f"In each step they learn from {race['batch']} digits. Press play.",
    )


def race_left_out(n: Numbers) -> str:
    return paragraphs(
        "The race was left out (<code>--no-race</code>). Without that option this page trains one"
        f" network in three ways: with {n['bits']['wide']} bits, with linear"
        f" {n['bits']['width']}-bit numbers everywhere, and with the recipe of the paper."
    )


def race_after(n: Numbers) -> str:
    race = n["race"]
    by = {r["key"]: r for r in race["racers"]}
    names = {key: escape(r["name"]) for key, r in by.items()}
    finals = {key: r["finals"] for key, r in by.items()}
    means = {key: sum(v) / len(v) for key, v in finals.items()}
    first = (
        f"After {race['steps']} steps {names['float']} reads {percent(finals['float'][0])} of the"
        f" test digits correctly, {names['linear']} {percent(finals['linear'][0])}, and"
        f" {names['paper']} {percent(finals['paper'][0])}. Guessing gives"
        f" {percent(race['chance'])}."
    )
    luck = ""
    if len(finals["float"]) > 1:
        spans = [
            f"{names[key]} {percent(min(v))} to {percent(max(v))}" for key, v in finals.items()
        ]
        luck = (
            f"One race may be luck. So there were {spelled(len(finals['float']))}, each with other"
            f" first weights and another order of the digits. They ended at: {listed(spans)}."
        )
    return paragraphs(first, luck, verdict(means), _why(names, race["wide_ends"]))


def verdict(means: Mapping[str, float]) -> str:
    """What the mean accuracies allow to say.

    >>> verdict({"float": 0.9, "linear": 0.8, "paper": 0.895})[:46]
    'On average INT4 everything is behind by 10 poi'
    """
    linear, paper = means["float"] - means["linear"], means["float"] - means["paper"]

    def behind(gap: float) -> str:
        return "not behind" if gap <= 0 else f"behind by {number(100 * gap, 2)} points"

    if linear < 0.005 and paper < 0.005:
        return (
            "On average neither is behind here: this network on these digits is too easy to tell"
            " them apart."
        )
    if paper > linear:
        return (
            f"On average the paper's recipe is {behind(paper)} here, and INT4 everything"
            f" {behind(linear)}. This race does not show the paper's advantage. Another network"
            " may: try <code>--model</code>."
        )
    return (
        f"On average INT4 everything is {behind(linear)}, and the paper's recipe is"
        f" {behind(paper)}. With so few races a point more or less means nothing."
    )


def _why(names: Mapping[str, str], wide_ends: bool) -> str:
    things = ["linear gradients", "one simple ruler for weights and inputs"]
    if wide_ends:
        things.append("few bits in the first and last layer too")
    return (
        f"Be careful with the reason. {names['linear']} differs from {names['paper']} in"
        f" {spelled(len(things))} things: {listed(things)}. The race shows what they do together."
    )
