"""What the training loop needs to know about a task: loader, model, loss, metric.

A new task is one class that inherits from `Task` and one line in `tasks/__init__.py`. The members
without a body must be written; the others have the behaviour that most tasks want.

Batches are pure functions of (epoch, step), so that any step can be repeated. The model is called
as `model(*inputs)`, or as `model(*inputs, state)` while a state is carried (see `carry`).

Scores are what a metric is made of: `score` looks at one batch, `summarise` at all of them. A score
that is a tuple of numbers must be additive, which means that summing the tuples entry by entry and
summarising the one sum gives the metric of them all: (correct, images), (sum of -log p, tokens),
(word errors, words). Any other score (a list of sentences, say) is kept as it is until the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from nybble.training.config import TrainConfig
from nybble.training.tasks.options import Option

Inputs = Tensor | tuple[Any, ...]
"""A tensor, or a tuple of what the model takes."""

FALLBACK: Mapping[str, Any] = {
    "epochs": 8,
    "batch_size": 128,
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": True,
    "betas": (0.9, 0.999),
    "weight_decay": 5e-4,
    "clip_norm": 0.0,
    "schedule": "onecycle",
    "warmup": 0.2,
    "label_smoothing": 0.0,
}
"""What a task that says nothing about a field of the configuration gets."""

FALLBACK_LR: Mapping[str, float] = {"sgd": 0.1, "adamw": 2e-3}
"""The peak learning rate where the task says nothing, or the user took another optimizer."""


class Task(Protocol):
    """One task on one data set. Made from the resolved configuration; loads its data when made."""

    metric: str
    """Name of the metric, "accuracy"."""
    unit: str
    """"%" where the metric is a share in [0, 1] that reports show in per cent, else ""."""
    higher_is_better: bool
    """Whether a larger metric is a better one."""
    steps_per_epoch: int

    default_data: ClassVar[str]
    """What `--data` is when the user gave none."""
    default_model: ClassVar[str]
    """What `--model` is when the user gave none."""

    comparison: str = "difference"
    """How two recipes are compared: "difference" of the metric, or "ratio" (perplexity)."""
    digits: int = 2
    """Digits after the point in reports."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Fields of TrainConfig that the user left to the task; `FALLBACK` has the rest."""
    model_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """The same for single models, before `defaults`: {"gpt": {"lr": 1e-3}}."""
    options: ClassVar[Mapping[str, Option]] = {}
    """What `--set KEY=VALUE` takes; read them with `read_options(config)`."""
    inherits: ClassVar[tuple[str, ...]] = ()
    """Options that belong to a trained model: a run that starts from one takes them from it."""
    uses: ClassVar[tuple[str, ...]] = ("label_smoothing",)
    """Fields of TrainConfig that only some tasks heed, and this one does; a user who sets another
    of `config.PARTIAL_FIELDS` is told that it would do nothing."""
    scores_training: bool = True
    """Whether `score` is also called on training batches, which needs additive scores; False where
    scoring is dear (decoding sentences). Then the records have no train_<metric>."""

    def __init__(self, config: TrainConfig) -> None: ...

    @classmethod
    def defaults_for(cls, config: TrainConfig) -> Mapping[str, Any]:
        """Defaults for what `config` asks for: data, model and options are filled in, other fields
        are None where the user gave nothing."""
        return {**cls.defaults, **cls.model_defaults.get(str(config.model), {})}

    def describe(self) -> dict[str, Any]:
        """What the result should say about the data (JSON-ready), at least `name`, `train` and
        `test` (numbers of items) and `sha256`. A resumed run must find the same."""
        ...

    def model(self) -> nn.Module:
        """A new model; its initial weights come from torch's global generator."""
        ...

    def batch(self, epoch: int, step: int) -> tuple[Inputs, Any]:
        """The training batch (inputs, target) of a step; inputs: a tensor or a tuple."""
        ...

    def test_batches(self) -> Iterator[tuple[Inputs, Any]]:
        """Every test batch (inputs, target), in a fixed order."""
        ...

    def loss(self, output: Any, target: Any) -> Tensor:
        """The scalar loss, a mean over the items of the batch."""
        ...

    def weight(self, target: Any) -> int:
        """How many items the loss is a mean over (images, tokens): the test loss is weighted by
        it."""
        ...

    def score(self, output: Any, target: Any) -> Any:
        """What `summarise` needs of one batch; see the head of this file. No gradients flow."""
        ...

    def summarise(self, scores: Sequence[Any]) -> float:
        """The metric of everything that was scored (at least one batch). A number that cannot be
        represented is `inf` or `nan`, never an exception; the loop then stops the run by name."""
        ...

    # -- what a task may leave as it is -------------------------------------------------------

    def test_score(self, model: nn.Module, inputs: Inputs, output: Any, target: Any) -> Any:
        """The score of a test batch, where the task needs the model itself (to decode)."""
        return self.score(output, target)

    def extras(self, scores: Sequence[Any]) -> dict[str, float]:
        """More numbers about the test set than the metric, by name (JSON-ready)."""
        return {}

    def keeps(self) -> dict[str, Any]:
        """What belongs to the trained model beside its weights and was made from the data (a
        tokenizer): JSON-ready, saved with every checkpoint. A task that starts from it finds it
        with `start.kept_by`."""
        return {}

    def carry(self, state: Any, output: Any) -> Any:
        """The state for the next batch, from the one that this batch began with and the model's
        output; None (always, as here): nothing is carried.

        The state is None at the beginning of every epoch and of every test; then the model is
        called without it. It is tensors in tuples, lists or dicts; the loop detaches it, and saves
        it with the checkpoint, so a resumed epoch goes on from the same bits.
        """
        return None
