"""Parameter groups for an ordinary torch optimizer: PACT's clips get their own rate and decay.

PACT (Choi et al. 2018, arXiv 1805.06085) regularises its clip with about the weights' decay; IBM's
toolkit exposes both as `pact_a_lr` and `pact_a_decay`. Biases and normalisation parameters
(anything of fewer than two dimensions) are not decayed, as is usual in image classification.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from nybble.nn.registry import quantized_layers

CLIP_RATE = 0.1
"""Default learning rate of clips, as a share of the weights'. No text of the 2020 paper gives one.
A clip's gradient is a sum over all clipped elements of a batch, so it is large where a weight's is
small; at a rate meant for weights a clip can run past the largest input, where no gradient brings
it back, only its decay, and its layer is left without a code but 0."""


def param_groups(
    model: nn.Module,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    alpha_lr: float | None = None,
    alpha_weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Three groups, named `weights`, `no_decay` and `clips`; empty ones are left out.

    What is None is left to the optimizer's own default, but biases and normalisation never decay;
    `alpha_lr` defaults to a tenth of `lr`, `alpha_weight_decay` to `weight_decay`. Works on models
    that were not converted as well.

    >>> groups = param_groups(nn.Linear(2, 3), lr=0.1, weight_decay=5e-4)
    >>> [(g["name"], g["weight_decay"]) for g in groups]
    [('weights', 0.0005), ('no_decay', 0.0)]
    """
    clips = {id(layer.nybble_alpha) for _, layer in quantized_layers(model)}
    weights, no_decay, alphas = [], [], []
    for parameter in model.parameters():
        if id(parameter) in clips:
            alphas.append(parameter)
        elif parameter.dim() < 2:
            no_decay.append(parameter)
        else:
            weights.append(parameter)
    groups: list[dict[str, Any]] = [
        {"name": "weights", "params": weights, "lr": lr, "weight_decay": weight_decay},
        {"name": "no_decay", "params": no_decay, "lr": lr, "weight_decay": 0.0},
        {
            "name": "clips",
            "params": alphas,
            "lr": lr * CLIP_RATE if alpha_lr is None and lr is not None else alpha_lr,
            "weight_decay": weight_decay if alpha_weight_decay is None else alpha_weight_decay,
        },
    ]
    return [
        {key: value for key, value in group.items() if value is not None}
        for group in groups
        if group["params"]
    ]


def unheld_clips(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of PACT clips that `optimizer` does not hold, with a warning that lists them.

    A model that is converted after its optimizer was made trains with its clips frozen at the
    first batch's fit. That is legal, and easy to do unawares.

    >>> unheld_clips(nn.Linear(2, 3), torch.optim.SGD(nn.Linear(2, 3).parameters()))
    []
    """
    held = {id(p) for p in _parameters(optimizer)}
    names = [
        f"{name}.nybble_alpha" if name else "nybble_alpha"
        for name, layer in quantized_layers(model)
        if layer.learns_clip and id(layer.nybble_alpha) not in held
    ]
    if names:
        warnings.warn(
            f"{len(names)} PACT clips are in no parameter group and will not be trained"
            f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}): convert the model"
            " before making the optimizer, or pass nybble.param_groups(model, lr=...) to it",
            stacklevel=2,
        )
    return names


def _parameters(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]
