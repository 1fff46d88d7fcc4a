"""Batch order and augmentation: pure functions of (seed, epoch, step), one vectorised pass a batch.

    order(seed, epoch)         a permutation of the training set; step k takes its k-th slice
    augment(batch, generator)  "crop-flip": zero padding of 4 and a random crop, then a mirror image
                               with probability 1/2 (He et al. 2016, section 4.2); "crop": without
                               the mirror image; "shift", "shift-flip": the same with padding of 2;
                               "none"

The last, smaller slice of an epoch is left out, so every step sees a full batch. Not done: colour,
scale or rotation changes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nybble.errors import UserError, suggest
from nybble.training.data.base import ImageData
from nybble.training.seeds import generator

PADDING = {"none": 0, "shift": 2, "shift-flip": 2, "crop": 4, "crop-flip": 4}


class Batches:
    """Training batches of an `ImageData`, normalised to zero mean and unit deviation.

    batch(epoch, step) -> (float32 [B, C, H, W], int64 [B]); B = min(batch_size, N).
    """

    def __init__(
        self, data: ImageData, batch_size: int, seed: int, augmentation: str | None = None
    ) -> None:
        self.data = data
        self.batch_size = min(batch_size, len(data.train_x))
        self.seed = seed
        self.augmentation = data.augmentation if augmentation in (None, "auto") else augmentation
        if self.augmentation not in PADDING:
            raise UserError(
                f"Unknown augmentation '{self.augmentation}'; choose one of "
                f"{', '.join(['auto', *PADDING])}.{suggest(str(self.augmentation), PADDING)}"
            )
        self._mean = torch.tensor(data.mean, dtype=torch.float32).view(1, -1, 1, 1)
        self._inverse_std = 1.0 / torch.tensor(data.std, dtype=torch.float32).view(1, -1, 1, 1)
        self._order: tuple[int, Tensor] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return len(self.data.train_x) // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """The epoch's permutation, int64 [N]."""
        if self._order is None or self._order[0] != epoch:
            count = len(self.data.train_x)
            permutation = torch.randperm(count, generator=generator(self.seed, "order", epoch))
            self._order = epoch, permutation
        return self._order[1]

    def batch(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """The `step`-th batch of `epoch`."""
        chosen = self.order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]
        images = augment(
            self.data.train_x[chosen],
            self.augmentation or "none",
            generator(self.seed, "augment", epoch, step),
        )
        return self.normalise(images), self.data.train_y[chosen]

    def test_batch(self, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Test images start .. start + size, without augmentation."""
        stop = start + size
        return self.normalise(self.data.test_x[start:stop]), self.data.test_y[start:stop]

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] to float32: (x - mean) / std per channel."""
        return images.to(torch.float32).sub_(self._mean).mul_(self._inverse_std)


def augment(images: Tensor, kind: str, random: torch.Generator) -> Tensor:
    """Return augmented uint8 images [B, C, H, W]; the same generator state, the same result."""
    padding = PADDING[kind]
    if padding == 0:
        return images
    count, _, height, width = images.shape
    shifts = torch.randint(0, 2 * padding + 1, (2, count), generator=random)
    padded = F.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: every possible crop
    crops = windows[torch.arange(count), :, shifts[0], shifts[1]]
    if kind.endswith("-flip"):
        mirror = torch.randint(0, 2, (count, 1, 1, 1), generator=random, dtype=torch.bool)
        crops = torch.where(mirror, crops.flip(3), crops)
    return crops
