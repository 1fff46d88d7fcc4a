"""What a set of images is: one uint8 tensor in memory, its labels, and where it came from.

The whole set stays in memory as bytes (Fashion-MNIST: 55 MB); floats exist one batch at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from nybble.errors import UserError


@dataclass(frozen=True)
class ImageData:
    """A training and a test set.

    train_x, test_x: uint8 [N, C, H, W]; train_y, test_y: int64 [N], values in [0, len(classes)).
    mean, std: per channel, in units of 0..255, of the training set.
    augmentation: what is usual for these images: "crop-flip", "shift" or "none".
    notes: what a reader of the result should know (how it was split, files left out).
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str = "none"
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.train_x.shape[1:]
        return int(channels), int(height), int(width)

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.shape[1:]

    def kept(self, part: str, indices: Tensor) -> ImageData:
        """The set with some of the images of "train" or "test" only."""
        return replace(
            self,
            **{
                f"{part}_x": getattr(self, f"{part}_x")[indices],
                f"{part}_y": getattr(self, f"{part}_y")[indices],
            },
        )

    def fingerprint(self) -> str:
        """SHA-256 of all images and labels, so that a changed data set is noticed."""
        digest = hashlib.sha256()
        for tensor in (self.train_x, self.train_y, self.test_x, self.test_y):
            digest.update(str(list(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class DataOptions:
    """How a loader treats what it finds.

    resize: side of the square every image is resized to, or None to refuse images that differ.
    on_corrupt: "stop" or "skip", for an image file that cannot be decoded.
    """

    resize: int | None = None
    on_corrupt: str = "stop"

    def __post_init__(self) -> None:
        if self.on_corrupt not in ("stop", "skip"):
            raise UserError(f"on_corrupt must be 'stop' or 'skip', not '{self.on_corrupt}'.")
        if self.resize is not None and not 1 <= self.resize <= 4096:
            raise UserError(f"resize must be between 1 and 4096 pixels, not {self.resize}.")


@dataclass(frozen=True)
class Source:
    """One kind of data that `--data` accepts.

    usage: what the user types; load(argument, options): the task's own data class; find: where it
    is, or None, and the places looked at; argument: whether text after a colon (a folder, a name)
    is taken; tasks: the tasks that can use it.
    """

    name: str
    usage: str
    summary: str
    install: str
    load: Callable[[str, Any], Any]
    find: Callable[[], Found]
    tasks: tuple[str, ...]
    argument: Literal["none", "optional", "required"] = "none"
    licence: str = ""


@dataclass(frozen=True)
class Found:
    """The result of looking for a source on this machine."""

    path: str | None
    looked_in: tuple[str, ...] = field(default_factory=tuple)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images [N, C, H, W], exact sums.

    A constant channel gets the deviation 1, so that normalising it gives 0 and not NaN.

    >>> channel_statistics(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    ((127.5,), (127.5,))
    """
    levels = torch.arange(256, dtype=torch.float64)
    means, deviations = [], []
    for channel in range(images.shape[1]):
        histogram = torch.bincount(images[:, channel].reshape(-1), minlength=256).double()
        total = histogram.sum().clamp(min=1)
        mean = (histogram * levels).sum() / total
        variance = (histogram * (levels - mean) ** 2).sum() / total
        means.append(float(mean))
        deviations.append(float(variance.sqrt()) or 1.0)
    return tuple(means), tuple(deviations)


def make_image_data(
    name: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: tuple[str, ...],
    augmentation: str = "none",
    notes: tuple[str, ...] = (),
) -> ImageData:
    """Check shapes and labels and add the statistics; UserError if the set cannot be trained on."""
    for part, (images, labels) in (("training", train), ("test", test)):
        if len(images) == 0:
            raise UserError(f"{name}: the {part} set holds no images.")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(classes):
            raise UserError(
                f"{name}: a label of the {part} set is {low if low < 0 else high}, "
                f"but there are {len(classes)} classes (labels 0 to {len(classes) - 1})."
            )
    if len(classes) < 2:
        raise UserError(
            f"{name}: there is one class only ({', '.join(classes)}); a classifier needs two."
        )
    mean, std = channel_statistics(train[0])
    return ImageData(name, *train, *test, classes, mean, std, augmentation, notes)


def stratified_split(labels: Tensor, test_fraction: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Indices (train, test): of every class, a shuffled `test_fraction` (at least one) is test.

    labels: int64 [N]. Both index tensors are shuffled, so a set sorted by class comes out mixed.
    A class with a single image goes to the training set.
    """
    chosen = torch.Generator().manual_seed(seed)
    train, test = [], []
    for label in torch.unique(labels).tolist():
        members = torch.nonzero(labels == label).flatten()
        members = members[torch.randperm(len(members), generator=chosen)]
        take = min(max(1, round(len(members) * test_fraction)), len(members) - 1)
        test.append(members[:take])
        train.append(members[take:])
    parts = [torch.cat(part) for part in (train, test)]
    return tuple(part[torch.randperm(len(part), generator=chosen)] for part in parts)  # type: ignore[return-value]
