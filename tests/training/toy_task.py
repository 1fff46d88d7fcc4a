"""Two tiny tasks that are nothing like vision, for tests of what the loop and studies promise.

`Echo` is a language model in small: inputs are a tuple, a state is carried from batch to batch, the
metric is perplexity (a ratio, lower is better), the last test batch is smaller. `Listen` is scored
by decoding with the model itself: a share, lower is better, not scored in training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.training.config import TrainConfig
from nybble.training.seeds import generator
from nybble.training.tasks import Option, Task, read_options

WORDS, STEPS, ROWS = 7, 4, 6


class Cell(nn.Module):
    """h = tanh(embedding + U h), dropout, logits: [rows, time] -> ([rows, time, words], h)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, WORDS)

    def forward(self, tokens: Tensor, keep: Tensor, state: Tensor | None = None) -> Any:
        h = tokens.new_zeros(len(tokens), self.hidden.in_features, dtype=torch.float32)
        h = h if state is None else state
        outputs = []
        for t in range(tokens.shape[1]):
            new = torch.tanh(self.embedding(tokens[:, t]) + self.hidden(h))
            h = torch.where(keep[:, t : t + 1], new, h)
            outputs.append(self.head(F.dropout(h, 0.1, self.training)))
        return torch.stack(outputs, 1), h


class Echo(Task):
    """Predict the next word of word -> 3 word + 1 mod 7, with noise."""

    metric = "perplexity"
    unit = ""
    higher_is_better = False
    comparison = "ratio"
    default_data: ClassVar[str] = "noise"
    default_model: ClassVar[str] = "cell"
    defaults: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adamw",
        "lr": 0.02,
        "epochs": 3,
        "batch_size": ROWS,
        "clip_norm": 0.5,
        "schedule": "constant",
        "warmup": 0.0,
    }
    model_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"wide": {"lr": 0.01}}
    options: ClassVar[Mapping[str, Option]] = {
        "width": Option(int, 8, "Size of the state.", low=1, high=64),
        "carry": Option(bool, True, "Keep the state from batch to batch."),
        "noise": Option(str, "low", "How much noise.", choices=("low", "high")),
        "floor": Option(float, None, "Not used."),
    }

    def __init__(self, config: TrainConfig) -> None:
        self.config = config.resolved()
        self.settings = read_options(config.task, self.options, config.task_options)
        self.steps_per_epoch = STEPS

    def describe(self) -> dict[str, Any]:
        return {"name": self.config.data, "train": STEPS * ROWS, "test": 9, "sha256": "0"}

    def model(self) -> nn.Module:
        return Cell(self.settings["width"])

    def rows(self, count: int, *position: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        random = generator(self.config.seed, "toy", *position)
        words = [torch.randint(0, WORDS, (count,), generator=random)]
        for _ in range(5):
            noise = torch.rand(count, generator=random) < 0.1
            other = torch.randint(0, WORDS, (count,), generator=random)
            words.append(torch.where(noise, other, (3 * words[-1] + 1) % WORDS))
        tokens = torch.stack(words, 1)
        return (tokens[:, :-1], torch.ones(count, 5, dtype=torch.bool)), tokens[:, 1:]

    def batch(self, epoch: int, step: int) -> tuple[Any, Tensor]:
        return self.rows(ROWS, epoch, step)

    def test_batches(self) -> Iterator[tuple[Any, Tensor]]:
        yield self.rows(ROWS, 1000)
        (tokens, keep), target = self.rows(ROWS, 1001)
        yield (tokens[:, :2], keep[:, :2]), target[:, :2]

    def loss(self, output: Any, target: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        return F.cross_entropy(output[0].flatten(0, 1), target.flatten(), label_smoothing=smoothing)

    def weight(self, target: Tensor) -> int:
        return target.numel()

    def score(self, output: Any, target: Tensor) -> tuple[float, int]:
        assert not output[0].requires_grad
        nll = F.cross_entropy(output[0].flatten(0, 1), target.flatten(), reduction="sum")
        return float(nll), target.numel()

    def mean(self, scores: Sequence[tuple[float, int]]) -> float:
        return sum(nll for nll, _ in scores) / sum(count for _, count in scores)

    def summarise(self, scores: Sequence[tuple[float, int]]) -> float:
        return math.exp(self.mean(scores))

    def extras(self, scores: Sequence[tuple[float, int]]) -> dict[str, float]:
        return {"bits": self.mean(scores) / math.log(2)}

    def carry(self, state: Any, output: Any) -> Any:
        return output[1] if self.settings["carry"] else None


class Listen(Echo):
    """The share of words that greedy decoding gets wrong."""

    metric = "wer"
    unit = "%"
    comparison = "difference"
    scores_training = False

    def score(self, output: Any, target: Tensor) -> Any:
        raise AssertionError("training batches and outputs are not scored")

    def test_score(self, model: nn.Module, inputs: Any, output: Any, target: Tensor) -> list[str]:
        tokens, keep = inputs
        logits, _ = model(tokens, keep)
        pairs = zip(logits.argmax(2).flatten().tolist(), target.flatten().tolist(), strict=True)
        return [f"{said} {meant}" for said, meant in pairs]

    def summarise(self, scores: Sequence[Any]) -> float:
        words = [pair.split() for batch in scores for pair in batch]
        return sum(said != meant for said, meant in words) / len(words)

    def extras(self, scores: Sequence[Any]) -> dict[str, float]:
        return {}
