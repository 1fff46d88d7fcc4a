"""Study `ablation-sun2020`: every ingredient and every open point of the recipe, one at a time.

Each line of `SETTINGS` changes one thing of `sun2020`; a setting that the recipe's version here
does not know is left out with a note. What is compared is the setting against `fp32`; the plain
recipe is a row too. The points are those that the texts leave open, and the questions about them:

    gradients, gradient_bits     base of the logarithm and bits: why four bits, why base 4?
    phases                       even, odd, both assignments, both averaged, one drawn at random
    factor                       threshold 1.6 or 1.848, or stochastic rounding
    underflow, odd_offset        the ends of the grids
    gradscale, scope             delayed, immediate, exact fit; one scale for all layers
    sawb, signed, ste            the forward side
    one_by_one, first_last       what stays wide
    accumulator                  FP16 in chunks
"""

from __future__ import annotations

from nybble.studies.ready import sizes
from nybble.studies.ready.choose import known_recipes
from nybble.studies.study.grid import FLOAT32, Study

TITLE = "What each ingredient and each open point of sun2020 is worth"

RECIPE = "sun2020"
SETTINGS = (
    "phases=odd-even",
    "phases=even-even",
    "phases=odd-odd",
    "phases=average",
    "phases=random",
    "factor=1.848",
    "factor=stochastic",
    "underflow=half",
    "odd_offset=+1",
    "phases=even-even+factor=stochastic",
    "gradients=radix2",
    "gradients=radix2+factor=stochastic",
    "gradients=base3",
    "gradients=base8",
    "gradients=base10",
    "gradient_bits=3",
    "gradient_bits=5",
    "gradients=radix2+gradient_bits=5",
    "gradients=base8+gradient_bits=3",
    "gradscale=immediate",
    "gradscale=fit",
    "gradscale_start=one",
    "scope=global",
    "sawb=ibm16",
    "sawb=luq",
    "sawb_channel=yes",
    "ste=clip",
    "signed=symmetric",
    "signed=two_sided",
    "one_by_one=hfp8",
    "one_by_one=fp16",
    "first_last=hfp8",
    "first_last=fp32",
    "first_last=int4",
    "accumulator=chunked",
)


def make(quick: bool) -> Study:
    """The study: vision, LSTM and GPT.

    >>> make(True).recipes[:3]
    ('fp32', 'sun2020', 'sun2020:phases=odd-even')
    """
    settings = [f"{RECIPE}:{setting}" for setting in SETTINGS]
    recipes, notes = known_recipes([FLOAT32, RECIPE, *settings])
    return Study(
        name="ablation-sun2020-quick" if quick else "ablation-sun2020",
        title=TITLE,
        tasks=(sizes.vision(quick), sizes.lstm(quick), sizes.gpt(quick)),
        recipes=recipes,
        seeds=(0, 1, 2) if quick else (0, 1, 2, 3, 4),
        notes=notes,
    )
