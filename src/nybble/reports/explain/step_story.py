"""The text of one training step, part by part; the numbers are those of step.py.

As in story.py no sentence has a digit of its own.

Not done here: the slider.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nybble.reports.explain.words import paragraphs, spelled, table

Numbers = Mapping[str, Any]


def step_before(n: Numbers) -> str:
    b = n["bits"]
    return paragraphs(
        "Here is one round of a tiny layer, from the beginning to the end. It takes"
        f" {spelled(len(n['step']['x']))} numbers in, the brightness of as many dots of the picture"
        f" above, and gives {spelled(len(n['step']['wanted']))} numbers out. On the"
        f" left stands what a computer does with {b['wide']} bits, on the right what happens with"
        f" {b['width']}."
    )


def stages(n: Numbers) -> list[tuple[str, str, str]]:
    """(name, sentence, table) of every part of the step."""
    s, b = n["step"], n["bits"]
    wide, narrow = f"{b['wide']} bits", f"{b['width']} bits"
    plain, four = s["float"], s["four"]
    return [
        (
            "the inputs",
            "The brightnesses go in. Each is laid on a ruler and becomes a code.",
            table(
                ("input", wide, narrow),
                [
                    (f"dot {k}", x, _code(q))
                    for k, (x, q) in enumerate(zip(s["x"], s["qx"], strict=True), 1)
                ],
            ),
        ),
        (
            "the weights",
            "The layer has one weight for each input and each output. They become codes as well.",
            table(
                ("weight", wide, narrow),
                list(zip(_places(s), s["w"], map(_code, s["qw"]), strict=True)),
            ),
        ),
        (
            "the outputs",
            "Each output is the sum of inputs times weights. With codes, only small whole numbers"
            " are multiplied. The two rulers come in once, at the end.",
            table(
                ("output", wide, narrow, "wanted"),
                [
                    (f"{k}", a, q, t)
                    for k, (a, q, t) in enumerate(
                        zip(plain["y"], four["y"], s["wanted"], strict=True), 1
                    )
                ],
            ),
        ),
        (
            "the error",
            "The outputs are compared with what was wanted. The differences are the gradients of"
            " the outputs. The loss says in one number how wrong the layer is.",
            table(
                ("", wide, narrow),
                [
                    *(
                        (f"gradient {k}", a, q)
                        for k, (a, q) in enumerate(zip(plain["dy"], four["dy"], strict=True), 1)
                    ),
                    ("loss", plain["loss"][0], four["loss"][0]),
                ],
            ),
        ),
        (
            "the scale of the gradients",
            f"The largest gradient has the size {s['largest']}. The ruler ends at {s['top']}. So"
            f" all are multiplied by {s['scale']}, the power of two that brings the largest into"
            " the upper half of the ruler.",
            table(
                ("gradient", narrow, "scaled"),
                [
                    (f"{k}", a, q)
                    for k, (a, q) in enumerate(zip(four["dy"], s["scaled"], strict=True), 1)
                ],
            ),
        ),
        (
            "rounding in two phases",
            "Each gradient is rounded twice, on the even ruler and on the odd one.",
            table(
                ("gradient", "scaled", "even", "odd"),
                [
                    (f"{k}", v, _code(e), _code(o))
                    for k, (v, e, o) in enumerate(
                        zip(s["scaled"], s["even"], s["odd"], strict=True), 1
                    )
                ],
            ),
        ),
        (
            "what is passed on",
            "Even gradients times weights: this tells the layer below how its outputs should"
            " change.",
            table(
                ("input", wide, narrow),
                [
                    (f"dot {k}", a, q)
                    for k, (a, q) in enumerate(zip(plain["dx"], four["dx"], strict=True), 1)
                ],
            ),
        ),
        (
            "how the weights should change",
            "Odd gradients times inputs: one number for each weight.",
            table(
                ("weight", wide, narrow),
                list(zip(_places(s), plain["dw"], four["dw"], strict=True)),
            ),
        ),
        (
            "the new weights",
            f"Each weight moves against its gradient, by {s['rate']} times as much. The weights"
            f" themselves are kept with {b['wide']} bits, or small changes would never add up. In"
            f" the next round they become codes again: {s['changed']} of {len(s['w'])} codes are"
            " other ones now.",
            table(
                ("weight", f"{wide}", f"{narrow}", "next code"),
                list(
                    zip(
                        _places(s),
                        plain["w_after"],
                        four["w_after"],
                        map(_code, s["codes_after"]),
                        strict=True,
                    )
                ),
            ),
        ),
        (
            "is it better now?",
            "The same inputs once more, with the new weights.",
            table(
                ("loss", wide, narrow),
                [
                    ("before", plain["loss"][0], four["loss"][0]),
                    ("after", plain["loss_after"][0], four["loss_after"][0]),
                ],
            ),
        ),
    ]


def _places(s: Mapping[str, Any]) -> list[str]:
    inputs = len(s["x"])
    return [f"dot {k % inputs + 1} → output {k // inputs + 1}" for k in range(len(s["w"]))]


def _code(q: Mapping[str, str]) -> str:
    return f'{q["value"]} <span class="bitsmall">code {q["bits"]} = {q["level"]}</span>'
