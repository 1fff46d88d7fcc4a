"""Decoding image files into one uint8 tensor, with a clear word about every file that does not fit.

All images must have one size and end up with one number of channels (3, or 1 if every image is
grey). A file that cannot be decoded stops the run or is left out and counted, as the user chooses.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.training.data.base import DataOptions

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"))


def need_pillow(what: str) -> None:
    """UserError when pillow is missing."""
    if importlib.util.find_spec("PIL") is None:
        raise UserError(f"{what} needs the package pillow. Install it with: pip install pillow")


def stack_images(
    names: Sequence[str], decode: Callable[[int], Any], options: DataOptions, what: str
) -> tuple[Tensor, list[int], list[str]]:
    """Decode every image: (uint8 [N, C, H, W], indices kept, names of corrupt files).

    decode(i) returns a PIL image or raises OSError, ValueError or SyntaxError (what pillow raises
    on damaged files).
    """
    arrays: list[np.ndarray[Any, Any]] = []
    kept: list[int] = []
    corrupt: list[str] = []
    for index, name in enumerate(names):
        try:
            image = decode(index)
            image = _eight_bits(image)
            if options.resize is not None and image.size != (options.resize, options.resize):
                image = image.resize((options.resize, options.resize), resample=2)  # bilinear
            arrays.append(np.asarray(image, dtype=np.uint8))
        except (OSError, ValueError, SyntaxError) as error:
            if options.on_corrupt == "stop":
                raise UserError(
                    f"The image {name} cannot be decoded ({error}). Remove it, or leave such "
                    "images out with --on-corrupt skip."
                ) from None
            corrupt.append(name)
            continue
        kept.append(index)
    if not arrays:
        raise UserError(f"{what} holds no image that can be decoded ({len(corrupt)} corrupt).")
    _check_sizes(arrays, [names[i] for i in kept], what)
    colour = any(array.ndim == 3 for array in arrays)
    return torch.stack([_planes(array, colour) for array in arrays]), kept, corrupt


def _eight_bits(image: Any) -> Any:
    """The image in mode L (grey) or RGB; of 16 bits the upper eight."""
    if image.mode.startswith("I;16"):
        from PIL import Image

        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels have 32 bits (mode {image.mode}); save it with 8")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _planes(array: np.ndarray[Any, Any], colour: bool) -> Tensor:
    tensor = torch.from_numpy(np.array(array))
    if tensor.dim() == 3:
        return tensor.permute(2, 0, 1).contiguous()
    return tensor.expand(3 if colour else 1, *tensor.shape).contiguous()


def _check_sizes(arrays: list[np.ndarray[Any, Any]], names: list[str], what: str) -> None:
    sizes = Counter(array.shape[:2] for array in arrays)
    if len(sizes) == 1:
        return
    usual = sizes.most_common(1)[0][0]
    different = [(n, a) for n, a in zip(names, arrays, strict=True) if a.shape[:2] != usual]
    name, first = different[0]
    raise UserError(
        f"The images of {what} differ in size: {name} is {first.shape[1]}x{first.shape[0]}, most "
        f"are {usual[1]}x{usual[0]} ({len(different)} of {len(names)} differ). "
        f"Bring all of them to one size with --resize {max(usual)}."
    )
