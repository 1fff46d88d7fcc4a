"""Scale, rounding and their composition; packing; counter-based random bits; fixed-order sums."""

from nybble.formats import LogNearest, Nearest, Rounding, Stochastic
from nybble.quantizers.packing import (
    pack4,
    pack_bits,
    pack_codes,
    unpack4,
    unpack_bits,
    unpack_codes,
)
from nybble.quantizers.qtensor import QTensor
from nybble.quantizers.quantizer import Quantizer, get_quantizer, quantize
from nybble.quantizers.random import RandomKey, random24
from nybble.quantizers.scales import (
    LSQ,
    PACT,
    SAWB,
    AbsMax,
    BestOfTwo,
    Eden,
    Fit,
    FourOverSix,
    GradScale,
    Hindsight,
    MinMax,
    Quest,
    RowLeastSquares,
    ScaleConfig,
    SplitRows,
    StatefulScale,
    Unit,
    absolute_max,
)
from nybble.quantizers.sums import per_channel_sum, tree_mean, tree_sum
from nybble.quantizers.transforms import Hadamard

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
    "Hadamard",
    "Hindsight",
    "LogNearest",
    "MinMax",
    "Nearest",
    "QTensor",
    "Quantizer",
    "Quest",
    "RandomKey",
    "Rounding",
    "RowLeastSquares",
    "ScaleConfig",
    "SplitRows",
    "StatefulScale",
    "Stochastic",
    "Unit",
    "absolute_max",
    "get_quantizer",
    "pack4",
    "pack_bits",
    "pack_codes",
    "per_channel_sum",
    "quantize",
    "random24",
    "tree_mean",
    "tree_sum",
    "unpack4",
    "unpack_bits",
    "unpack_codes",
]
