"""Classification of recordings (spoken digits, commands, voices): cross-entropy, accuracy.

Every recording is seen through one window (`seconds`; the set says what suits it): a longer one is
cut, a shorter one padded. In training the window's place is random (`shift`), in the test it is the
middle. `specaugment` masks bands and frames as well.

    model(inputs)    [N, frames, bands] log-mel, or [N, samples] for a waveform model, to
                     [N, classes]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.training.config import TrainConfig
from nybble.training.data.audio.base import SpeechData
from nybble.training.data.audio.features import mask_
from nybble.training.data.audio.logmel import LogMel
from nybble.training.models.speech import MODELS, build_speech_model, find_model
from nybble.training.seeds import generator
from nybble.training.tasks import sound
from nybble.training.tasks.base import Task
from nybble.training.tasks.labels import LABEL_OPTIONS, worsened
from nybble.training.tasks.options import Option, read_options

TEST_BATCH = 250


class SpeechTask(Task):
    """Classify recordings; see `nybble.training.tasks.base.Task`."""

    metric = "accuracy"
    unit = "%"
    higher_is_better = True
    default_data: ClassVar[str] = "voices"
    default_model: ClassVar[str] = "lstm"
    defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 8,
        "batch_size": 64,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "clip_norm": 1.0,
    }
    model_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: model.defaults for name, model in MODELS.items()
    }
    options: ClassVar[Mapping[str, Option]] = {
        **sound.OPTIONS,
        **LABEL_OPTIONS,
        "seconds": Option(float, None, "Window; the set's own if not given.", low=0.1, high=60),
    }
    inherits: ClassVar[tuple[str, ...]] = (*sound.INHERITS, "seconds")
    uses: ClassVar[tuple[str, ...]] = ("label_smoothing", "augmentation", "on_corrupt")

    def __init__(self, config: TrainConfig) -> None:
        self.config = config = config.resolved()
        known = find_model(config.model, MODELS)
        self.augmentation = sound.augmentation_of(config, "shift")
        self.data, values = sound.load_recordings(config)
        values |= read_options(config.task, self.options, config.task_options)
        self.data = with_worse_labels(self.data, config.seed, values)
        self.features = sound.make_features(self.data, known, values)
        self.waveform = known is not None and known.hears == "waveform"
        self.seconds: float = values["seconds"] or self.data.seconds
        samples = round(self.seconds * self.data.rate)
        self.window = samples if self.waveform else LogMel(self.data.rate).frames(samples)
        self.batch_size = min(config.batch_size, len(self.data.train))
        self.steps_per_epoch = len(self.data.train) // self.batch_size
        self._order: tuple[int, Tensor] | None = None

    def describe(self) -> dict[str, Any]:
        return {
            **sound.describe(self.data),
            "classes": list(self.data.classes),
            "shape": [self.window] if self.waveform else [self.window, self.features.bands],
            "seconds": self.seconds,
            "augmentation": self.augmentation,
        }

    def model(self) -> nn.Module:
        model = build_speech_model(
            self.config.model, MODELS, len(self.data.classes), self.features.bands
        )
        self.check(model)
        return model

    def check(self, model: nn.Module) -> None:
        """Try the model on one test recording; UserError if it does not fit the data."""
        inputs = self.inputs(self.data.test[:1])
        asked = f"The model '{self.config.model}' does not fit the data '{self.data.name}'"
        given = f"given recordings {list(inputs.shape)}"
        was_training = model.training
        try:
            with torch.no_grad():
                output = sound.logits_of(model.eval()(inputs))
        except Exception as error:
            raise UserError(
                f"{asked}: {given} it raised {type(error).__name__}: {error}"
            ) from error
        finally:
            model.train(was_training)
        expected = [1, len(self.data.classes)]
        if list(output.shape) != expected:
            raise UserError(
                f"{asked}: {given} it must return {expected} (one number a class), it returned "
                f"{list(output.shape)}."
            )

    def inputs(self, indices: Tensor, random: torch.Generator | None = None) -> Tensor:
        """The windows of some recordings, as the model takes them."""
        windows = self.features.windows(indices, self.window, random)
        return windows[:, :, 0] if self.waveform else windows

    def batch(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        chosen = self.order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]
        random = generator(self.config.seed, "augment", epoch, step)
        inputs = self.inputs(chosen, None if self.augmentation == "none" else random)
        if self.augmentation == "specaugment" and not self.waveform:
            mask_(inputs, random)
        return inputs, self.data.labels[chosen]

    def order(self, epoch: int) -> Tensor:
        """The epoch's order of the training recordings."""
        if self._order is None or self._order[0] != epoch:
            train = self.data.train
            random = generator(self.config.seed, "order", epoch)
            self._order = epoch, train[torch.randperm(len(train), generator=random)]
        return self._order[1]

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A small --batch-size says that there is little memory.
        for chosen in self.data.test.split(min(TEST_BATCH, 2 * self.config.batch_size)):
            yield self.inputs(chosen), self.data.labels[chosen]

    def loss(self, output: Any, target: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        return F.cross_entropy(sound.logits_of(output), target, label_smoothing=smoothing)

    def weight(self, target: Tensor) -> int:
        return len(target)

    def score(self, output: Any, target: Tensor) -> tuple[float, int]:
        return float((sound.logits_of(output).argmax(1) == target).sum()), len(target)

    def summarise(self, scores: Sequence[tuple[float, int]]) -> float:
        return sum(correct for correct, _ in scores) / sum(count for _, count in scores)


def with_worse_labels(data: SpeechData, seed: int, values: Mapping[str, Any]) -> SpeechData:
    """The set with the training labels that the options ask for; the test's stay."""
    found = worsened(data.labels[data.train], len(data.classes), seed, values, data.name)
    if found is None:
        return data
    train = data.train[found.kept]
    changed = data.labels.clone()
    changed[train] = found.labels
    return replace(data, train=train, labels=changed, notes=(*data.notes, *found.notes))
