"""The page: text of story.py, data of numbers.py, style.css and script.js in one HTML file.

It loads nothing from anywhere. The data are JSON in a script element that the browser does not run;
`<` is written as an escape there, so that no text in it can end the element.

Not done here: other forms than HTML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from nybble.reports.explain import race_story, step_story, story
from nybble.training.files import disk_errors, write_atomic
from nybble.version import __version__

Numbers = Mapping[str, Any]


def write_page(path: Path, numbers: Numbers, command: str) -> None:
    """Write the page, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    with disk_errors(f"The page {path}"):
        write_atomic(path, page(numbers, command).encode())


def page(numbers: Numbers, command: str) -> str:
    """The page as text; `command` is what made it."""
    sections = _sections(numbers)
    contents = "".join(
        f'<li><a href="#{name}">{escape(question)}</a></li>' for name, question, _ in sections
    )
    body = "\n".join(
        f'<section id="{name}">\n<h2>{escape(question)}</h2>\n{text}\n</section>'
        for name, question, text in sections
    )
    head = escape(story.title(numbers))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'  # or browsers ask for /favicon.ico
        f"<title>{head}</title>\n<style>\n{_resource('style.css')}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{head}</h1>\n{story.lead(numbers)}\n</header>\n"
        "<noscript><p class=note>The figures need JavaScript. The text does not.</p></noscript>\n"
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav>\n<main>\n{body}\n</main>\n'
        f"<footer><p>Made by <code>{escape(command)}</code> with nybble {escape(__version__)}, seed"
        f" {numbers['seed']}.</p></footer>\n"
        f'<script type="application/json" id="data">{_json(numbers)}</script>\n'
        f"<script>\n{_resource('script.js')}</script>\n</body>\n</html>\n"
    )


def _json(numbers: Numbers) -> str:
    text = json.dumps(numbers, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _sections(n: Numbers) -> list[tuple[str, str, str]]:
    """(anchor, question, HTML) of every part of the page."""
    width = n["bits"]["width"]
    base = n["bits"]["log_base"]
    steps = race_story.race_left_out(n) if n["race"] is None else _race(n)
    return [
        (
            "bits",
            f"What fits into {width} bits?",
            story.bits_before(n) + _bits(n) + story.bits_after(n),
        ),
        (
            "picture",
            f"What does a picture look like in {width} bits?",
            story.picture_before(n) + _picture(n) + story.picture_after(n),
        ),
        ("pixel", "How does a number become a code?", story.pixel_before(n) + _pixel(n)),
        (
            "rulers",
            "Why does every round need a new ruler?",
            story.rulers_before(n) + _rulers(n) + story.rulers_after(n),
        ),
        (
            "line",
            "Why does a linear ruler lose the small gradients?",
            story.line_before(n) + _line(n) + story.line_after(n),
        ),
        (
            "gradients",
            f"Why base {base}?",
            story.gradients_before(n)
            + _gradients(n)
            + story.rulers_table(n)
            + story.gradients_after(n),
        ),
        (
            "phases",
            "Do the errors of two-phase rounding cancel?",
            story.phases_before(n) + _phases(n) + story.phases_after(n),
        ),
        ("step", "What happens in one training step?", step_story.step_before(n) + _step(n)),
        ("race", "Does it learn as well?", steps),
        ("limits", "What does this page not show?", story.limits(n)),
    ]


# ---- figures ------------------------------------------------------------------------------------


def _figure(name: str, inside: str, caption: str = "") -> str:
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'\n<figure id="fig-{name}">\n{inside}\n{below}</figure>\n'


def _slider(name: str, label: str, last: int, start: int) -> str:
    return (
        f'<div class="control"><label for="s-{name}">{label}</label>'
        f'<input type="range" id="s-{name}" min="0" max="{last}" step="1" value="{start}"'
        f' autocomplete="off"><output id="o-{name}" for="s-{name}"></output></div>'
    )


def _draw(label: str) -> str:
    return f'<div class="draw" data-label="{escape(label)}"></div>'


def _says(name: str) -> str:
    return f'<p class="says" id="{name}-says" aria-live="polite"></p>'


def _facts(*items: tuple[str, str, str]) -> str:
    """(class, term, id of the value)"""
    inside = "".join(
        f'<div class="{kind}"><dt>{term}</dt><dd id="{name}"></dd></div>'
        for kind, term, name in items
    )
    return f'<dl class="facts">{inside}</dl>'


def _bits(n: Numbers) -> str:
    b = n["bits"]
    return _figure(
        "bits",
        '<div class="bits" id="bit-boxes"></div>'
        + _slider("bits", "Switches", b["codes"] - 1, b["start"])
        + _facts(
            ("", "without a sign", "bits-unsigned"),
            ("", "with a sign", "bits-signed"),
            ("", "logarithmic", "bits-log"),
        )
        + _draw("Three scales with every value that a code can mean"),
        "All values of each reading, from the most negative to the largest. Each scale is drawn to"
        " the same width.",
    )


def _picture(n: Numbers) -> str:
    p = n["picture"]
    return _figure(
        "picture",
        '<div class="pictures"><div><canvas id="picture-full" role="img"'
        f' aria-label="The picture in {p["greys"]} greys"></canvas>'
        f"<figcaption>{p['greys']} greys, {p['full_bytes']}</figcaption></div>"
        '<div><canvas id="picture-few" role="img" aria-label="The picture in few greys"></canvas>'
        '<figcaption id="picture-caption"></figcaption></div></div>'
        + _slider("picture", "Bits", len(p["rows"]) - 1, p["start"])
        + '<p class="says short" id="picture-off" aria-live="polite"></p>',
    )


def _pixel(n: Numbers) -> str:
    p = n["pixel"]
    return _figure(
        "pixel",
        _slider("pixel", "Brightness", len(p["x"]) - 1, p["start"])
        + '<p class="chain"><span class="swatch" id="swatch-from"></span><span id="pixel-x"></span>'
        '<i>scaled</i><span id="pixel-scaled"></span><i>rounded</i><span id="pixel-level"></span>'
        '<i>code</i><span id="pixel-bits"></span><i>read back</i><span id="pixel-back"></span>'
        '<span class="swatch" id="swatch-to"></span></p>'
        + _draw("The whole numbers as a scale, the number as it falls and where it is rounded to"),
    )


def _rulers(n: Numbers) -> str:
    last = len(n["rulers"]["steps"]) - 1
    radios = "".join(
        f'<label><input type="radio" name="rulers-row" value="{value}"{checked}'
        f' autocomplete="off">{value}</label>'
        for value, checked in (("inputs", " checked"), ("weights", ""))
    )
    return _figure(
        "rulers",
        f"<fieldset><legend>Show</legend>{radios}</fieldset>"
        + _slider("rulers", "Round", last, 0)
        + '<label><input type="checkbox" id="rulers-old" autocomplete="off">keep the ruler of the'
        " first round</label>"
        + _draw("How many numbers have which size, and the marks of the ruler")
        + _says("rulers"),
    )


def _line(n: Numbers) -> str:
    last = len(n["line"]["positions"]) - 1
    return _figure(
        "line", _slider("line", "Number", last, last * 5 // 9) + _draw("One number on three rulers")
    )


def _gradients(n: Numbers) -> str:
    rulers = n["gradients"]["rulers"]
    return _figure(
        "gradients",
        _slider("gradients", "Ruler", len(rulers) - 1, 0)
        + _draw("How many gradients have which size, and which become zero")
        + _says("gradients"),
        "The first bar also holds all gradients that are smaller still.",
    )


def _phases(n: Numbers) -> str:
    last = len(n["phases"]["positions"]) - 1
    return _figure(
        "phases",
        _slider("phases", "Number", last, last * 2 // 5)
        + _facts(
            ("even", "even ruler (solid)", "phases-even"),
            ("odd", "odd ruler (dashed)", "phases-odd"),
            ("mean", "mean of both (dotted)", "phases-mean"),
        )
        + _draw("The error of both rulers and of their mean, along a logarithmic axis")
        + _says("phases"),
        "Upwards: by how much the rounded number is too large or too small. Shaded: both too"
        " small.",
    )


def _step(n: Numbers) -> str:
    stages = step_story.stages(n)
    inside = "".join(
        f'<div class="stage" data-name="{escape(name)}"><h3>{k}. {escape(name[0].upper())}'
        f"{escape(name[1:])}</h3><p>{sentence}</p>{table}</div>"
        for k, (name, sentence, table) in enumerate(stages, 1)
    )
    return _figure(
        "step",
        _slider("step", "Part", len(stages) - 1, 0)
        + f'<div aria-live="polite">{inside}</div>'
        + '<div class="steps"><button type="button" id="step-back">Back</button>'
        '<button type="button" id="step-next">Next</button></div>',
    )


def _race(n: Numbers) -> str:
    race = n["race"]
    rows = "".join(
        f'<tr data-key="{r["key"]}"><th scope="row">{escape(r["name"])}</th></tr>'
        for r in race["racers"]
    )
    facts = [(r["key"], f"{escape(r['name'])}: right", f"race-{r['key']}") for r in race["racers"]]
    losses = [
        (r["key"], f"{escape(r['name'])}: loss", f"race-loss-{r['key']}") for r in race["racers"]
    ]
    last = len(race["at"]) - 1
    return (
        race_story.race_before(n)
        + _figure(
            "race",
            '<button type="button" id="race-play" aria-pressed="false">Play</button>'
            + _slider("race", "Step", last, last)
            + _draw("Share of the test digits that each network reads correctly, by step")
            + _facts(*facts)
            + _facts(*losses)
            + '<div class="wide"><table id="race-digits"><thead><tr><th scope="col">reads</th></tr>'
            f"</thead><tbody>{rows}</tbody></table></div>",
            "Upwards: digits of the test that were read correctly. Below: what each network takes"
            " ten of them for.",
        )
        + race_story.race_after(n)
    )
