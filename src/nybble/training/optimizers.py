"""The optimizer of a run, with weight decay where it is usual.

Weights of convolutions and linear layers decay; parameters of one dimension (biases, batch norm)
do not (He et al. 2019, "Bag of tricks", section 3.1). The groups are those of
`nybble.param_groups`, converted or not; learned clips have their own rate and decay there.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from nybble.training.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW; every group remembers its peak rate as `peak_lr`."""
    import nybble

    lr = config.resolved_lr()
    groups = nybble.param_groups(
        model,
        lr=lr,
        weight_decay=config.weight_decay,
        alpha_lr=config.alpha_lr,
        alpha_weight_decay=config.alpha_weight_decay,
    )
    for group in groups:
        group["peak_lr"] = group["lr"]
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


def unscale_(parameters: Iterable[nn.Parameter], loss_scale: float) -> None:
    """Divide the gradients by a loss scale, a power of two: exact but where a result is subnormal.

    >>> weight = nn.Parameter(torch.zeros(1))
    >>> weight.grad = torch.ones(1)
    >>> unscale_([weight], 4.0)
    >>> weight.grad
    tensor([0.2500])
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, 1 / loss_scale)
