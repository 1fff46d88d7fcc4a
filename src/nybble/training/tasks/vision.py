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
from nybble.training.models.registry import build_model, check_model_name, training_of
from nybble.training.start import begun_with, class_numbers
from nybble.training.tasks.base import Task

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
        return training_of(str(config.model), config.batch_size, config.optimizer)

    def __init__(self, config: TrainConfig) -> None:
        self.config = config = config.resolved()
        check_model_name(config.model)
        data = load_data(config.data, DataOptions(config.resize, config.on_corrupt))
        if classes := begun_with(config).get("classes"):
            data = with_classes(data, tuple(classes))
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
        data, config = self.data, self.config
        model = build_model(
            config.model, len(data.classes), data.channels, config.zero_init, max(data.size)
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
                output = logits_of(model.eval()(inputs))
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

    def loss(self, output: Any, target: Tensor) -> Tensor:
        logits = logits_of(output)
        return F.cross_entropy(logits, target, label_smoothing=self.config.label_smoothing)

    def weight(self, target: Tensor) -> int:
        return len(target)

    def score(self, output: Any, target: Tensor) -> tuple[float, int]:
        return float((logits_of(output).argmax(1) == target).sum()), len(target)

    def summarise(self, scores: Sequence[tuple[float, int]]) -> float:
        return sum(correct for correct, _ in scores) / sum(count for _, count in scores)


def logits_of(output: Any) -> Any:
    """The output itself, or its `logits` (transformers' models)."""
    return getattr(output, "logits", output)


def with_classes(data: ImageData, classes: tuple[str, ...]) -> ImageData:
    """The set with the classes that a model was trained on, of which it may lack some."""
    number = class_numbers(data.name, data.classes, classes)
    if classes == tuple(data.classes):
        return data
    return replace(data, classes=classes, train_y=number[data.train_y], test_y=number[data.test_y])


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
