"""What the three language tasks share: options, settings of the model, choice of the parts.

A setting (tokens, vocabulary, width, ...) is what the user gave with `--set`, or else what the
model's entry in the registry says. `hidden` is four times the width where neither says anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.training.config import TrainConfig
from nybble.training.data.text.tokenizers import (
    KINDS,
    Tokenizer,
    restore_tokenizer,
    train_tokenizer,
)
from nybble.training.models.language import SHAPE, LanguageModel, find_model
from nybble.training.start import kept_by
from nybble.training.tasks.base import FALLBACK_LR
from nybble.training.tasks.options import Option, read_options

T = TypeVar("T")

OPTIONS: Mapping[str, Option] = {
    "tokens": Option(str, None, "Words, characters or byte pairs.", KINDS),
    "vocabulary": Option(int, None, "Most tokens, special ones included.", low=3),
    "length": Option(int, None, "Most tokens of a sequence.", low=2),
    "steps": Option(int, None, "Steps in an epoch; one pass over the data if not given.", low=1),
    "width": Option(int, None, "Width of the model.", low=1),
    "layers": Option(int, None, "Layers of the model.", low=1),
    "heads": Option(int, None, "Attention heads.", low=1),
    "hidden": Option(int, None, "Width of the MLPs; four times the width if not given.", low=1),
    "dropout": Option(float, None, "Share dropped.", low=0.0, high=0.99),
    "part": Option(str, "test", "What is measured: test or valid.", ("test", "valid")),
}
"""The options of every language task."""

INHERITS = ("tokens", "vocabulary", "length", "width", "layers", "heads", "hidden", "dropout")
"""Those that belong to a trained model."""


def settings_of(
    task: str, options: Mapping[str, Option], config: TrainConfig
) -> tuple[LanguageModel, dict[str, Any]]:
    """The model's entry, and every option's value: given, or the model's."""
    model = find_model(task, str(config.model))
    given = read_options(task, options, config.task_options)
    known = {k: v for k, v in given.items() if v is not None}
    return model, {**dict.fromkeys(options), **model.settings, **known}


def model_training(task: str, config: TrainConfig) -> Mapping[str, Any]:
    """Fields of TrainConfig that suit the model.

    With AdamW learned clips (PACT) get the full rate. They begin at what the first batch shows, and
    a Transformer's activations grow tenfold from there; at the usual tenth of the rate the clips
    stay behind, until every input of a layer is clipped and no gradient passes it any more.
    """
    own = find_model(task, str(config.model)).training
    if (config.optimizer or own.get("optimizer")) != "adamw":
        return own
    lr = config.lr if config.lr is not None else own.get("lr", FALLBACK_LR["adamw"])
    return {**own, "alpha_lr": lr}


def shape_of(settings: Mapping[str, Any], **more: int) -> dict[str, Any]:
    """What a model is built from."""
    return {name: settings[name] for name in ("length", *SHAPE)} | more


def make_tokenizer(
    config: TrainConfig,
    settings: Mapping[str, Any],
    texts: Sequence[str],
    specials: tuple[str, ...],
) -> Tokenizer:
    """The tokenizer of the run that `config` starts from, or one trained on the texts."""
    if saved := kept_by(config).get("tokenizer"):
        return restore_tokenizer(saved, specials)
    return train_tokenizer(settings["tokens"], texts, settings["vocabulary"], specials)


def held_out(data: Any, part: str) -> Any:
    """The test or the validation part; UserError where there is none."""
    content = getattr(data, part)
    if not content:
        raise UserError(f"{data.name} has no validation set; leave out --set part=valid.")
    return content


def sample(items: Sequence[T], count: int | None) -> Sequence[T]:
    """`count` of the items, chosen at random, the same in every run, in their order."""
    if count is None or count >= len(items):
        return items
    chosen = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))[:count]
    return [items[index] for index in sorted(chosen.tolist())]


def check_model(
    model: nn.Module, name: str, data: str, inputs: tuple[Tensor, ...], expected: list[int]
) -> None:
    """Try the model on a small batch; UserError if it does not fit the data."""
    asked = f"The model '{name}' does not fit the data '{data}'"
    shapes = " and ".join(str(list(entry.shape)) for entry in inputs)
    was_training = model.training
    try:
        with torch.no_grad():
            output = model.eval()(*inputs)
    except Exception as error:
        raise UserError(
            f"{asked}: given tokens {shapes} it raised {type(error).__name__}: {error}"
        ) from error
    finally:
        model.train(was_training)
    logits = output[0] if isinstance(output, tuple) else output
    if not isinstance(logits, Tensor) or list(logits.shape) != expected:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"{asked}: given tokens {shapes} it must return {expected}, it returned {got}."
        )
