"""The picture of the page: the reader's own, or a lake at sunrise that is drawn here.

A picture is 8-bit grey values, at most `SIDE` pixels on its longer side. The drawn one has what
shows coarse levels best: a sky that brightens slowly, and edges.

    sky       grows from dark above to bright at the horizon, plus a glow exp(-(r / R)^1.5)
    hills     two ridges, each a sum of sines, the farther the paler
    lake      the sky mirrored, darkened, with ripples that widen towards the viewer

Not done here: colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nybble.errors import UserError
from nybble.training.data.images import need_pillow

SIDE = 240
Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """grey: uint8 [H, W]; name: what the page calls it; own: whether the reader gave it."""

    grey: Grey
    name: str
    own: bool


def load_picture(path: Path) -> Picture:
    """Read a picture with Pillow, upright, on white, made grey and small.

    Raises:
        UserError: Pillow is missing, or the file is, or it is no picture.
    """
    need_pillow("--picture")
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            upright: Any = ImageOps.exif_transpose(opened)
            image = _grey(upright)
            image.thumbnail((SIDE, SIDE))
            values = np.asarray(image, dtype=np.uint8).copy()
    except FileNotFoundError:
        raise UserError(f"--picture {path}: there is no such file.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"--picture {path} cannot be read as a picture ({error}).") from None
    return Picture(values, path.name, own=True)


def _grey(image: Any) -> Any:
    from PIL import Image

    if image.mode[0] in "IF":  # 16 bits or more: the range that is there becomes 0 .. 255
        deep = np.nan_to_num(np.asarray(image, dtype=np.float64))
        low, high = float(deep.min()), float(deep.max())
        scaled = (deep - low) * (255.0 / (high - low) if high > low else 0.0)
        return Image.fromarray(np.rint(scaled).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("L")


def drawn_picture(width: int = 240, height: int = 160) -> Picture:
    """The lake at sunrise; the same pixels every time.

    >>> drawn_picture().grey.shape
    (160, 240)
    """
    x = np.linspace(0.0, 1.0, width)[None, :]
    y = np.linspace(0.0, 1.0, height)[:, None]
    horizon, sun_x, sun_y = 0.62, 0.66, 0.44
    aspect = width / height

    def sky(v: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        distance = np.hypot((x - sun_x) * aspect, v - sun_y)
        glow = 0.42 * np.exp(-((distance / 0.28) ** 1.5))
        disc = 1.0 / (1.0 + np.exp((distance - 0.062) * 260.0))
        base = 0.16 + 0.50 * np.clip(v / horizon, 0.0, 1.0) ** 1.4
        shown: npt.NDArray[np.float64] = np.clip(base + glow, 0.0, 0.93) * (1 - disc) + 0.99 * disc
        return shown

    image = sky(y)
    for ridge, (top, rough, grey) in enumerate(((0.50, 0.050, 0.46), (0.55, 0.040, 0.30))):
        line = top + rough * sum(
            np.sin((3 + 4 * k) * x * 2.1 + 1.7 * k + 2.3 * ridge) / (1 + k) for k in range(4)
        )
        image = np.where(y > line, grey + 0.16 * (y - line) / 0.2, image)
    mirrored = sky(2 * horizon - y)
    depth = np.clip((y - horizon) / (1 - horizon), 0.0, 1.0)
    ripple = np.sin(52.0 * np.sqrt(depth + 0.02) * (1.0 + 0.04 * np.sin(9 * x)) + 14 * x)
    lake = 0.78 * mirrored + 0.07 * ripple * (0.3 + depth) - 0.14 * depth
    image = np.where(y > horizon, lake, image)
    shore = 0.93 - 0.10 * np.exp(-(((x - 0.05) / 0.22) ** 2)) + 0.008 * np.sin(31 * x)
    image = np.where(y > shore, 0.05 + 0.05 * np.sin(90 * x) ** 2, image)
    for place, base, tall in ((0.10, 0.90, 0.46), (0.19, 0.92, 0.34), (0.04, 0.92, 0.30)):
        # A fir: a triangle with a toothed edge.
        up = (base - y) / tall
        half = 0.052 * (1 - up) * (0.72 + 0.28 * ((up * 7) % 1.0 < 0.5))
        image = np.where((up > 0) & (up < 1) & (np.abs(x - place) < half), 0.06, image)
    return Picture(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), "lake at sunrise", False)
