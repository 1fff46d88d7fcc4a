"""Scales: how the real range is mapped on a format. One file each, one formula each."""

from nybble.quantizers.scales.absmax import AbsMax
from nybble.quantizers.scales.best import BestOfTwo
from nybble.quantizers.scales.eden import Eden, RowLeastSquares
from nybble.quantizers.scales.fit import Fit, ScaleConfig, scale_from_dict
from nybble.quantizers.scales.four_over_six import FourOverSix
from nybble.quantizers.scales.gradscale import GradScale, absolute_max
from nybble.quantizers.scales.hindsight import Hindsight
from nybble.quantizers.scales.lsq import LSQ
from nybble.quantizers.scales.minmax import MinMax
from nybble.quantizers.scales.pact import PACT
from nybble.quantizers.scales.quest import Quest
from nybble.quantizers.scales.sawb import SAWB
from nybble.quantizers.scales.split_rows import SplitRows
from nybble.quantizers.scales.stateful import StatefulScale
from nybble.quantizers.scales.unit import Unit

__all__ = [
    "LSQ",
    "PACT",
    "SAWB",
    "AbsMax",
    "BestOfTwo",
    "Eden",
    "Fit",
    "FourOverSix",
    "GradScale",
    "Hindsight",
    "MinMax",
    "Quest",
    "RowLeastSquares",
    "ScaleConfig",
    "SplitRows",
    "StatefulScale",
    "Unit",
    "absolute_max",
    "scale_from_dict",
]
