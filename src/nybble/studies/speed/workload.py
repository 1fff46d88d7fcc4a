"""What is trained while it is measured: a model, one fixed batch, and a loss.

    cnn, resnet8, ..., resnet18   random images [batch, channels, size, size], cross-entropy
    transformer                   random tokens [batch, 128], next-token cross-entropy
    lstm                          2 layers of 512 units on random [batch, 64, 512], mean of squares
    module:function               a model of the user's

A user's function is imported from the current folder too. It is called with those of `num_classes`,
`in_channels` and `batch` that it accepts, and returns one of

    model                          takes images as above
    model, example                 example: a tensor, a tuple of arguments, or a dict of keywords
    model, example, loss           loss(output) is a scalar tensor

Without a loss of its own: the output's `loss` if it has one; cross-entropy with random labels for
an output [N, classes] of images; else the mean of the output's squares. Step time does not depend
on what images and labels show.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.errors import UserError, suggest
from nybble.training.models.registry import MODELS, build_model, call_user_function
from nybble.training.models.transformer import Transformer

CLASSES = 10
TOKENS, VOCABULARY = 128, 256
STEPS, UNITS = 64, 512
TRANSFORMER, LSTM = "transformer", "lstm"
NAMES = (*MODELS, TRANSFORMER, LSTM)

Loss = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Workload:
    """A float32 model and one batch for it.

    `rules` are what the 4-bit form is converted with beside its recipe (None: the recipe's rules
    only); a rule of `"recipe"` stands for the recipe itself.
    """

    name: str
    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    loss: Loss
    rules: Mapping[str, str | None] = field(default_factory=dict)

    def run(self, model: nn.Module) -> Tensor:
        """The loss of `model` on the batch."""
        return self.loss(model(*self.args, **self.kwargs))

    def copy(self) -> Workload:
        """The same with a copy of the model."""
        return replace(self, model=copy.deepcopy(self.model))

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor of the batch."""
        return [x for x in (*self.args, *self.kwargs.values()) if isinstance(x, Tensor)]

    @property
    def has_images(self) -> bool:
        """Whether a tensor of the batch can lie channels-last."""
        return any(x.dim() == 4 and x.is_floating_point() for x in self.tensors)

    @property
    def input(self) -> str:
        """The batch in words: `float32 [32, 3, 32, 32]`."""
        words = [f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for x in self.tensors]
        return ", ".join(words) or "no tensor"

    def channels_last(self) -> Workload:
        """The same with images channels-last; the model is not changed."""

        def lay(x: Any) -> Any:
            if isinstance(x, Tensor) and x.dim() == 4 and x.is_floating_point():
                return x.contiguous(memory_format=torch.channels_last)
            return x

        kwargs = {name: lay(x) for name, x in self.kwargs.items()}
        return replace(self, args=tuple(lay(x) for x in self.args), kwargs=kwargs)


def check_name(name: str) -> None:
    """UserError where `name` is no model that can be measured."""
    if name not in NAMES and ":" not in name:
        raise UserError(
            f"Unknown model '{name}'; choose one of {', '.join(NAMES)}, or your own as "
            f"module:function.{suggest(name, NAMES)}"
        )


def make_workload(name: str, batch: int, size: int = 32, channels: int = 3) -> Workload:
    """Build the workload `name`; the same weights and the same batch at every call.

    Raises:
        UserError: an unknown name, or a function of the user's that returns something else.

    >>> made = make_workload("cnn", batch=2, size=16)
    >>> made.input, made.has_images
    ('float32 [2, 3, 16, 16]', True)
    """
    check_name(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == TRANSFORMER:
            return _transformer(batch)
        if name == LSTM:
            return _lstm(batch)
        if name in MODELS:
            return _vision(name, build_model(name, CLASSES, channels), batch, size, channels)
        return _users(name, batch, size, channels)


def task_workload(task: str, model: str, data: str | None, batch: int) -> Workload:
    """The workload of a task's model: its first training batch, its loss (no state is carried).

    Raises:
        UserError: an unknown task, model or data set, or one with fewer than `batch` examples.
    """
    from nybble.training.config import TrainConfig
    from nybble.training.tasks import make_task

    made = make_task(TrainConfig(task=task, model=model, data=data, batch_size=batch))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = made.model()
    inputs, target = made.batch(0, 0)
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    found = max((x.shape[0] for x in args if isinstance(x, Tensor) and x.dim()), default=batch)
    if found < batch:
        raise TooFewError(
            f"{made.describe()['name']} has {found} training examples, too few for a batch of "
            f"{batch}."
        )
    return Workload(model, network, args, {}, lambda output: made.loss(output, target))


class TooFewError(UserError):
    """A batch is larger than the data."""


def _vision(name: str, model: nn.Module, batch: int, size: int, channels: int) -> Workload:
    images = torch.randn(batch, channels, size, size)
    labels = torch.randint(0, CLASSES, (batch,))

    def loss(output: Any) -> Tensor:
        x = _tensor(name, output)
        classes = x.dim() == 2 and x.shape == (batch, CLASSES)
        return F.cross_entropy(x, labels) if classes else default_loss(name, output)

    return Workload(name, model, (images,), {}, loss)


def _transformer(batch: int) -> Workload:
    model = Transformer(vocabulary=VOCABULARY, length=TOKENS)
    tokens = torch.randint(0, VOCABULARY, (batch, TOKENS + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].reshape(-1)

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits.view(-1, VOCABULARY), targets)

    # The first layer of this network is the embedding, not the first matrix product: the recipe
    # holds for all blocks, and the head stays in float32.
    rules = {"head": None, r"re:^blocks\.": "recipe"}
    return Workload(TRANSFORMER, model, (inputs,), {}, loss, rules)


def _lstm(batch: int) -> Workload:
    model = nn.LSTM(UNITS, UNITS, num_layers=2, batch_first=True)
    x = torch.randn(batch, STEPS, UNITS)
    # Between an embedding and a head, which are the first and the last layer, no Gemm of an LSTM
    # is either.
    return Workload(
        LSTM, model, (x,), {}, lambda output: default_loss(LSTM, output), {"re:.": "recipe"}
    )


EXAMPLE_HINT = ". A function of yours may return (model, example input) instead of the model."


def _users(name: str, batch: int, size: int, channels: int) -> Workload:
    offered = {"num_classes": CLASSES, "in_channels": channels, "batch": batch}
    model, example, loss = users_model(name, offered)
    if example is None:
        return _vision(name, model, batch, size, channels)
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    if isinstance(example, Mapping):
        kwargs = example
    else:
        args = example if isinstance(example, tuple) else (example,)
    chosen = loss if loss is not None else lambda output: default_loss(name, output)
    return Workload(name, model, args, kwargs, chosen)


def users_model(
    name: str, offered: Mapping[str, object]
) -> tuple[nn.Module, Any, Callable[[Any], Tensor] | None]:
    """(model, example input or None, loss or None) of the user's `module:function`, called with
    those of the `offered` arguments that it accepts.

    Raises:
        UserError: it cannot be imported or called, or returns something else.
    """
    made = call_user_function(name, offered)
    parts = made if isinstance(made, tuple) else (made,)
    model = parts[0] if parts else None
    if not isinstance(model, nn.Module) or not 1 <= len(parts) <= 3:
        raise UserError(
            f"The model '{name}' must return a torch.nn.Module, (model, example) or (model, "
            f"example, loss); it returned {_kinds(made)}."
        )
    loss = parts[2] if len(parts) == 3 else None
    if loss is not None and not callable(loss):
        raise UserError(
            f"The model '{name}': its loss must be a function of the output, not "
            f"{type(loss).__name__}."
        )
    return model, parts[1] if len(parts) > 1 else None, loss


def default_loss(name: str, output: Any) -> Tensor:
    """The output's own `loss`, or the mean of the squares of its first tensor.

    >>> default_loss("m", torch.tensor([1.0, 3.0]))
    tensor(5.)
    """
    own = getattr(output, "loss", None)
    if isinstance(own, Tensor):
        return own
    return _tensor(name, output).float().square().mean()


def _tensor(name: str, output: Any) -> Tensor:
    """The first floating-point tensor of an output: itself, its `logits`, or one inside it."""
    found: list[Any] = [output, getattr(output, "logits", None)]
    if isinstance(output, Mapping):
        found += output.values()
    elif isinstance(output, tuple | list):
        found += output
    for x in found:
        if isinstance(x, Tensor) and x.is_floating_point():
            return x
    raise UserError(
        f"The model '{name}' returns {_kinds(output)}, in which there is no floating-point tensor; "
        "give a loss: return (model, example, loss)."
    )


def _kinds(made: object) -> str:
    if isinstance(made, tuple):
        return f"({', '.join(type(part).__name__ for part in made)})"
    return type(made).__name__


def at_batch(workload: Workload, batch: int) -> Workload | None:
    """The workload with the first `batch` examples, where the loss allows it: None where the
    batch has no common first dimension of more than `batch`, or the loss has labels of its own."""
    sizes = {x.shape[0] for x in workload.tensors if x.dim()}
    if len(sizes) != 1 or max(sizes) <= batch:
        return None

    def cut(x: Any) -> Any:
        return x[:batch].clone() if isinstance(x, Tensor) and x.dim() else x

    args = tuple(cut(x) for x in workload.args)
    return replace(workload, args=args, kwargs={k: cut(x) for k, x in workload.kwargs.items()})
