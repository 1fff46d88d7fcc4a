"""Corruptions of test images: the metric under each of `pixels.CORRUPTIONS` at three levels.

The pictures are changed as pixels in [0, 255] and clipped to that range, then normalised as in
training. Random places are functions of (run's seed, kind, batch), the same at every level.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nybble.errors import UserError
from nybble.studies.measures.trained import Trained, first, load_trained, whole
from nybble.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

    from nybble.training.tasks.base import Inputs


def image_corruptions(folder: Path, config: TrainConfig) -> dict[str, float]:
    """The metric under every corruption at every level, of the finished run in `folder`.

    Raises:
        UserError: the task has no images.
    """
    return with_corruptions(load_trained(folder, config))


def with_corruptions(run: Trained, kinds: tuple[str, ...] = ()) -> dict[str, float]:
    """{"blur-1": metric, ...}; kinds: those of `CORRUPTIONS` (default: all)."""
    from nybble.studies.measures.pixels import CORRUPTIONS

    mean, deviation = pixel_scale(run)
    found: dict[str, float] = {}
    for kind in kinds or tuple(CORRUPTIONS):
        corrupt, levels = CORRUPTIONS[kind]
        for level, amount in enumerate(levels, start=1):

            def change(inputs: Inputs, index: int, amount: float = amount) -> Inputs:
                x, rest = first(inputs)
                random = run.draws(f"image/{kind}", index)  # noqa: B023 (used in this round only)
                pixels = corrupt(x * deviation + mean, amount, random)  # noqa: B023
                return whole((pixels.clamp(0.0, 255.0) - mean) / deviation, rest)

            found[f"{kind}-{level}"] = run.metric(change)
    return found


def pixel_scale(run: Trained) -> tuple[Tensor, Tensor]:
    """Mean and deviation [1, C, 1, 1] by which the task normalises its pixels.

    Raises:
        UserError: it has none.
    """
    import torch

    from nybble.training.data.base import ImageData
    from nybble.training.data.image_files import MEAN, STD, ImageFiles

    data = getattr(run.task, "data", None)
    if isinstance(data, ImageData):
        scale = torch.tensor((data.mean, data.std))
    elif isinstance(data, ImageFiles):
        scale = 255.0 * torch.tensor((MEAN, STD))
    else:
        raise UserError(f"image-corruptions: the task {run.config.task} has no images.")
    return scale[0].view(1, -1, 1, 1), scale[1].view(1, -1, 1, 1)
