"""`nybble explain`: 4-bit training told on one HTML page, every number computed by the library.

    picture.py   the reader's picture, or a drawn one        digits.py   what the networks learn
    networks.py  the network, and the recipe INT4 everywhere
    walk.py      a short float32 training, for real weights, inputs and gradients
    numbers.py   all figures of the page as a dict: scales.py, phases.py and step.py make parts
    race.py      three ways to train, step by step
    story.py     the text around the numbers, with step_story.py and race_story.py
    words.py     numbers as a reader sees them
    page.py      the page: text, data, style.css, script.js

The script rounds nothing: for every position of every slider it finds the answer in a table that
the formats and quantizers of this package filled.
"""

from nybble.reports.explain.numbers import Cast, Plan, collect
from nybble.reports.explain.page import page, write_page

__all__ = ["Cast", "Plan", "collect", "page", "write_page"]
