"""The forward pass alone, as a deployed network runs: what published inference figures speak of.

    kept     Gemms, activation functions, pooling, layer norms, additions, quantisation of inputs
    gone     backward, optimizer, loss; batch normalisation, which is folded into the weights
             before; quantisation of weights, which are stored as codes

A tensor that only backward would read is not written. A batch norm's place in the chain stays, so
what follows it takes the Gemm's result as it comes.

Not done here: operators that only training has, such as dropout, are counted as they stand.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from nybble.hardware.kinds import LOSS, QUANTISE
from nybble.hardware.tasks import Task, Use, Workload

__all__ = ["forward_only"]

_FOLDED = ("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm")


def forward_only(workload: Workload) -> Workload:
    """The workload's forward pass; see the module.

    >>> from nybble.hardware import Traced, get_network
    >>> whole = Traced(get_network("resnet18")).workload("sun2020", 1)
    >>> found = forward_only(whole)
    >>> {task.phase for task in found.tasks}, round(found.macs / 1e9, 2)
    ({'forward'}, 1.81)
    """
    weights = {use.key for task in workload.tasks if task.phase == "step" for use in task.writes}
    renamed: dict[Hashable, Hashable] = {}
    tasks: list[Task] = []
    for task in workload.tasks:
        if task.phase != "forward" or task.cause == LOSS:
            continue
        if task.cause == QUANTISE and task.reads[0].key in weights:
            continue
        reads = tuple(_renamed(use, renamed) for use in task.reads)
        if task.name in _FOLDED:
            renamed[task.writes[0].key] = reads[0].key
            continue
        tasks.append(replace(task, reads=reads))
    return replace(workload, tasks=tuple(tasks))


def _renamed(use: Use, renamed: dict[Hashable, Hashable]) -> Use:
    return replace(use, key=renamed.get(use.key, use.key))
