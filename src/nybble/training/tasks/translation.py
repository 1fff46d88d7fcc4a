"""Translation: cross-entropy of the target's tokens, BLEU of what the model writes (sacrebleu).

Source and target share one vocabulary. A pair of which a side has more tokens than `length` is left
out and counted, in the training and in the test set alike. The test set is translated after every
epoch, greedily or with a beam (`--set beam=4`), and compared with the references by sacrebleu's
corpus BLEU with its usual settings (13a tokens, 4-grams, exponential smoothing): a number from 0 to
100. `test_extras` have the perplexity of the references. The record also says what two baselines
reach: the source copied, and the training set's most frequent target for every sentence.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.errors import NybbleError, UserError
from nybble.training.config import TrainConfig
from nybble.training.data.registry import load_data
from nybble.training.data.text.base import PairData, fingerprint
from nybble.training.data.text.lengths import BucketedBatches, in_order_of_length, pad
from nybble.training.data.text.stream import IGNORED
from nybble.training.data.text.tokenizers import INSTALL
from nybble.training.models.decode import beam, greedy
from nybble.training.tasks.base import Inputs, Task
from nybble.training.tasks.language import perplexity
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

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
PAD, UNKNOWN, BOS, EOS = range(4)
TEST_BATCH = 64


@dataclass(frozen=True)
class Score:
    """What one test batch gave."""

    nll: float
    tokens: int
    hypotheses: list[str]
    references: list[str]


@dataclass(frozen=True)
class Target:
    """Labels [N, T] (-100 where there is none) and, in test batches, the references."""

    labels: Tensor
    references: tuple[str, ...] = ()


class TranslationTask(Task):
    """Translate; see `nybble.training.tasks.base.Task`."""

    metric = "bleu"
    unit = ""
    higher_is_better = True
    default_data: ClassVar[str] = "verses-short"
    default_model: ClassVar[str] = "transformer"
    options: ClassVar[Mapping[str, Option]] = {
        **OPTIONS,
        "beam": Option(int, 1, "Beginnings that decoding keeps; 1: greedy.", low=1),
    }
    scores_training = False

    inherits: ClassVar[tuple[str, ...]] = INHERITS

    @classmethod
    def defaults_for(cls, config: TrainConfig) -> Mapping[str, Any]:
        return model_training("translation", config)

    def __init__(self, config: TrainConfig) -> None:
        need_sacrebleu()
        self.config = config = config.resolved()
        self.entry, self.settings = settings_of("translation", self.options, config)
        data: PairData = load_data(config.data, task="translation")
        self.data = data
        settings = self.settings
        train = sample(data.train, config.limit_train)
        self.tokenizer = make_tokenizer(
            config, settings, [side for pair in train for side in pair], SPECIALS
        )
        self.train = self._encode(train)
        self.test = self._encode(sample(held_out(data, settings["part"]), config.limit_test))
        self.left_out = len(train) - len(self.train)
        if not self.train or not self.test:
            raise UserError(
                f"{data.name}: no pair has at most {settings['length']} tokens a side; give a "
                "larger --set length."
            )
        lengths = torch.tensor([max(len(p.source), len(p.target)) for p in self.train])
        self.batches = BucketedBatches(lengths, config.batch_size, config.seed, settings["steps"])
        self.steps_per_epoch = self.batches.steps_per_epoch

    def _encode(self, pairs: Sequence[tuple[str, str]]) -> list[EncodedPair]:
        """Both sides as numbers with <eos> at the end; pairs that are too long are left out."""
        longest = self.settings["length"]
        encode = self.tokenizer.encode
        encoded = (EncodedPair([*encode(a), EOS], [*encode(b), EOS], a, b) for a, b in pairs)
        return [p for p in encoded if max(len(p.source), len(p.target)) <= longest]

    def describe(self) -> dict[str, Any]:
        data = self.data
        notes = list(data.notes)
        if self.left_out:
            notes.append(
                f"{self.left_out} training pairs of more than {self.settings['length']} tokens "
                "left out, and those of the test set"
            )
        return {
            "name": data.name,
            "train": len(self.train),
            "test": len(self.test),
            "items": "pairs",
            "part": self.settings["part"],
            "languages": list(data.languages),
            "tokens": self.tokenizer.kind,
            "vocabulary": self.tokenizer.size,
            "settings": {k: v for k, v in self.settings.items() if v is not None},
            "baselines": self.baselines(),
            "sha256": fingerprint(
                [(p.source, p.target) for p in self.train],
                [(p.text, p.reference) for p in self.test],
            ),
            "notes": notes,
        }

    def baselines(self) -> dict[str, float]:
        """BLEU of copying the source, and of one constant sentence."""
        references = [p.reference for p in self.test]
        counts = Counter(p.reference for p in self.train)
        constant = min(counts, key=lambda text: (-counts[text], text))
        return {
            "copy": bleu([p.text for p in self.test], references),
            "constant": bleu([constant] * len(references), references),
        }

    def keeps(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.to_dict()}

    def model(self) -> nn.Module:
        size = self.tokenizer.size
        shape = shape_of(self.settings, vocabulary=size, pad=PAD, bos=BOS, eos=EOS)
        model = self.entry.build(shape)
        inputs, _ = self._batch(self.test[:2])
        expected = [*inputs[1].shape, size]
        check_model(model, self.config.model, self.data.name, inputs, expected)
        return model

    def batch(self, epoch: int, step: int) -> tuple[Inputs, Target]:
        chosen = self.batches.batch(epoch, step).tolist()
        return self._batch([self.train[index] for index in chosen])

    def test_batches(self) -> Iterator[tuple[Inputs, Target]]:
        lengths = torch.tensor([len(p.source) for p in self.test])
        for chosen in in_order_of_length(lengths, TEST_BATCH):
            pairs = [self.test[index] for index in chosen.tolist()]
            inputs, target = self._batch(pairs)
            yield inputs, Target(target.labels, tuple(p.reference for p in pairs))

    def _batch(self, pairs: Sequence[EncodedPair]) -> tuple[tuple[Tensor, Tensor], Target]:
        source = pad([p.source for p in pairs], PAD)
        begun = pad([[BOS, *p.target[:-1]] for p in pairs], PAD)
        return (source, begun), Target(pad([p.target for p in pairs], IGNORED))

    def loss(self, output: Tensor, target: Target) -> Tensor:
        smoothing = self.config.label_smoothing
        return F.cross_entropy(
            output.flatten(0, 1), target.labels.flatten(), label_smoothing=smoothing
        )

    def weight(self, target: Target) -> int:
        return int((target.labels != IGNORED).sum())

    def test_score(self, model: nn.Module, inputs: Inputs, output: Tensor, target: Target) -> Score:
        source = inputs[0]
        limit, size = self.settings["length"] - 1, self.settings["beam"]
        if size == 1:
            found = greedy(model, source, BOS, EOS, limit)
        else:
            found = beam(model, source, BOS, EOS, limit, size)
        flat = F.cross_entropy(output.flatten(0, 1), target.labels.flatten(), reduction="none")
        return Score(
            float(flat.double().sum()),
            self.weight(target),
            [self.tokenizer.decode(tokens) for tokens in found],
            list(target.references),
        )

    def score(self, output: Any, target: Any) -> Any:
        """Never asked for: `scores_training` is off, and `test_score` decodes with the model."""
        raise NybbleError("translations are scored by test_score, with the model")

    def summarise(self, scores: Sequence[Score]) -> float:
        return bleu(
            [text for score in scores for text in score.hypotheses],
            [text for score in scores for text in score.references],
        )

    def extras(self, scores: Sequence[Score]) -> dict[str, float]:
        written = sum(len(text.split()) for score in scores for text in score.hypotheses)
        expected = sum(len(text.split()) for score in scores for text in score.references)
        nll, tokens = sum(score.nll for score in scores), sum(score.tokens for score in scores)
        return {"perplexity": perplexity(nll, tokens), "length_ratio": written / expected}


@dataclass(frozen=True)
class EncodedPair:
    """One pair: numbers of both sides, and both texts."""

    source: list[int]
    target: list[int]
    text: str
    reference: str


def need_sacrebleu() -> None:
    """UserError with the install command where sacrebleu is missing."""
    if importlib.util.find_spec("sacrebleu") is None:
        raise UserError(f"BLEU needs sacrebleu. Install it with: {INSTALL}")


def bleu(hypotheses: list[str], references: list[str]) -> float:
    """Corpus BLEU, 0 to 100, by sacrebleu's usual settings."""
    from sacrebleu.metrics.bleu import BLEU

    return float(BLEU().corpus_score(hypotheses, [references]).score)
