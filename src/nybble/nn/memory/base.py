"""A module that keeps less for its backward pass: torch's own class, changed in place.

Nothing is added to the state_dict. Everything that is kept goes through `save_for_backward`, so
that `training/saved.py` and torch's hooks see all of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _everywhere

from nybble.errors import UserError
from nybble.nn.owned import is_unshared


class MemoryLayer(nn.Module):
    """Mixin: `class ReLU(MemoryLayer, nn.ReLU)`. `attach_memory_` and `detach_memory_` are called
    by `registry.py`; what a module knows beside its torch state is in `_nybble_memory_*`."""

    memory_kind: ClassVar[str]
    memory_keeps: ClassVar[str]

    _nybble_memory_backend = "reference"
    _nybble_memory_in_place = False
    _nybble_memory_fused: tuple[nn.Module, ...] = ()
    _nybble_memory_source: tuple[nn.Module, ...] = ()

    def attach_memory_(self, backend: str) -> None:
        """Called after the class was changed."""
        self._nybble_memory_backend = backend

    def detach_memory_(self) -> None:
        """Forget all that was attached."""
        for name in [name for name in self.__dict__ if name.startswith("_nybble_memory_")]:
            del self.__dict__[name]

    def keeps(self) -> str:
        """What is kept for backward, in words."""
        return self.memory_keeps


@dataclass
class Token:
    """Travels with the output of a normalisation that did the work of the ReLU after it."""

    version: int = 0  # the output's count of in-place changes: one that has changed needs a ReLU
    taken: bool = False

    def check(self) -> None:
        """UserError where no ReLU took the output: called in backward, when it has been used."""
        if not self.taken:
            raise UserError(
                "a BatchNorm that was joined with the ReLU after it was used without that ReLU, so"
                " its output was not what the model asked for: convert with"
                " activations=nybble.ActivationMemory(fuse=False)"
            )


class _Count(nn.Module):
    def forward(self, input: Tensor) -> int:
        return sys.getrefcount(input)


# What `sys.getrefcount(input)` gives at the top of a module's forward that was called as
# `module(expression)`: nobody but the call holds the tensor. It depends on Python's version.
_TEMPORARY = int(_Count()(torch.empty(1)))


def is_temporary(x: Tensor, references: int) -> bool:
    """Whether a tensor with so many references at the top of `forward` is held by nobody else: not
    by a variable of the caller, an attribute, a list, or a view. Then it may be written over."""
    return references <= _TEMPORARY and is_unshared(x)


def memory_layers(model: nn.Module) -> Iterator[tuple[str, MemoryLayer]]:
    """(name, module) of every compressing module; shared ones once."""
    for name, module in model.named_modules():
        if isinstance(module, MemoryLayer):
            yield name, module


def keeps_graph(*tensors: Tensor | None) -> bool:
    """Whether a backward pass will come: otherwise torch's own function is as good."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def in_transform(*tensors: Tensor | None) -> bool:
    """Whether torch.func (grad, vmap, jvp) is at work, which autograd functions do not support."""
    functorch = torch._C._functorch
    return any(
        t is not None and (functorch.is_gradtrackingtensor(t) or functorch.is_batchedtensor(t))
        for t in tensors
    )


def compresses(*tensors: Tensor | None) -> bool:
    """Whether this call needs a compressing function at all; torch.compile decides itself what a
    graph keeps."""
    if torch.compiler.is_compiling():
        return False
    return keeps_graph(*tensors) and not in_transform(*tensors)


def passive(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a hook that only counts: it does not keep modules from working on each other's results.

    >>> passive(print).__name__
    'print'
    """

    @wraps(hook)
    def marked(*args: Any, **kwargs: Any) -> Any:
        return hook(*args, **kwargs)

    marked.nybble_passive = True  # type: ignore[attr-defined]
    return marked


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody watches what goes through `module`; nybble's own hooks do not count."""
    hooks: list[Any] = [
        *module._forward_hooks.values(),
        *module._forward_pre_hooks.values(),
        *module._backward_hooks.values(),
        *module._backward_pre_hooks.values(),
        *_everywhere._global_forward_hooks.values(),
        *_everywhere._global_forward_pre_hooks.values(),
        *_everywhere._global_backward_hooks.values(),
        *_everywhere._global_backward_pre_hooks.values(),
    ]
    return any(not getattr(hook, "nybble_passive", False) for hook in hooks)
