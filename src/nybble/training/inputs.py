"""What goes into a model and comes out of it: a tensor, or tensors in tuples, lists and dicts.

call(model, x) = model(x)         call(model, (a, b)) = model(a, b)
call(model, x, state) = model(x, state)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nybble.training.tasks.base import Inputs


def call(model: nn.Module, inputs: Inputs, carried: Any = None) -> Any:
    """Run the model on a batch, and on what was carried over from the batch before."""
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    return model(*arguments) if carried is None else model(*arguments, carried)


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `change` applied to every tensor in it; what is no container stays as it is.

    >>> mapped((torch.ones(1), [torch.zeros(1), 3]), lambda t: t + 1)
    (tensor([2.]), [tensor([1.]), 3])
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return type(value)((key, mapped(entry, change)) for key, entry in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return type(value)(*(mapped(entry, change) for entry in value))
    if isinstance(value, list | tuple):
        return type(value)(mapped(entry, change) for entry in value)
    return value


def detached(value: Any) -> Any:
    """`value` without its part in the graph."""
    return mapped(value, Tensor.detach)


def laid_out(inputs: Inputs, channels_last: bool) -> Inputs:
    """Images (tensors of four dimensions) in the layout that the run asks for."""
    if not channels_last:
        return inputs

    def change(tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    changed: Inputs = mapped(inputs, change)
    return changed
