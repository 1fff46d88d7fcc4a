"""Language models: cross-entropy of the next token, perplexity = exp(mean of -log p).

A recurrent model's batches are consecutive pieces of the text, and its state is carried from one to
the next (`CarriedBatches`); the loop saves that state with a checkpoint, and batches are functions
of (seed, epoch, step), so a resumed run is equal bit for bit. Other models see pieces in random
order (`ChunkBatches`).

Perplexity is per token of the model's own vocabulary: models with other tokens (words, characters,
byte pairs) cannot be compared by it. `perplexity_per_word` can: the same -log p over the number of
words, the ends of lines counted. It is not defined where <unk> hides what a word was, so a word
model's is that of the text in its vocabulary; `unknown_share` says how much is hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.training.config import TrainConfig
from nybble.training.data.registry import load_data
from nybble.training.data.text.base import TextData, TextOptions, fingerprint
from nybble.training.data.text.stream import (
    IGNORED,
    CarriedBatches,
    ChunkBatches,
    evaluation_chunks,
    evaluation_rows,
    token_stream,
)
from nybble.training.tasks.base import Inputs, Task
from nybble.training.tasks.options import Option
from nybble.training.tasks.texts import (
    INHERITS,
    OPTIONS,
    check_model,
    held_out,
    make_tokenizer,
    model_training,
    settings_of,
    shape_of,
)

SPECIALS = ("<unk>", "<eos>")
UNKNOWN, END = 0, 1
TEST_ROWS = 20
TEST_TOKENS = 4096
"""Tokens a test batch holds, about."""


class LanguageTask(Task):
    """Predict the next token; see `nybble.training.tasks.base.Task`."""

    metric = "perplexity"
    unit = ""
    higher_is_better = False
    comparison = "ratio"
    default_data: ClassVar[str] = "brown"
    default_model: ClassVar[str] = "lstm"
    options: ClassVar[Mapping[str, Option]] = {
        **OPTIONS,
        "split": Option(str, None, "official, or of brown genres:NAME,NAME (to test on)."),
        "carried": Option(bool, None, "Whether your model takes and gives a state."),
    }
    scores_training = False  # the training loss says the same

    inherits: ClassVar[tuple[str, ...]] = INHERITS

    @classmethod
    def defaults_for(cls, config: TrainConfig) -> Mapping[str, Any]:
        return model_training("language", config)

    def __init__(self, config: TrainConfig) -> None:
        self.config = config = config.resolved()
        self.entry, self.settings = settings_of("language", self.options, config)
        carried = self.settings["carried"]
        self.carried = self.entry.carried if carried is None else carried
        data: TextData = load_data(
            config.data, TextOptions(self.settings["split"] or ""), task="language"
        )
        self.data = data
        self.lines = data.train[: config.limit_train]
        self.test_lines = held_out(data, self.settings["part"])[: config.limit_test]
        settings = self.settings
        self.tokenizer = make_tokenizer(config, settings, self.lines, SPECIALS)
        self.stream = token_stream(self.lines, self.tokenizer, END)
        self.test_stream = token_stream(self.test_lines, self.tokenizer, END)
        kind = CarriedBatches if self.carried else ChunkBatches
        if len(self.stream) <= 2 * config.batch_size:
            raise UserError(
                f"The training text of {data.name} has {len(self.stream)} tokens, too few for "
                f"batches of {config.batch_size}; give a smaller --batch-size."
            )
        length = settings["length"]
        self.batches = kind(self.stream, config.batch_size, length, config.seed, settings["steps"])
        self.steps_per_epoch = self.batches.steps_per_epoch

    def describe(self) -> dict[str, Any]:
        data, test = self.data, self.test_stream
        return {
            "name": data.name,
            "train": len(self.stream) - 1,
            "test": len(test) - 1,
            "items": "tokens",
            "part": self.settings["part"],
            "tokens": self.tokenizer.kind,
            "vocabulary": self.tokenizer.size,
            "unknown_share": float((test == UNKNOWN).sum()) / (len(test) - 1),
            "settings": {k: v for k, v in self.settings.items() if v is not None},
            "sha256": fingerprint(self.lines, self.test_lines),
            "notes": list(data.notes),
        }

    def keeps(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.to_dict()}

    def model(self) -> nn.Module:
        model = self.entry.build(shape_of(self.settings, vocabulary=self.tokenizer.size))
        inputs, _ = next(iter(self.test_batches()))
        tried = inputs[:1]
        expected = [*tried.shape, self.tokenizer.size]
        check_model(model, self.config.model, self.data.name, (tried,), expected)
        return model

    def batch(self, epoch: int, step: int) -> tuple[Inputs, Tensor]:
        return self.batches.batch(epoch, step)

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        length = self.batches.length
        if self.carried:
            return evaluation_rows(self.test_stream, TEST_ROWS, length)
        return evaluation_chunks(self.test_stream, max(1, TEST_TOKENS // length), length)

    def loss(self, output: Any, target: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        return F.cross_entropy(
            _logits(output).flatten(0, 1), target.flatten(), label_smoothing=smoothing
        )

    def weight(self, target: Tensor) -> int:
        return int((target != IGNORED).sum())

    def score(self, output: Any, target: Tensor) -> tuple[float, int]:
        """(sum of -log p, tokens); the sum over the batch is in float64."""
        flat = F.cross_entropy(_logits(output).flatten(0, 1), target.flatten(), reduction="none")
        return float(flat.double().sum()), self.weight(target)

    def summarise(self, scores: Sequence[tuple[float, int]]) -> float:
        return perplexity(sum(nll for nll, _ in scores), sum(count for _, count in scores))

    def extras(self, scores: Sequence[tuple[float, int]]) -> dict[str, float]:
        nll, count = (sum(entries) for entries in zip(*scores, strict=True))
        words = sum(len(line.split()) + 1 for line in self.test_lines)
        return {
            "bits_per_token": nll / count / math.log(2),
            "perplexity_per_word": perplexity(nll, words),
        }

    def carry(self, state: Any, output: Any) -> Any:
        return output[1] if self.carried else None


def perplexity(nll: float, count: int) -> float:
    """exp(nll / count), infinite where no float can hold it.

    >>> round(perplexity(2 * math.log(8), 2), 9), perplexity(1e6, 1)
    (8.0, inf)
    """
    try:
        return math.exp(nll / count)
    except OverflowError:
        return math.inf


def _logits(output: Any) -> Tensor:
    logits: Tensor = output[0] if isinstance(output, tuple) else output
    return logits
