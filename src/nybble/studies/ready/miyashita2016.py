"""Study `miyashita2016`: where 5-bit logarithms fall apart, and which operand it is that does.

A leader of the recipe's group later said in the press that it fell apart as networks became more
sensitive. The recipe is therefore run on a small CNN's task and on a Transformer and an LSTM, and
one point of it is changed at a time (`recipes.miyashita2016.ABLATION`): gradients rounded at random
or not at all, the first and last layer in FP16, four bits. `int8` is the row beside it that has the
same codes' storage within a factor of two and a mantissa.
"""

from __future__ import annotations

from nybble.recipes.miyashita2016 import ABLATION
from nybble.studies.ready import sizes
from nybble.studies.study.grid import FLOAT32, Study

TITLE = "Where 5-bit logarithms fall apart"


def make(quick: bool) -> Study:
    """The study; the quick form has two tasks and three seeds.

    >>> make(True).recipes[:2]
    ('fp32', 'miyashita2016')
    """
    return Study(
        name="miyashita2016-quick" if quick else "miyashita2016",
        title=TITLE,
        tasks=(sizes.vision(quick), sizes.gpt(quick), *(() if quick else (sizes.lstm(quick),))),
        recipes=(FLOAT32, *ABLATION, "int8"),
        seeds=(0, 1, 2) if quick else (0, 1, 2, 3, 4),
    )
