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

    config = config.resolved()
    lr = config.lr
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
        return torch.optim.AdamW(groups, lr=lr, betas=config.betas)
    momentum = config.momentum
    return torch.optim.SGD(
        groups, lr=lr, momentum=momentum, nesterov=config.nesterov and momentum > 0
    )


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to `factor` times its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def clip_gradients_(optimizer: torch.optim.Optimizer, largest: float) -> bool:
    """Scale all gradients down so that their norm is at most `largest`; whether they were larger.

    As `torch.nn.utils.clip_grad_norm_` (Pascanu et al. 2013), over weights and biases. Clips that a
    recipe learns are left out: their gradients are sums over many elements, and would shrink the
    step of every weight.

    >>> weight = nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_gradients_(torch.optim.SGD([weight], lr=0.1), 1.0)
    True
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """
    parameters = [
        parameter
        for group in optimizer.param_groups
        if group.get("name") != "clips"
        for parameter in group["params"]
    ]
    return float(nn.utils.clip_grad_norm_(parameters, largest)) > largest


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
