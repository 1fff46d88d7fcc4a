"""The shapes and sizes that are probed. None of them is a layer of a network that predictions are
checked on (`validate.py`; a test compares them).

A convolution is (batch, inputs, outputs, side, kernel, stride, groups); a product (rows, inputs,
outputs); attention (heads of all examples, length, width of a head); recurrent (batch, steps,
units). As in networks, images get smaller where channels get more, and channels are multiples of
eight: a layer of twelve leaves lanes of a vector empty.

Elements of operators go from what is no more than a call, over what L2 and L3 hold, to what no
cache does. `BELOW` is 31 MiB of float32: from 32 MiB on malloc by default takes fresh pages for
every block (memory.py). Native modules have a pool of their own, and end sooner.
"""

from __future__ import annotations

from typing import Final

Conv = tuple[int, int, int, int, int, int, int]

CONVS: Final[tuple[Conv, ...]] = (
    *((24, 32, 32, 36, 3, 1, 1), (24, 96, 96, 24, 3, 1, 1), (24, 192, 192, 12, 3, 1, 1)),
    *((24, 384, 384, 6, 3, 1, 1), (24, 640, 640, 4, 3, 1, 1)),
    *((24, 48, 96, 36, 3, 2, 1), (24, 96, 192, 20, 3, 2, 1), (24, 192, 384, 12, 3, 2, 1)),
    (24, 320, 640, 8, 3, 2, 1),
    *((24, 48, 96, 36, 1, 2, 1), (24, 320, 640, 8, 1, 2, 1)),
    *((24, 3, 24, 36, 3, 1, 1), (24, 3, 96, 36, 3, 1, 1)),
)
"""Of ordinary networks: the gradient of the weights is of the recipe's own format."""

SEPARABLE: Final[tuple[Conv, ...]] = (
    *((8, 16, 64, 36, 1, 1, 1), (8, 64, 16, 36, 1, 1, 1), (8, 40, 240, 20, 1, 1, 1)),
    *((8, 240, 40, 20, 1, 1, 1), (8, 80, 448, 10, 1, 1, 1), (8, 448, 80, 10, 1, 1, 1)),
    *((24, 224, 1152, 4, 1, 1, 1), (24, 1152, 224, 4, 1, 1, 1)),
    *((24, 40, 240, 20, 1, 1, 1), (8, 144, 864, 4, 1, 1, 1)),
    *((24, 40, 40, 36, 3, 1, 40), (24, 160, 160, 18, 3, 1, 160), (24, 448, 448, 10, 3, 1, 448)),
    *((24, 1088, 1088, 4, 3, 1, 1088),),
    *((24, 72, 72, 36, 3, 2, 72), (24, 256, 256, 10, 3, 2, 256)),
    *((24, 448, 448, 2, 3, 1, 448), (24, 1088, 1088, 2, 3, 1, 1088)),
)
"""Of depthwise-separable networks, whose gradients of weights the recipe makes FP8. 1x1 layers of
few examples: quantising a large gradient in FP8 would take so much more than the product that what
is left of the difference is chance."""

PRODUCTS: Final = (
    *((48, 96, 24), (768, 384, 384), (768, 384, 1536), (768, 1536, 384), (1536, 640, 640)),
    *((192, 640, 640), (192, 640, 2560), (192, 2560, 640)),
)
WIDE_PRODUCTS: Final = (
    *((48, 640, 12), (384, 448, 320), (384, 448, 321), (192, 640, 12288), (192, 640, 12290)),
)
"""Last layers, in 16 bits on the native side: classes, then small and large vocabularies, of even
and of odd size."""

ATTENTIONS: Final = ((48, 96, 64), (48, 192, 64))
RECURRENTS: Final = ((48, 40, 384), (48, 40, 576))

TINY: Final = 64
BELOW: Final = (1 << 23) - (1 << 18)
ELEMENTS: Final = (TINY, 1 << 12, 1 << 16, 1 << 19, 1 << 21, BELOW, 1 << 24)
QUANTISED: Final = (*ELEMENTS[:4], 1 << 20, 1 << 21, 1 << 22, *ELEMENTS[5:])
MODULE_ELEMENTS: Final = (TINY, 1 << 12, 1 << 16, 1 << 19, 1 << 21)
COLUMNS: Final = 64
"""Elements lie as [rows, COLUMNS]: channels of an image, or a row that is normalised."""


def images(shape: Conv) -> tuple[int, int, int, int]:
    """The input [N, C, H, W] of a convolution.

    >>> images(CONVS[0])
    (24, 32, 36, 36)
    """
    batch, inputs, _, side, _, _, _ = shape
    return batch, inputs, side, side


def macs_of(shape: Conv) -> int:
    """Multiply-adds of each of the three products.

    >>> macs_of((1, 4, 8, 6, 3, 2, 1))
    2592
    """
    batch, inputs, outputs, side, kernel, stride, groups = shape
    out = (side + 2 * (kernel // 2) - kernel) // stride + 1
    return batch * out * out * outputs * (inputs // groups) * kernel * kernel
