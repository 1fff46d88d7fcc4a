"""Initial weights.

Convolutions: normal with deviation sqrt(2 / fan_out) (He et al. 2015, "Delving deep into
rectifiers", the backward form). Linear layers: normal with deviation sqrt(1 / fan_in), as no
rectifier follows the classifier. Batch norm: weight 1, bias 0. Other biases: 0.
"""

from __future__ import annotations

import math

from torch import nn


def he_init(model: nn.Module) -> None:
    """Initialise `model` in place from torch's global generator."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.0 / math.sqrt(module.in_features))
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)
