"""Which measured row a Gemm belongs to: the kernel that runs it, and the size its rate follows.

kernel              Gemms
matmul              of linear layers
matmul_odd          of them those whose result has rows of no multiple of eight numbers, as a
                    vocabulary of 30,522 words: every row begins inside a vector
conv, conv_stride   k x k convolutions of stride 1, and of a larger one
conv1x1             and conv1x1_stride: one tap
conv1x1_wide        of them output or grad_input with more results than sums (n > k): such a product
                    writes most of what it moves, and writing costs more than reading
conv1x1_long        of them grad_weight whose sum is at least 16 times as long as the result is on
                    its longer side, and conv1x1_short, where it is less than half of that: a long
                    sum reads, a short one writes
depthwise           and depthwise_stride: one input channel a group
depthwise_small     the same on images of fewer pixels than the kernel has taps, for which torch's
                    library has no fast gradient of weights
stem                k x k with at most four input channels: images
attention           many products of one shape, without a weight: they run fused with the softmax
attention_causal    the same where the layer builds a triangular mask, half of which is not computed
recurrent           of a weight_ih, weight_hh or weight_hr: one loop over time, gates included

A rate is looked up by one number. For products it is the harmonic mean of the three dimensions,

    size = 3 / (1/m + 1/n + 1/k)

since packing, reading and writing cost one element of each operand and of the result for 1/n,
1/m and 1/k multiply-adds: a side s for a cube of side s. For convolutions with several taps it
is the geometric mean of input and output channels (a depthwise one: its channels; a stem: its
output channels), as their kernels cut the image into tiles whatever its size. For recurrent
layers it is the side of a square weight of as many elements.

A kernel without a row takes the row of its name before the underscore.

Not done here: a second number. Few rows against many columns and the reverse are one size, and so
are many small images and few large ones.
"""

from __future__ import annotations

import math
from typing import Final

from nybble.hardware.kinds import GRAD_INPUT, GRAD_WEIGHT
from nybble.hardware.operation import Gemm
from nybble.hardware.tasks import Task

__all__ = ["ATTENTION", "RECURRENT", "channels", "is_recurrent", "kernel_of", "owner_of", "size_of"]

ATTENTION: Final = "attention"
RECURRENT: Final = "recurrent"
STEM_CHANNELS: Final = 4
LANES: Final = 8
LONG: Final = 16.0
SHORT: Final = 0.5
_WEIGHTS: Final = ("weight_ih", "weight_hh", "weight_hr")


def is_recurrent(layer: str) -> bool:
    """Whether a Gemm's layer is a weight of a recurrent module.

    >>> is_recurrent("lstm.weight_hh_l0"), is_recurrent("lstm")
    (True, False)
    """
    return layer.rpartition(".")[2].startswith(_WEIGHTS)


def owner_of(layer: str) -> str:
    """The recurrent module of such a layer.

    >>> owner_of("a.lstm.weight_hh_l0"), owner_of("weight_ih_l0")
    ('a.lstm', '')
    """
    return layer.rpartition(".")[0]


def channels(gemm: Gemm) -> tuple[int, int]:
    """(input, output) channels of a convolution's Gemm, of one group."""
    if gemm.which == GRAD_WEIGHT:
        return gemm.n // gemm.taps, gemm.m
    if gemm.which == GRAD_INPUT:
        return gemm.n, gemm.k // gemm.taps
    return gemm.k // gemm.taps, gemm.n


def kernel_of(task: Task, causal: bool = False) -> str:
    """The kernel's name in the table; `causal`: whether the layer builds a triangular mask."""
    gemm = task.gemm
    assert gemm is not None
    if is_recurrent(task.layer):
        return RECURRENT
    if gemm.kernel == "matmul":
        if gemm.count == 1:
            return "matmul_odd" if gemm.n % LANES else "matmul"
        return f"{ATTENTION}_causal" if causal else ATTENTION
    if gemm.kernel == "conv" and channels(gemm)[0] <= STEM_CHANNELS:
        return "stem"
    if gemm.kernel == "depthwise" and 0 < gemm.image < gemm.taps:
        return "depthwise_small"
    if gemm.kernel == "conv1x1" and gemm.stride == 1:
        return _one_by_one(gemm)
    return f"{gemm.kernel}_stride" if gemm.stride > 1 else gemm.kernel


def _one_by_one(gemm: Gemm) -> str:
    if gemm.which != GRAD_WEIGHT:
        return "conv1x1_wide" if gemm.n > gemm.k else "conv1x1"
    times = gemm.k / max(gemm.m, gemm.n)
    return "conv1x1_long" if times >= LONG else "conv1x1_short" if times < SHORT else "conv1x1"


def size_of(gemm: Gemm, kernel: str) -> float:
    """What the rate of `kernel` is looked up by; see the module.

    >>> from nybble.hardware.operation import Access
    >>> x = Access(0, 1)
    >>> size_of(Gemm("output", 1, 64, 64, 64, x, x, x), "matmul")
    64.0
    """
    if kernel == RECURRENT:
        weights = gemm.m * gemm.n if gemm.which == GRAD_WEIGHT else gemm.n * gemm.k
        return math.sqrt(weights)
    if gemm.kernel == "depthwise":
        return float(gemm.count)
    if kernel == "stem":
        return float(channels(gemm)[1])
    if gemm.kernel == "conv":
        return math.sqrt(math.prod(channels(gemm)))
    return 3.0 / (1.0 / gemm.m + 1.0 / gemm.n + 1.0 / gemm.k)
