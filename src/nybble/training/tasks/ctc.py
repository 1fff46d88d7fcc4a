"""Speech recognition with CTC (Graves et al. 2006): characters over time, word error rate.

    model(inputs, lengths)    [N, frames, bands] log-mel and int64 [N], or (samples [N, T],
                              attention mask) for a waveform model -> [N, T', characters + 1]

Class 0 is CTC's blank; the characters are those of the training transcripts. The loss is torch's
`ctc_loss` with its mean: every recording's loss is divided by the number of its characters. The
metric is the word error rate of greedy decoding (words.py); the record has the character error rate
beside it. Recordings of like length make a batch; the order of batches is random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.training.config import TrainConfig
from nybble.training.data.audio.features import mask_
from nybble.training.models.speech import CTC_MODELS, build_speech_model, find_model
from nybble.training.seeds import generator
from nybble.training.start import begun_with
from nybble.training.tasks import sound
from nybble.training.tasks.base import Task
from nybble.training.tasks.options import Option
from nybble.training.tasks.words import (
    BLANK,
    Alphabet,
    count_errors,
    frames_needed,
    greedy_decode,
    need_jiwer,
)

TEST_BATCH = 32
SORTED_TOGETHER = 8
"""So many batches are sorted by length together: little padding, and another order each epoch."""

Target = tuple[Tensor, Tensor, tuple[str, ...]]
"""(output frames [N], recordings' indices [N], transcripts)"""


class CTCTask(Task):
    """Recognise speech; see `nybble.training.tasks.base.Task`."""

    metric = "wer"
    unit = "%"
    higher_is_better = False
    default_data: ClassVar[str] = "digits"
    default_model: ClassVar[str] = "ctc"
    defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 8,
        "batch_size": 32,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "clip_norm": 1.0,
    }
    model_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: model.defaults for name, model in CTC_MODELS.items()
    }
    options: ClassVar[Mapping[str, Option]] = sound.OPTIONS
    inherits: ClassVar[tuple[str, ...]] = sound.INHERITS
    uses: ClassVar[tuple[str, ...]] = ("augmentation", "on_corrupt")
    scores_training = False

    def __init__(self, config: TrainConfig) -> None:
        need_jiwer()
        self.config = config = config.resolved()
        known = find_model(config.model, CTC_MODELS)
        self.augmentation = sound.augmentation_of(config, "none")
        self.data, values = sound.load_recordings(config)
        self.features = sound.make_features(self.data, known, values)
        self.waveform = known is not None and known.hears == "waveform"
        self.alphabet = Alphabet([self.data.texts[i] for i in self.data.train.tolist()])
        if (trained := begun_with(config).get("alphabet")) is not None:
            self.alphabet = self.alphabet.within(trained, self.data.name)
        self.codes = [self.alphabet.encode(text) for text in self.data.texts]
        self.output_lengths: Callable[[Tensor], Tensor] = lambda lengths: lengths
        self.batch_size = min(config.batch_size, len(self.data.train))
        self.steps_per_epoch = len(self.data.train) // self.batch_size
        self._batches: tuple[int, list[Tensor]] | None = None

    def describe(self) -> dict[str, Any]:
        texts = [self.data.texts[i] for i in self.data.test.tolist()]
        unknown = self.alphabet.unknown("".join(texts))
        return {
            **sound.describe(self.data),
            "alphabet": self.alphabet.characters,
            "unknown_characters": unknown,
            "seconds": len(self.data.samples) / self.data.rate,
            "augmentation": self.augmentation,
        }

    def model(self) -> nn.Module:
        model = build_speech_model(
            self.config.model, CTC_MODELS, len(self.alphabet), self.features.bands
        )
        for name in ("output_lengths", "_get_feat_extract_output_lengths"):  # ours, transformers'
            if hasattr(model, name):
                self.output_lengths = getattr(model, name)
                break
        self.check(model)
        return model

    def check(self, model: nn.Module) -> None:
        """UserError for a transcript too long for its recording, or a model that does not fit."""
        frames = self.output_lengths(self.features.lengths)
        for index, codes in enumerate(self.codes):
            if (needed := frames_needed(codes)) > int(frames[index]):
                raise UserError(
                    f"The transcript of {self.data.names[index]} is too long for the recording: "
                    f"CTC needs {needed} output frames for its {len(codes)} characters, the model "
                    f"'{self.config.model}' makes {int(frames[index])}."
                )
        inputs, target = self.take(self.data.test[:1])
        asked = f"The model '{self.config.model}' does not fit the data '{self.data.name}'"
        was_training = model.training
        try:
            with torch.no_grad():
                output = sound.logits_of(model.eval()(*inputs))
        except Exception as error:
            given = f"given {list(inputs[0].shape)} and lengths"
            raise UserError(
                f"{asked}: {given} it raised {type(error).__name__}: {error}"
            ) from error
        finally:
            model.train(was_training)
        expected = [1, int(target[0][0]), len(self.alphabet)]
        if list(output.shape) != expected:
            raise UserError(
                f"{asked}: it must return {expected} (frames, blank and characters), it returned "
                f"{list(output.shape)}."
            )

    def take(self, indices: Tensor) -> tuple[tuple[Tensor, Tensor], Target]:
        """Inputs and target of some recordings."""
        inputs, lengths = self.features.padded(indices)
        texts = tuple(self.data.texts[i] for i in indices.tolist())
        target = (self.output_lengths(lengths), indices, texts)
        if self.waveform:
            mask = torch.arange(inputs.shape[1]) < lengths[:, None]
            return (inputs[:, :, 0], mask.long()), target
        return (inputs, lengths), target

    def batch(self, epoch: int, step: int) -> tuple[tuple[Tensor, Tensor], Target]:
        inputs, target = self.take(self.batches(epoch)[step])
        if self.augmentation == "specaugment" and not self.waveform:
            mask_(inputs[0], generator(self.config.seed, "augment", epoch, step))
        return inputs, target

    def batches(self, epoch: int) -> list[Tensor]:
        """The recordings of every batch of an epoch."""
        if self._batches is None or self._batches[0] != epoch:
            random = generator(self.config.seed, "order", epoch)
            train = self.data.train[torch.randperm(len(self.data.train), generator=random)]
            made: list[Tensor] = []
            for group in train.split(SORTED_TOGETHER * self.batch_size):
                by_length = group[self.features.lengths[group].argsort(stable=True)]
                made += [b for b in by_length.split(self.batch_size) if len(b) == self.batch_size]
            order = torch.randperm(len(made), generator=random)
            self._batches = epoch, [made[k] for k in order.tolist()]
        return self._batches[1]

    def test_batches(self) -> Iterator[tuple[tuple[Tensor, Tensor], Target]]:
        by_length = self.data.test[self.features.lengths[self.data.test].argsort(stable=True)]
        for chosen in by_length.split(TEST_BATCH):
            yield self.take(chosen)

    def loss(self, output: Any, target: Target) -> Tensor:
        frames, indices, _ = target
        codes = [self.codes[i] for i in indices.tolist()]
        sizes = torch.tensor([len(code) for code in codes])
        log_probabilities = sound.logits_of(output).log_softmax(2).transpose(0, 1)
        return F.ctc_loss(log_probabilities, torch.cat(codes), frames, sizes, blank=BLANK)

    def weight(self, target: Target) -> int:
        return len(target[1])

    def score(self, output: Any, target: Target) -> tuple[int, int, int, int]:
        frames, _, texts = target
        found = greedy_decode(sound.logits_of(output), frames, self.alphabet.characters)
        return count_errors(texts, found)

    def summarise(self, scores: Sequence[tuple[int, int, int, int]]) -> float:
        return sum(s[0] for s in scores) / sum(s[1] for s in scores)

    def extras(self, scores: Sequence[tuple[int, int, int, int]]) -> dict[str, float]:
        return {"cer": sum(s[2] for s in scores) / sum(s[3] for s in scores)}
