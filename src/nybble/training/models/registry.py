"""The names that `--model` accepts, each with the training settings that suit it.

A user's own model is `module:function`, imported from the current folder too; the function (or
class) is called with `num_classes` and `in_channels` if it accepts them.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nybble.errors import UserError, suggest
from nybble.training.models import cnn, resnet


@dataclass(frozen=True)
class ModelSpec:
    """A built-in model: its builder, the peak learning rate at batch 128, and whether blocks can
    start as the identity (`zero_init`)."""

    build: Callable[..., nn.Module]
    lr: float
    summary: str
    residual: bool = True


MODELS: dict[str, ModelSpec] = {
    "cnn": ModelSpec(cnn.cnn, 0.1, "three convolutions, 24 thousand weights", residual=False),
    "resnet8": ModelSpec(resnet.resnet8, 0.2, "ResNet-8, 78 thousand weights"),
    "resnet8x4": ModelSpec(resnet.resnet8x4, 0.1, "ResNet-8 of 64 to 256 channels, 1.2 million"),
    "resnet14": ModelSpec(resnet.resnet14, 0.2, "ResNet-14, 175 thousand weights"),
    "resnet20": ModelSpec(resnet.resnet20, 0.2, "ResNet-20, 272 thousand weights"),
    "resnet18": ModelSpec(resnet.resnet18, 0.1, "ResNet-18 (CIFAR form), 11 million weights"),
}
USER_MODEL_LR = 0.05


def default_lr(name: str) -> float:
    """The peak learning rate at batch 128 for the model `name`."""
    return MODELS[name].lr if name in MODELS else USER_MODEL_LR


def check_model_name(name: str) -> None:
    """UserError when `name` is neither a built-in model nor `module:function`."""
    if name not in MODELS and ":" not in name:
        raise UserError(
            f"Unknown model '{name}'; choose one of {', '.join(MODELS)}, or your own as "
            f"module:function.{suggest(name, MODELS)}"
        )


def build_model(
    name: str, num_classes: int, in_channels: int, zero_init: bool = False
) -> nn.Module:
    """Build the model `name` with initial weights from torch's global generator."""
    check_model_name(name)
    if name in MODELS:
        options = {"zero_init_residual": True} if zero_init and MODELS[name].residual else {}
        return MODELS[name].build(num_classes, in_channels, **options)
    return build_user_model(name, {"num_classes": num_classes, "in_channels": in_channels})


def call_user_function(name: str, offered: Mapping[str, object]) -> object:
    """Import `module:function`, from the current folder too, and call it with those of the
    `offered` arguments that it accepts; what it returns is the caller's business.

    Raises:
        UserError: the module cannot be imported, has no such function, or the call fails.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"The model '{name}' cannot be imported: module '{module_name}' gave "
            f"{type(error).__name__}: {error}."
        ) from error
    builder = getattr(module, attribute, None)
    if not callable(builder):
        public = [key for key, value in vars(module).items() if callable(value)]
        raise UserError(
            f"The module '{module_name}' ({module.__file__}) has no function "
            f"'{attribute}'.{suggest(attribute, public)}"
        )
    try:
        parameters = list(inspect.signature(builder).parameters.values())
    except ValueError:  # a builtin without a signature
        parameters = []
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    accepted = {parameter.name for parameter in parameters}
    arguments = {k: v for k, v in offered.items() if takes_any or k in accepted}
    try:
        made: object = builder(**arguments)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"The model '{name}', called with {arguments or 'no arguments'}, gave "
            f"{type(error).__name__}: {error}."
        ) from error
    return made


def build_user_model(name: str, offered: Mapping[str, object]) -> nn.Module:
    """A user's own model `module:function`, for any task: called with those of the `offered`
    arguments that it accepts; UserError if that gives no `torch.nn.Module`."""
    model = call_user_function(name, offered)
    if not isinstance(model, nn.Module):
        raise UserError(
            f"The model '{name}' must return a torch.nn.Module; it returned {type(model).__name__}."
        )
    return model
