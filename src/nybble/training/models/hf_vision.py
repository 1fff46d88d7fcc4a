"""Image classifiers of the transformers library, from a configuration, not pre-trained.

`hf:resnet`, `hf:mobilenetv2`, `hf:vit`: the library's own classes, unmodified; they return an
output with `logits`, which the task reads. Sizes suit small images; what is not said here is the
library's default.

    hf:resnet        ResNetForImageClassification: 7x7 stem of stride 2 and a maximum (the library
                     has no other), three stages of two basic blocks, 32 to 128 channels
    hf:mobilenetv2   MobileNetV2ForImageClassification: stem of stride 2, output stride 8 (later
                     convolutions are dilated instead), dropout 0.2
    hf:vit           ViTForImageClassification: patches of 4, 6 layers of width 128, 4 heads
"""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import nn

from nybble.errors import UserError

INSTALL = "pip install 'nybble[tasks]'"


def resnet(num_classes: int = 10, in_channels: int = 3, size: int = 32) -> nn.Module:
    """ResNetForImageClassification."""
    config = _library("resnet").ResNetConfig(
        num_channels=in_channels,
        embedding_size=32,
        hidden_sizes=[32, 64, 128],
        depths=[2, 2, 2],
        layer_type="basic",
        num_labels=num_classes,
    )
    return _made(_library("resnet").ResNetForImageClassification(config))


def mobilenetv2(num_classes: int = 10, in_channels: int = 3, size: int = 32) -> nn.Module:
    """MobileNetV2ForImageClassification."""
    config = _library("mobilenetv2").MobileNetV2Config(
        num_channels=in_channels,
        image_size=size,
        output_stride=8,
        classifier_dropout_prob=0.2,
        num_labels=num_classes,
    )
    return _made(_library("mobilenetv2").MobileNetV2ForImageClassification(config))


def vit(num_classes: int = 10, in_channels: int = 3, size: int = 32) -> nn.Module:
    """ViTForImageClassification."""
    config = _library("vit").ViTConfig(
        num_channels=in_channels,
        image_size=size,
        patch_size=4,
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        num_labels=num_classes,
    )
    return _made(_library("vit").ViTForImageClassification(config))


def _library(name: str) -> Any:
    if importlib.util.find_spec("transformers") is None:
        raise UserError(
            f"The model 'hf:{name}' needs the transformers library. Install it: {INSTALL}"
        )
    import transformers

    return transformers


def _made(model: Any) -> nn.Module:
    made: nn.Module = model
    return made.train()  # a new model of the library may be in evaluation mode
