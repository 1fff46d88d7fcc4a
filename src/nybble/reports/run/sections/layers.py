"""The looks at the layers: heat map over time, one layer's histograms and numbers."""

from __future__ import annotations

from html import escape

from nybble.reports.run.data import Run
from nybble.reports.run.markup import bullets, details, number, prose, section, table
from nybble.reports.run.measures import MEASURES, OPERAND_WORDS
from nybble.reports.run.sections.content import Content

__all__ = ["histograms", "layers"]

SENTENCE = (
    "Each row is a layer, each column a moment of training, and the colour says how much was lost "
    "when numbers were squeezed into few bits: the more a cell stands out from the page, the "
    "worse. Pale all over is good; a row that stands out is the layer to look at."
)
ONE_LAYER = (
    "Four bits can say 16 values; each bar stands at one of them and shows how often it was used. "
    "Good: most bars are used, and none towers at an end (the scale is too small) or at zero (the "
    "scale is too large)."
)
MOST_ROWS = 1600
NONE = (
    "This run has no looks at its layers: it was trained in float32, with --watch 0, or it ended "
    "before the first look. `nybble train ... --watch 100` looks at every layer once in 100 steps."
)


def layers(content: Content) -> str:
    """The heat map's section, with the controls of both sections."""
    watched = [run for run in content.runs if run.looks is not None]
    if not watched:
        text = NONE if content.one else NONE.replace("This run has", "These runs have")
        return section("layers", "Layers over time", SENTENCE, f"<p>{prose(text)}</p>")
    figure = (
        '<figure class="js" data-figure="heat"><figcaption></figcaption></figure>'
        '<p class="js hint">Choose a cell with the mouse, a finger, or the arrow keys: its layer '
        "and step are shown below.</p>"
    )
    notes = []
    drawn = [run.looks for run in watched if run.looks is not None]
    if any(len(looks.steps) < looks.total / looks.every for looks in drawn):
        notes.append("Where there are more looks than columns, a column shows its last look.")
    return section(
        "layers",
        "Layers over time",
        SENTENCE,
        _controls(content, watched),
        figure,
        bullets(notes),
        _tables(content, watched),
    )


def _controls(content: Content, watched: list[Run]) -> str:
    places = [i for i, run in enumerate(content.runs) if run.looks is not None]
    chooser = ""
    if len(watched) > 1:
        options = "".join(
            f'<option value="{i}">{escape(content.label(content.runs[i]))}</option>' for i in places
        )
        chooser = f'<label>Run <select id="choose-run">{options}</select></label>'
    measures = "".join(f'<option value="{m.key}">{escape(m.label)}</option>' for m in MEASURES)
    operands = "".join(
        f'<option value="{key}">{escape(words)}</option>' for key, words in OPERAND_WORDS.items()
    )
    return (
        f'<div class="controls js">{chooser}'
        f'<label>Measure <select id="choose-measure">{measures}</select></label>'
        f'<label>Of <select id="choose-operand">{operands}</select></label></div>'
        '<p class="js" id="measure-says" aria-live="polite"></p>'
    )


def histograms(content: Content) -> str:
    """One layer at one step: histograms on the formats' own grids, its numbers, its curves."""
    if not any(run.looks is not None for run in content.runs):
        return ""
    controls = (
        '<div class="controls js"><label>Layer <select id="choose-layer"></select></label>'
        '<label class="grow">Step <input type="range" id="choose-step" min="0" max="0" value="0">'
        ' <output id="step-says"></output></label>'
        '<label><input type="checkbox" id="tall"> small bars larger</label></div>'
    )
    figures = "".join(
        f'<figure class="js" data-figure="bars-{operand}"><figcaption></figcaption></figure>'
        for operand in OPERAND_WORDS
    )
    return section(
        "layer",
        "One layer, one step",
        ONE_LAYER,
        controls,
        f'<div class="figures small">{figures}</div>',
        '<div class="js wide" id="numbers" tabindex="0" role="region" aria-label="table"></div>',
        '<figure class="js" data-figure="over-time"><figcaption></figcaption></figure>',
        '<p class="no-js">The histograms are drawn by the page\'s script.</p>',
    )


def _tables(content: Content, watched: list[Run]) -> str:
    """The last look at every layer of each run, as far as there is room."""
    found: list[str] = []
    room = MOST_ROWS
    for run in watched:
        rows = _rows(run)
        if len(rows) > room:
            found.append(f"<p>No room for {escape(content.label(run))}.</p>")
            continue
        room -= len(rows)
        who = "" if content.one else f"<h3>{escape(content.label(run))}</h3>"
        found.append(who + table(("layer", "operand", "format", "step", *_COLUMNS.values()), rows))
    return details("The last look at every layer, as a table", "".join(found))


def _rows(run: Run) -> list[list[str]]:
    looks = run.looks
    rows: list[list[str]] = []
    if looks is None:
        return rows
    for name in looks.shown:
        for operand in OPERAND_WORDS:
            look = looks.last.get((name, operand))
            if look is None:
                continue
            rows.append(
                [
                    name or "(the model)",
                    operand,
                    str(look.get("format")),
                    number(look.get("step"), 9),
                    *(number(look.get(key)) for key in _COLUMNS),
                ]
            )
    return rows


_COLUMNS = {
    "used": "codes used",
    "underflow": "underflow",
    "saturation": "saturation",
    "snr_db": "SNR, dB",
    "cosine": "cosine",
    "norm_ratio": "norm ratio",
    "scale": "scale",
}
