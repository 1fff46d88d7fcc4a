"""Large sets of images, decoded as they are needed: `images:DIR`, `images:hf:NAME`.

    DIR/train/<class>/*.jpg and DIR/val/<class>/*.jpg (or test, valid, validation), as ImageNet is
    usually unpacked; or a set that the `datasets` library loads by NAME (hf.py)

Only names and labels are in memory. A training image is a random part of 8 to 100 % of the area
with sides 3:4 to 4:3 (Szegedy et al. 2015), brought to size x size, mirrored half of the time; a
test image is the middle of one whose shorter side is brought to size * 256 / 224. `--resize` is
the size, 224 if not given; `--augmentation none` trains on the middle as well. Values are
normalised with ImageNet's usual means and deviations.

What a batch holds is a function of (seed, epoch, step), as in batches.py. Not done: processes of
their own for decoding; it runs in as many threads as torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nybble.errors import UserError, suggest
from nybble.training.data.base import DataOptions, Found, Source
from nybble.training.data.folder import TEST_NAMES, class_names
from nybble.training.data.images import EXTENSIONS, need_pillow
from nybble.training.seeds import generator

SIZE = 224
MARGIN = 256 / 224
AREA = (0.08, 1.0)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
KINDS = ("parts", "none")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ImageFiles:
    """A training and a test set of images that are decoded when asked for.

    train, test: what `decode` makes a PIL image of; train_y, test_y: int64 [N]; size: the side of
    the square that the model sees.
    """

    name: str
    train: Sequence[Any]
    train_y: Tensor
    test: Sequence[Any]
    test_y: Tensor
    classes: tuple[str, ...]
    size: int
    decode: Callable[[Any], Any]
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.size, self.size

    def kept(self, part: str, indices: Tensor) -> ImageFiles:
        """The set with some of the images of "train" or "test" only."""
        items, labels = getattr(self, part), getattr(self, f"{part}_y")
        changes = {part: [items[i] for i in indices.tolist()], f"{part}_y": labels[indices]}
        return replace(self, **changes)

    def fingerprint(self) -> str:
        """SHA-256 of names, sizes of files and labels, not of pixels."""
        digest = hashlib.sha256()
        for items, labels in ((self.train, self.train_y), (self.test, self.test_y)):
            digest.update(labels.numpy().tobytes())
            for item in items:
                size = item.stat().st_size if isinstance(item, Path) else 0
                digest.update(f"{getattr(item, 'name', item)} {size}\n".encode())
        return digest.hexdigest()


class FileBatches:
    """Batches of an `ImageFiles`, with the members of `batches.Batches`."""

    def __init__(
        self, data: ImageFiles, batch_size: int, seed: int, augmentation: str | None = None
    ) -> None:
        self.data = data
        self.batch_size = min(batch_size, len(data.train))
        self.seed = seed
        self.augmentation = "parts" if augmentation in (None, "auto") else str(augmentation)
        if self.augmentation not in KINDS:
            raise UserError(
                f"Unknown augmentation '{self.augmentation}' for images that are decoded as needed;"
                f" choose one of auto, {', '.join(KINDS)}.{suggest(self.augmentation, KINDS)}"
            )
        self._mean, self._std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))
        self._order: tuple[int, Tensor] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return len(self.data.train) // self.batch_size

    def batch(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """The `step`-th batch of `epoch`."""
        if self._order is None or self._order[0] != epoch:
            random = generator(self.seed, "order", epoch)
            self._order = epoch, torch.randperm(len(self.data.train), generator=random)
        chosen = self._order[1][step * self.batch_size : (step + 1) * self.batch_size]
        draws = torch.rand(
            len(chosen), 5, generator=generator(self.seed, "augment", epoch, step)
        ).tolist()
        items = [self.data.train[index] for index in chosen.tolist()]
        how: list[list[float] | None] = [*draws]
        if self.augmentation == "none":
            how = [None] * len(items)
        return self._decoded(items, how), self.data.train_y[chosen]

    def test_batch(self, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Test images start .. start + size."""
        items = [self.data.test[i] for i in range(start, min(start + size, len(self.data.test)))]
        return self._decoded(items, [None] * len(items)), self.data.test_y[start : start + size]

    def _decoded(self, items: Sequence[Any], draws: Sequence[list[float] | None]) -> Tensor:
        with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
            images = list(pool.map(self._one, items, draws))
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(torch.float32)
        return batch.sub_(self._mean).div_(self._std)

    def _one(self, item: Any, draws: list[float] | None) -> Any:
        size = self.data.size
        try:
            image = self.data.decode(item).convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"The image {item} cannot be decoded ({error}); remove it.") from None
        box = middle(image.size) if draws is None else part(image.size, draws)
        pixels = np.asarray(image.resize((size, size), resample=2, box=box), dtype=np.uint8)
        return pixels[:, ::-1] if draws is not None and draws[4] < 0.5 else pixels


def middle(size: tuple[int, int]) -> Box:
    """The square in the middle, 224/256 of the shorter side.

    >>> middle((512, 256))
    (144.0, 16.0, 368.0, 240.0)
    """
    width, height = size
    side = min(size) / MARGIN
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def part(size: tuple[int, int], draws: Sequence[float]) -> Box:
    """A random part: draws in [0, 1) decide area, sides (log-uniform), and the place.

    Where such a part would be larger than the image, its sides are cut to the image's.

    >>> part((100, 100), [1.0, 0.5, 0.0, 0.0])
    (0.0, 0.0, 100.0, 100.0)
    """
    width, height = size
    area = width * height * (AREA[0] + (AREA[1] - AREA[0]) * draws[0])
    ratio = math.exp((2 * draws[1] - 1) * math.log(4 / 3))
    wide, high = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
    left, top = (width - wide) * draws[2], (height - high) * draws[3]
    return left, top, left + wide, top + high


def find() -> Found:
    """Nowhere: only the user knows the folder."""
    return Found(None)


def load(argument: str, options: DataOptions | None = None) -> ImageFiles:
    """List the images of a folder, or load a set by its name on the Hugging Face hub."""
    need_pillow("Images in files")
    options = options or DataOptions()
    if options.on_corrupt != "stop":
        raise UserError("--on-corrupt skip is for folder:DIR; images:DIR decodes as it trains.")
    size = options.resize or SIZE
    kind, colon, name = argument.partition(":")
    if colon and kind == "hf":
        return _by_name(name, size)
    folder = Path(argument)
    train = folder / "train"
    test = next((folder / name for name in TEST_NAMES if (folder / name).is_dir()), None)
    if not train.is_dir() or test is None:
        raise UserError(
            f"images:{argument}: give a folder with train/<class>/*.jpg and val/<class>/*.jpg."
        )
    classes = class_names(train)
    if unknown := sorted(set(class_names(test)) - set(classes)):
        raise UserError(f"{test} has the class '{unknown[0]}', which {train} has not.")
    parts = [_listed(place, classes) for place in (train, test)]
    return checked(
        ImageFiles(f"images:{folder.name}", *parts[0], *parts[1], classes, size, _decode_file)
    )


def checked(data: ImageFiles) -> ImageFiles:
    """UserError if the set cannot be trained on."""
    for part_name, items in (("training", data.train), ("test", data.test)):
        if not len(items):
            raise UserError(f"{data.name}: the {part_name} set holds no images.")
    if len(data.classes) < 2:
        raise UserError(f"{data.name}: there is one class only; a classifier needs two.")
    return data


def from_splits(name: str, splits: Any, size: int) -> ImageFiles:
    """Of a mapping {split name: rows with `features`}, which stay where they are."""
    from nybble.training.data.hf import TEST_SPLITS, columns

    test = next((key for key in TEST_SPLITS if key in splits), None)
    if "train" not in splits or test is None:
        raise UserError(f"{name} needs the splits train and test (it has {', '.join(splits)}).")
    image, label = columns(name, splits["train"])
    labels = {
        key: torch.tensor([int(value) for value in list(splits[key][label])])
        for key in ("train", test)
    }
    items = {key: [(key, index) for index in range(len(found))] for key, found in labels.items()}
    names = getattr(splits["train"].features[label], "names", None)
    classes = tuple(names or map(str, range(int(labels["train"].max()) + 1)))

    def decode(item: tuple[str, int]) -> Any:
        return splits[item[0]][item[1]][image]

    parts = items["train"], labels["train"], items[test], labels[test]
    return checked(ImageFiles(name, *parts, classes, size, decode))


def _by_name(name: str, size: int) -> ImageFiles:
    from nybble.training.data.hf import load_splits

    return from_splits(f"images:hf:{name}", load_splits(name), size)


def _listed(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], Tensor]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        inside = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in EXTENSIONS)
        paths += inside
        labels += [label] * len(inside)
    return paths, torch.tensor(labels, dtype=torch.int64)


def _decode_file(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        return image.copy()


SOURCE = Source(
    name="images",
    usage="images:DIR",
    summary="large sets, decoded as needed at 224x224: DIR/train and DIR/val, or images:hf:NAME",
    install="nothing to install; the images are yours (pillow decodes them: pip install pillow)",
    load=load,
    find=find,
    argument="required",
    licence="yours",
    tasks=("vision",),
)
