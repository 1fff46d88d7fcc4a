"""Image classification: cross-entropy, accuracy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.training.config import TrainConfig
from nybble.training.data import DataOptions, ImageData, load_data
from nybble.training.data.batches import Batches
from nybble.training.models.registry import build_model, check_model_name, default_lr
from nybble.training.tasks.base import FALLBACK, FALLBACK_LR, Task

TEST_BATCH = 500


class VisionTask(Task):
    """Classify images; see `nybble.training.tasks.base.Task`."""

    metric = "accuracy"
    unit = "%"
    higher_is_better = True
    default_data: ClassVar[str] = "mnist5k"
    default_model: ClassVar[str] = "resnet8"
    uses: ClassVar[tuple[str, ...]] = (
        "label_smoothing",
        "zero_init",
        "augmentation",
        "resize",
        "on_corrupt",
    )

    @classmethod
    def defaults_for(cls, config: TrainConfig) -> Mapping[str, Any]:
        """SGD's rate is the model's at batch 128, in proportion to the batch."""
        batch = config.batch_size or FALLBACK["batch_size"]
        rates = {**FALLBACK_LR, "sgd": default_lr(str(config.model)) * batch / 128}
        optimizer = config.optimizer or FALLBACK["optimizer"]
        return {"optimizer": optimizer, "lr": rates[optimizer]}

    def __init__(self, config: TrainConfig) -> None:
        self.config = config = config.resolved()
        check_model_name(config.model)
        data = load_data(config.data, DataOptions(config.resize, config.on_corrupt))
        self.data = limit(data, config.limit_train, config.limit_test)
        self.batches = Batches(self.data, config.batch_size, config.seed, config.augmentation)
        self.steps_per_epoch = self.batches.steps_per_epoch

    def describe(self) -> dict[str, Any]:
        data = self.data
        return {
            "name": data.name,
            "train": len(data.train_x),
            "test": len(data.test_x),
            "shape": list(data.train_x.shape[1:]),
            "classes": list(data.classes),
            "augmentation": self.batches.augmentation,
            "sha256": fingerprint(data),
            "notes": list(data.notes),
        }

    def model(self) -> nn.Module:
        model = build_model(
            self.config.model, len(self.data.classes), self.data.channels, self.config.zero_init
        )
        self.check(model)
        return model

    def check(self, model: nn.Module) -> None:
        """Try the model on one test image; UserError if it does not fit the data."""
        inputs, _ = self.batches.test_batch(0, 1)
        asked = f"The model '{self.config.model}' does not fit the data '{self.data.name}'"
        shape = list(inputs.shape)
        was_training = model.training
        try:
            with torch.no_grad():
                output = model.eval()(inputs)
        except Exception as error:
            raise UserError(
                f"{asked}: given images {shape} it raised {type(error).__name__}: {error}"
            ) from error
        finally:
            model.train(was_training)
        expected = [1, len(self.data.classes)]
        if not isinstance(output, Tensor) or list(output.shape) != expected:
            got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(
                f"{asked}: given images {shape} it must return {expected} "
                f"(one number a class), it returned {got}."
            )

    def batch(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        return self.batches.batch(epoch, step)

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.data.test_x), TEST_BATCH):
            yield self.batches.test_batch(start, TEST_BATCH)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, label_smoothing=self.config.label_smoothing)

    def weight(self, target: Tensor) -> int:
        return len(target)

    def score(self, output: Tensor, target: Tensor) -> tuple[float, int]:
        return float((output.argmax(1) == target).sum()), len(target)

    def summarise(self, scores: Sequence[tuple[float, int]]) -> float:
        return sum(correct for correct, _ in scores) / sum(count for _, count in scores)


def fingerprint(data: ImageData) -> str:
    """SHA-256 of all images and labels, so that a changed data set is noticed."""
    digest = hashlib.sha256()
    for tensor in (data.train_x, data.train_y, data.test_x, data.test_y):
        digest.update(str(list(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def limit(data: ImageData, train: int | None, test: int | None) -> ImageData:
    """Keep `train` and `test` images, chosen at random, the same for every run."""
    chosen = torch.Generator().manual_seed(0)
    changes: dict[str, Tensor] = {}
    for part, count in (("train", train), ("test", test)):
        images: Tensor = getattr(data, f"{part}_x")
        if count is not None and count < len(images):
            keep = torch.randperm(len(images), generator=chosen)[:count]
            changes[f"{part}_x"] = images[keep]
            changes[f"{part}_y"] = getattr(data, f"{part}_y")[keep]
    return replace(data, **changes)  # type: ignore[arg-type]
