"""CIFAR-10 (Krizhevsky 2009) from its binary files: `cifar10:DIR`, 32 x 32, colour, 10 classes.

Format (www.cs.toronto.edu/~kriz/cifar.html, "binary version"): records of 3,073 bytes, the label
and 1,024 red, 1,024 green, 1,024 blue pixels, row by row. data_batch_*.bin are the training set,
test_batch.bin the test set; they may be in DIR or in DIR/cifar-10-batches-bin. Class names come
from batches.meta.txt where it is there. The pickled Python version is not read: nybble loads no
pickle.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.training.data.base import DataOptions, Found, ImageData, Source, make_image_data

INSTALL = (
    "no package carries it: get cifar-10-binary.tar.gz from "
    "https://www.cs.toronto.edu/~kriz/cifar.html and give the folder: cifar10:DIR"
)
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_RECORD = 1 + 3 * 32 * 32


def find() -> Found:
    """Nowhere: only the user knows the folder."""
    return Found(None)


def load(argument: str, options: DataOptions | None = None) -> ImageData:
    """Load the binary files in the folder `argument`."""
    folder = Path(argument)
    if (folder / "cifar-10-batches-bin").is_dir():
        folder = folder / "cifar-10-batches-bin"
    train = sorted(folder.glob("data_batch_*.bin"))
    test = folder / "test_batch.bin"
    if not train or not test.is_file():
        pickled = (
            " (data_batch_1 there is the Python version)"
            if (folder / "data_batch_1").is_file()
            else ""
        )
        raise UserError(
            f"{folder} holds no data_batch_*.bin and test_batch.bin{pickled}. CIFAR-10's binary "
            f"version is needed; {INSTALL}"
        )
    parts = [_read(path) for path in train]
    return make_image_data(
        "cifar10",
        (torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])),
        _read(test),
        _class_names(folder),
        augmentation="crop-flip",
    )


def _read(path: Path) -> tuple[Tensor, Tensor]:
    raw = path.read_bytes()
    if len(raw) % _RECORD or not raw:
        raise UserError(
            f"{path} is damaged: its {len(raw)} bytes are not a whole number of records of "
            f"{_RECORD} bytes."
        )
    records = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(-1, _RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), records[:, 0].long()


def _class_names(folder: Path) -> tuple[str, ...]:
    names = folder / "batches.meta.txt"
    if names.is_file():
        found = tuple(line.strip() for line in names.read_text().splitlines() if line.strip())
        if len(found) == len(CLASSES):
            return found
    return CLASSES


SOURCE = Source(
    name="cifar10",
    usage="cifar10:DIR",
    summary="60,000 colour images, 32x32, 10 classes: 50,000 train, 10,000 test (binary version)",
    install=INSTALL,
    load=load,
    find=find,
    argument="required",
    licence="not stated by its authors",
    tasks=("vision",),
)
