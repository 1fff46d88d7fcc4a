"""The names that `--model` accepts, each with the training settings that suit it.

A user's own model is `module:function`, imported from the current folder too; the function (or
class) is called with `num_classes`, `in_channels` and `size` (the images' side) if it accepts them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nybble.errors import UserError, suggest
from nybble.own import import_own
from nybble.training.models import cnn, hf_vision, imagenet, mobilenet, plain, resnet, vit
from nybble.training.tasks.base import FALLBACK, FALLBACK_LR


@dataclass(frozen=True)
class ModelSpec:
    """A built-in model: its builder and what suits it.

    lr: the peak learning rate of its optimizer at batch 128 (SGD: in proportion to the batch).
    residual: whether blocks can start as the identity (`zero_init`); sized: whether the builder is
    told the images' size. training: other fields of TrainConfig that suit it.
    """

    build: Callable[..., nn.Module]
    lr: float
    summary: str
    residual: bool = False
    sized: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)


_TRANSFORMER = {"optimizer": "adamw", "weight_decay": 0.05, "clip_norm": 1.0}

MODELS: dict[str, ModelSpec] = {
    "cnn": ModelSpec(cnn.cnn, 0.1, "three convolutions, 24 thousand weights"),
    "resnet8": ModelSpec(resnet.resnet8, 0.2, "ResNet-8, 78 thousand weights", True),
    "resnet8x4": ModelSpec(
        resnet.resnet8x4, 0.1, "ResNet-8 of 64 to 256 channels, 1.2 million", True
    ),
    "resnet14": ModelSpec(resnet.resnet14, 0.2, "ResNet-14, 175 thousand weights", True),
    "resnet20": ModelSpec(resnet.resnet20, 0.2, "ResNet-20, 272 thousand weights", True),
    "resnet18": ModelSpec(resnet.resnet18, 0.1, "ResNet-18 (CIFAR form), 11 million weights", True),
    "mobilenetv2": ModelSpec(
        mobilenet.mobilenetv2,
        0.2,
        "MobileNetV2 (CIFAR form), 2.2 million weights",
        training={"epochs": 4, "batch_size": 64},
    ),
    "mobilenetv2x05": ModelSpec(
        mobilenet.mobilenetv2x05,
        0.2,
        "MobileNetV2 of half the width, 700 thousand weights",
        training={"batch_size": 64},
    ),
    "vgg11": ModelSpec(plain.vgg11, 0.05, "VGG-11 with batch norm, 9.2 million weights"),
    "alexnet": ModelSpec(plain.alexnet, 0.02, "AlexNet for small images, 5 million weights"),
    "vit-tiny": ModelSpec(
        vit.vit_tiny, 1e-3, "vision transformer, 1.2 million weights", training=_TRANSFORMER
    ),
    "hf:resnet": ModelSpec(hf_vision.resnet, 0.1, "transformers' ResNet", sized=True),
    "hf:mobilenetv2": ModelSpec(
        hf_vision.mobilenetv2,
        0.1,
        "transformers' MobileNetV2",
        sized=True,
        training={"epochs": 4, "batch_size": 64},
    ),
    "hf:vit": ModelSpec(
        hf_vision.vit, 1e-3, "transformers' ViT", sized=True, training=_TRANSFORMER
    ),
    "imagenet-resnet18": ModelSpec(imagenet.resnet18, 0.05, "ResNet-18 for 224x224", True),
    "imagenet-resnet50": ModelSpec(imagenet.resnet50, 0.05, "ResNet-50 for 224x224", True),
    "imagenet-mobilenetv2": ModelSpec(imagenet.mobilenetv2, 0.05, "MobileNetV2 for 224x224"),
    "imagenet-alexnet": ModelSpec(imagenet.alexnet, 0.01, "AlexNet for 224x224"),
}
USER_MODEL_LR = 0.05


def training_of(name: str, batch_size: int | None, optimizer: str | None) -> dict[str, Any]:
    """What suits the model `name`: fields of TrainConfig, the rate in proportion to the batch.

    >>> training_of("resnet8", 64, None)
    {'optimizer': 'sgd', 'lr': 0.1}
    """
    spec = MODELS.get(name)
    own = dict(spec.training) if spec else {}
    usual = own.get("optimizer", FALLBACK["optimizer"])
    used = optimizer or usual
    batch = batch_size or own.get("batch_size", FALLBACK["batch_size"])
    if used == usual:
        lr = spec.lr if spec else USER_MODEL_LR
    else:  # its decay and clipping belong to its optimizer
        own = {key: own[key] for key in ("epochs", "batch_size") if key in own}
        lr = FALLBACK_LR[used]
    if used == "sgd":
        lr *= batch / 128
    return {**own, "optimizer": used, "lr": lr}


def check_model_name(name: str) -> None:
    """UserError when `name` is neither a built-in model nor `module:function`."""
    if name not in MODELS and (":" not in name or name.startswith("hf:")):
        raise UserError(
            f"Unknown model '{name}'; choose one of {', '.join(MODELS)}, or your own as "
            f"module:function.{suggest(name, MODELS)}"
        )


def build_model(
    name: str, num_classes: int, in_channels: int, zero_init: bool = False, size: int = 32
) -> nn.Module:
    """Build the model `name` with initial weights from torch's global generator; `size`: the side
    of the images, for models that must know it."""
    check_model_name(name)
    spec = MODELS.get(name)
    if spec is None:
        offered = {"num_classes": num_classes, "in_channels": in_channels, "size": size}
        return build_user_model(name, offered)
    options: dict[str, Any] = {}
    if zero_init and spec.residual:
        options["zero_init_residual"] = True
    if spec.sized:
        options["size"] = size
    return spec.build(num_classes, in_channels, **options)


def call_user_function(name: str, offered: Mapping[str, object]) -> object:
    """Import `module:function`, from the current folder too, and call it with those of the
    `offered` arguments that it accepts; what it returns is the caller's business.

    Raises:
        UserError: the module cannot be imported, has no such function, or the call fails.
    """
    module, attribute = import_own(name, "The model")
    builder = getattr(module, attribute, None)
    if not callable(builder):
        public = [key for key, value in vars(module).items() if callable(value)]
        raise UserError(
            f"The module '{module.__name__}' ({module.__file__}) has no function "
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
