"""The optimizer of a run, with weight decay where it is usual.

Weights of convolutions and linear layers decay; parameters of one dimension (biases, batch norm)
do not (He et al. 2019, "Bag of tricks", section 3.1). A converted model gets its groups from
`nybble.param_groups`, which gives the learned clips their own rate and decay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nybble.training.config import TrainConfig


def plain_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of the trainable parameters: with decay, and without."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if parameter.dim() > 1 else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    model: nn.Module, config: TrainConfig, converted: bool
) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW; every group remembers its peak rate as `peak_lr`."""
    lr = config.resolved_lr()
    if converted:
        import nybble

        groups = nybble.param_groups(
            model,
            lr=lr,
            weight_decay=config.weight_decay,
            **{
                key: value
                for key in ("alpha_lr", "alpha_weight_decay")
                if (value := getattr(config, key)) is not None
            },
        )
    else:
        groups = plain_groups(model, config.weight_decay)
    for group in groups:
        group["peak_lr"] = group.get("lr", lr)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    momentum = config.momentum
    return torch.optim.SGD(
        groups, lr=lr, momentum=momentum, nesterov=config.nesterov and momentum > 0
    )


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to `factor` times its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
