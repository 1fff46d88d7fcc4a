"""The measures of a look (watching/measure.py) in plain words, and how the heat map colours them.

worse    "high" or "low": which end is bad; "apart": the farther from 1; "none": neither
ends     where the colours begin (good) and end (bad), before they are widened to what was seen;
         "log" measures are coloured by their logarithm
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from nybble.reports.run.looks import CODINGS

__all__ = ["MEASURES", "OPERAND_WORDS", "Measure", "for_script"]


@dataclass(frozen=True)
class Measure:
    """See the module."""

    key: str
    label: str
    says: str
    worse: str
    ends: tuple[float, float]

    @property
    def coding(self) -> str:
        """How looks.py writes it."""
        return CODINGS[self.key]


MEASURES: Final = (
    Measure(
        "underflow",
        "lost to zero (underflow)",
        "The share of the numbers that were not zero and became zero. A few per cent do no harm; "
        "when nearly all of a gradient is lost, its layer stops learning. Recipes that round at "
        "random (luq) lose half and more on purpose: what is left makes up for it on average.",
        "high",
        (0.0, 0.2),
    ),
    Measure(
        "saturation",
        "cut off at the top (saturation)",
        "The share of the numbers beyond the largest value of the format, which are cut off. Near "
        "zero is good; in a gradient more than 2 % again and again raises an alarm.",
        "high",
        (0.0, 0.05),
    ),
    Measure(
        "snr_db",
        "signal to noise (dB)",
        "How much stronger the numbers are than the rounding error, in decibels: 10 dB means ten "
        "times, 20 dB a hundred times the power. Higher is better; gradients of 4 bits have 5 to "
        "12 dB, weights and inputs about 15 to 20 dB.",
        "low",
        (30.0, 5.0),
    ),
    Measure(
        "cosine",
        "direction kept (cosine)",
        "Whether the rounded numbers point the same way as the exact ones: 1 is the same "
        "direction, 0 means that nothing is left of it. Above 0.9 is usual.",
        "low",
        (1.0, 0.8),
    ),
    Measure(
        "norm_ratio",
        "length kept (norm ratio)",
        "Length after rounding divided by length before. 1 is good; well below 1 the numbers were "
        "cut off or lost, above 1 rounding added noise.",
        "apart",
        (1.0, 1.25),
    ),
    Measure(
        "used",
        "codes in use, of 16",
        "How many of the 16 codes occur. Most of them is good: a format of which two codes are "
        "used says as little as one bit. Grey: the operand has more than 4 bits.",
        "low",
        (16.0, 2.0),
    ),
    Measure(
        "noise_ratio",
        "gradient to noise",
        "Length of the numbers divided by the length of their rounding error. Published work finds "
        "that a gradient below 1.7 (the root of 3) is where training in few bits stops to pay.",
        "low",
        (10.0, 1.0),
    ),
    Measure(
        "zeros",
        "zero before rounding",
        "The share of the numbers that were exactly zero before they were rounded. Half is normal "
        "behind a ReLU; all of them means that the layer is dead.",
        "high",
        (0.0, 1.0),
    ),
    Measure(
        "flips",
        "weights going back and forth",
        "The share of the weights that jump to another code and back within a few steps. Near "
        "zero is good; more than 10 % raises an alarm. Only weights have it.",
        "high",
        (0.0, 0.1),
    ),
    Measure(
        "scale",
        "scale",
        "The number that the format's values are multiplied with. It is neither good nor bad, but "
        "a scale that jumps or runs away explains what else goes wrong.",
        "none",
        (1.0, 1.0),
    ),
    Measure(
        "alpha",
        "learned clip (PACT)",
        "Where inputs are cut off, which the network learns itself. It should settle; a clip that "
        "falls to zero or grows without end raises an alarm. Only inputs of some recipes have it.",
        "none",
        (1.0, 1.0),
    ),
)

OPERAND_WORDS: Final = {
    "input": "input: what comes into the layer",
    "weight": "weight: what the layer has learned",
    "grad_input": "gradient, on its way to the layer below",
    "grad_weight": "gradient, on its way to the weight",
}


def for_script() -> list[dict[str, Any]]:
    """What the page's script needs of them."""
    return [{**asdict(measure), "coding": measure.coding} for measure in MEASURES]
