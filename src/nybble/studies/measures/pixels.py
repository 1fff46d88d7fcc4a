"""What can happen to a picture: blur, contrast, brightness, translation, occlusion.

    blur          Gaussian, deviation of 0.5, 0.75, 1 pixels, kernel of 3 deviations to each side
    contrast      mean + f (x - mean) of each image, f = 0.75, 0.5, 0.25
    brightness    x + b, b = 0.02, 0.05, 0.1 of the range
    translation   1/16, 1/8, 1/4 of the side, in one of the eight directions, behind it black
    occlusion     a black square of 1/4, 3/8, 1/2 of the side, at a random place

All act on pixels in [0, 255], before normalisation, and are clipped to that range. The kinds are
those that Hendrycks and Dietterich 2019 (arXiv 1903.12261) and DeVries and Taylor 2017 (arXiv
1708.04552, occlusion) use; the three levels are this file's own, not those of ImageNet-C, so the
numbers compare recipes here and nothing else: mild, because a small network trained for minutes
is at chance level beyond. Places and directions come from the generator that
is given.

Not done: JPEG, weather, motion blur.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Corruption = Callable[[Tensor, float, torch.Generator], Tensor]
"""(float32 [N, C, H, W] in [0, 255], how much, random numbers) -> the same, perhaps outside."""


def blur(pixels: Tensor, deviation: float, random: torch.Generator) -> Tensor:
    """Gaussian blur, the border pixels repeated outside.

    >>> blur(torch.full((1, 1, 4, 4), 7.0), 1.0, torch.Generator()).round().unique()
    tensor([7.])
    """
    reach = max(1, math.ceil(3 * deviation))
    place = torch.arange(-reach, reach + 1, dtype=torch.float32)
    line = torch.exp(-place.square() / (2 * deviation**2))
    line /= line.sum()
    channels = pixels.shape[1]
    padded = F.pad(pixels, (reach,) * 4, mode="replicate")
    rows = F.conv2d(padded, line.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(rows, line.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def contrast(pixels: Tensor, factor: float, random: torch.Generator) -> Tensor:
    """Every image's values drawn towards its own mean.

    >>> contrast(torch.tensor([0.0, 100.0]).view(1, 1, 1, 2), 0.5, torch.Generator()).flatten()
    tensor([25., 75.])
    """
    mean = pixels.mean((1, 2, 3), keepdim=True)
    return mean + factor * (pixels - mean)


def brightness(pixels: Tensor, share: float, random: torch.Generator) -> Tensor:
    """A share of the range added to every pixel.

    >>> brightness(torch.zeros(1, 1, 1, 1), 0.2, torch.Generator()).item()
    51.0
    """
    return pixels + 255.0 * share


def translation(pixels: Tensor, share: float, random: torch.Generator) -> Tensor:
    """Every image moved by a share of its side in one of eight directions; what appears is black.

    >>> moved = translation(torch.ones(1, 1, 4, 4), 0.25, torch.Generator().manual_seed(0))
    >>> 9.0 <= moved.sum().item() <= 12.0
    True
    """
    count, _, height, width = pixels.shape
    down, right = max(1, round(share * height)), max(1, round(share * width))
    directions = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]
    chosen = torch.randint(0, len(directions), (count,), generator=random)
    signs = torch.tensor(directions)[chosen]
    rows = torch.arange(height) - down * signs[:, :1]  # [N, H]: where each row comes from
    columns = torch.arange(width) - right * signs[:, 1:]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None, :
    ]
    image = torch.arange(count)[:, None, None]
    taken = pixels.permute(0, 2, 3, 1)[
        image, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    ]
    return (taken * inside[..., None]).permute(0, 3, 1, 2)


def occlusion(pixels: Tensor, share: float, random: torch.Generator) -> Tensor:
    """A black square of a share of the side in every image, wholly inside it.

    >>> occlusion(torch.ones(1, 1, 4, 4), 0.5, torch.Generator().manual_seed(0)).sum().item()
    12.0
    """
    count, _, height, width = pixels.shape
    side = max(1, round(share * min(height, width)))
    draws = torch.rand(2, count, 1, generator=random)
    top = (draws[0] * (height - side + 1)).long()
    left = (draws[1] * (width - side + 1)).long()
    rows, columns = torch.arange(height), torch.arange(width)
    covered = ((rows >= top) & (rows < top + side))[:, :, None] & (
        (columns >= left) & (columns < left + side)
    )[:, None, :]
    return pixels.masked_fill(covered[:, None], 0.0)


CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "blur": (blur, (0.5, 0.75, 1.0)),
    "contrast": (contrast, (0.75, 0.5, 0.25)),
    "brightness": (brightness, (0.02, 0.05, 0.1)),
    "translation": (translation, (1 / 16, 1 / 8, 1 / 4)),
    "occlusion": (occlusion, (1 / 4, 3 / 8, 1 / 2)),
}
"""Name -> (what it does, how much at the three levels). A new kind is one function and one line."""
