"""Image classification: cross-entropy, accuracy."""

from __future__ import annotations

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
from nybble.training.data.image_files import FileBatches, ImageFiles
from nybble.training.models.registry import build_model, check_model_name, training_of
from nybble.training.start import begun_with, class_numbers
from nybble.training.tasks.base import Task
from nybble.training.tasks.labels import LABEL_OPTIONS, worsened
from nybble.training.tasks.options import Option, read_options

TEST_BATCH = 500
"""Images of a test batch; a tenth of it where they are larger than 64 x 64."""

Images = ImageData | ImageFiles


class VisionTask(Task):
    """Classify images; see `nybble.training.tasks.base.Task`."""

    metric = "accuracy"
    unit = "%"
    higher_is_better = True
    default_data: ClassVar[str] = "mnist5k"
    default_model: ClassVar[str] = "resnet8"
    options: ClassVar[Mapping[str, Option]] = LABEL_OPTIONS
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
        data: Images = load_data(config.data, DataOptions(config.resize, config.on_corrupt))
        if classes := begun_with(config).get("classes"):
            data = with_classes(data, tuple(classes))
        data = limit(data, config.limit_train, config.limit_test)
        values = read_options(config.task, self.options, config.task_options)
        self.data = with_worse_labels(data, config.seed, values)
        given = config.batch_size, config.seed, config.augmentation
        self.batches: Batches | FileBatches
        if isinstance(self.data, ImageFiles):
            self.batches = FileBatches(self.data, *given)
        else:
            self.batches = Batches(self.data, *given)
        self.steps_per_epoch = self.batches.steps_per_epoch

    def describe(self) -> dict[str, Any]:
        data = self.data
        return {
            "name": data.name,
            "train": len(data.train_y),
            "test": len(data.test_y),
            "shape": list(data.shape),
            "classes": list(data.classes),
            "augmentation": self.batches.augmentation,
            "sha256": data.fingerprint(),
            "notes": list(data.notes),
        }

    def model(self) -> nn.Module:
        data, config = self.data, self.config
        model = build_model(
            config.model, len(data.classes), data.shape[0], config.zero_init, max(data.shape[1:])
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
        size = TEST_BATCH if max(self.data.shape[1:]) <= 64 else TEST_BATCH // 10
        for start in range(0, len(self.data.test_y), size):
            yield self.batches.test_batch(start, size)

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


def with_classes(data: Images, classes: tuple[str, ...]) -> Images:
    """The set with the classes that a model was trained on, of which it may lack some."""
    number = class_numbers(data.name, data.classes, classes)
    if classes == tuple(data.classes):
        return data
    changes: dict[str, Any] = {"train_y": number[data.train_y], "test_y": number[data.test_y]}
    return replace(data, classes=classes, **changes)


def with_worse_labels(data: Images, seed: int, values: Mapping[str, Any]) -> Images:
    """The set with the training labels that the options ask for."""
    found = worsened(data.train_y, len(data.classes), seed, values, data.name)
    if found is None:
        return data
    changes: dict[str, Any] = {"train_y": found.labels, "notes": (*data.notes, *found.notes)}
    return replace(data.kept("train", found.kept), **changes)


def limit(data: Images, train: int | None, test: int | None) -> Images:
    """Keep `train` and `test` images, chosen at random, the same for every run."""
    chosen = torch.Generator().manual_seed(0)
    for part, count in (("train", train), ("test", test)):
        total = len(getattr(data, f"{part}_y"))
        if count is not None and count < total:
            data = data.kept(part, torch.randperm(total, generator=chosen)[:count])
    return data
