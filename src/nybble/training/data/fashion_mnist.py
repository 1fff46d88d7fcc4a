"""Fashion-MNIST (Xiao et al. 2017): 60,000 train, 10,000 test images, 28 x 28, grey, 10 classes.

Read from the Debian package `dataset-fashion-mnist` (/usr/share/datasets/fashion-mnist, gzip IDX).
`fashion-mnist:DIR` reads the same four files from another folder (gzip or not).
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from nybble.errors import UserError
from nybble.training.data.base import DataOptions, Found, ImageData, Source, make_image_data
from nybble.training.data.idx import read_idx

INSTALL = "sudo apt-get install dataset-fashion-mnist"
FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def find() -> Found:
    """Look where Debian puts it."""
    there = (FOLDER / "train-images-idx3-ubyte.gz").is_file()
    return Found(str(FOLDER) if there else None, (str(FOLDER),))


def load(argument: str = "", options: DataOptions | None = None) -> ImageData:
    """Load the set from Debian's folder, or from the folder `argument`."""
    folder = Path(argument) if argument else FOLDER
    if not folder.is_dir():
        raise UserError(
            f"The data set fashion-mnist is not in {folder}. "
            f"Install it with: {INSTALL}  (or give its folder: fashion-mnist:DIR)"
        )
    return make_image_data(
        "fashion-mnist",
        _pair(folder, "train"),
        _pair(folder, "t10k"),
        CLASSES,
        augmentation="crop-flip",
    )


def _pair(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images = _read(folder, f"{part}-images-idx3-ubyte")
    labels = _read(folder, f"{part}-labels-idx1-ubyte")
    if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
        raise UserError(
            f"{folder}: the {part} files do not belong together: images {list(images.shape)}, "
            f"labels {list(labels.shape)}."
        )
    return images.unsqueeze(1), labels.long()


def _read(folder: Path, name: str) -> Tensor:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return read_idx(path)
    raise UserError(f"{folder} lacks the file {name}.gz. Install the set with: {INSTALL}")


SOURCE = Source(
    name="fashion-mnist",
    usage="fashion-mnist",
    summary="70,000 pieces of clothing, 28x28 grey: 60,000 train, 10,000 test",
    install=INSTALL,
    load=load,
    find=find,
    argument="optional",
    licence="MIT",
    tasks=("vision",),
)
