"""Text classification: cross-entropy, accuracy.

A text longer than `length` tokens is cut off there; how many were is in the record. `--set
text=NAME` and `--set label=NAME` name the columns of a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.training.config import TrainConfig
from nybble.training.data.registry import load_data
from nybble.training.data.text.base import LabelData, fingerprint
from nybble.training.data.text.lengths import BucketedBatches, in_order_of_length, pad
from nybble.training.data.text.table import Columns
from nybble.training.start import begun_with, class_numbers
from nybble.training.tasks.base import Inputs, Task
from nybble.training.tasks.labels import LABEL_OPTIONS, worsened
from nybble.training.tasks.options import Option
from nybble.training.tasks.texts import (
    INHERITS,
    OPTIONS,
    check_model,
    held_out,
    make_tokenizer,
    model_training,
    sample,
    settings_of,
    shape_of,
)

SPECIALS = ("<pad>", "<unk>")
PAD, UNKNOWN = range(2)
TEST_BATCH = 100


class TextTask(Task):
    """Classify texts; see `nybble.training.tasks.base.Task`."""

    metric = "accuracy"
    unit = "%"
    higher_is_better = True
    default_data: ClassVar[str] = "brown-genres"
    default_model: ClassVar[str] = "encoder"
    options: ClassVar[Mapping[str, Option]] = {
        **OPTIONS,
        **LABEL_OPTIONS,
        "text": Option(str, "text", "Column of the texts in a table."),
        "label": Option(str, "label", "Column of the labels in a table."),
    }

    inherits: ClassVar[tuple[str, ...]] = INHERITS

    @classmethod
    def defaults_for(cls, config: TrainConfig) -> Mapping[str, Any]:
        return model_training("text", config)

    def __init__(self, config: TrainConfig) -> None:
        self.config = config = config.resolved()
        self.entry, self.settings = settings_of("text", self.options, config)
        settings = self.settings
        columns = Columns(settings["text"], settings["label"])
        data: LabelData = load_data(config.data, columns, task="text")
        if classes := begun_with(config).get("classes"):
            data = with_classes(data, tuple(classes))
        self.data = data
        self.train, self.label_notes = with_worse_labels(
            sample(data.train, config.limit_train), len(data.classes), config.seed, settings
        )
        self.test = sample(held_out(data, settings["part"]), config.limit_test)
        self.tokenizer = make_tokenizer(
            config, settings, [text for text, _ in self.train], SPECIALS
        )
        self.cut_off = 0
        self.train_tokens = self._encode(self.train)
        self.test_tokens = self._encode(self.test)
        lengths = torch.tensor([len(tokens) for tokens in self.train_tokens])
        self.batches = BucketedBatches(lengths, config.batch_size, config.seed, settings["steps"])
        self.steps_per_epoch = self.batches.steps_per_epoch

    def _encode(self, items: Sequence[tuple[str, int]]) -> list[list[int]]:
        longest = self.settings["length"]
        encoded = []
        for text, _ in items:
            tokens = self.tokenizer.encode(text)
            self.cut_off += len(tokens) > longest
            encoded.append(tokens[:longest])
        return encoded

    def describe(self) -> dict[str, Any]:
        data = self.data
        notes = [*data.notes, *self.label_notes]
        if self.cut_off:
            notes.append(f"{self.cut_off} texts cut off after {self.settings['length']} tokens")
        return {
            "name": data.name,
            "train": len(self.train),
            "test": len(self.test),
            "items": "texts",
            "part": self.settings["part"],
            "classes": list(data.classes),
            "tokens": self.tokenizer.kind,
            "vocabulary": self.tokenizer.size,
            "settings": {k: v for k, v in self.settings.items() if v is not None},
            "baselines": {"majority": self.majority()},
            "sha256": fingerprint(self.train, self.test),
            "notes": notes,
        }

    def majority(self) -> float:
        """Accuracy of always answering the training set's most frequent class."""
        classes = len(self.data.classes)
        train, test = (
            torch.bincount(torch.tensor([label for _, label in part]), minlength=classes)
            for part in (self.train, self.test)
        )
        return float(test[train.argmax()]) / len(self.test)

    def keeps(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.to_dict()}

    def model(self) -> nn.Module:
        classes = len(self.data.classes)
        shape = shape_of(self.settings, vocabulary=self.tokenizer.size, classes=classes, pad=PAD)
        model = self.entry.build(shape)
        inputs = self._inputs(self.test_tokens[:2])
        expected = [len(inputs[0]), classes]
        check_model(model, self.config.model, self.data.name, inputs, expected)
        return model

    def batch(self, epoch: int, step: int) -> tuple[Inputs, Tensor]:
        chosen = self.batches.batch(epoch, step).tolist()
        labels = torch.tensor([self.train[index][1] for index in chosen])
        return self._inputs([self.train_tokens[index] for index in chosen]), labels

    def test_batches(self) -> Iterator[tuple[Inputs, Tensor]]:
        lengths = torch.tensor([len(tokens) for tokens in self.test_tokens])
        for chosen in in_order_of_length(lengths, TEST_BATCH):
            indices = chosen.tolist()
            labels = torch.tensor([self.test[index][1] for index in indices])
            yield self._inputs([self.test_tokens[index] for index in indices]), labels

    def _inputs(self, sequences: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        tokens = pad(sequences, PAD)
        return tokens, tokens != PAD

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, label_smoothing=self.config.label_smoothing)

    def weight(self, target: Tensor) -> int:
        return len(target)

    def score(self, output: Tensor, target: Tensor) -> tuple[float, int]:
        return float((output.argmax(1) == target).sum()), len(target)

    def summarise(self, scores: Sequence[tuple[float, int]]) -> float:
        return sum(correct for correct, _ in scores) / sum(count for _, count in scores)


def with_classes(data: LabelData, classes: tuple[str, ...]) -> LabelData:
    """The set with the classes that a model was trained on, of which it may lack some."""
    number = class_numbers(data.name, data.classes, classes).tolist()

    def renamed(part: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
        return tuple((text, number[label]) for text, label in part)

    return replace(
        data,
        classes=classes,
        train=renamed(data.train),
        valid=renamed(data.valid),
        test=renamed(data.test),
    )


def with_worse_labels(
    items: Sequence[tuple[str, int]], classes: int, seed: int, values: Mapping[str, Any]
) -> tuple[Sequence[tuple[str, int]], tuple[str, ...]]:
    """The training texts with the labels that the options ask for, and what to say of them."""
    own = torch.tensor([label for _, label in items])
    found = worsened(own, classes, seed, values, "the training set")
    if found is None:
        return items, ()
    pairs = zip(found.kept.tolist(), found.labels.tolist(), strict=True)
    return [(items[index][0], label) for index, label in pairs], found.notes
