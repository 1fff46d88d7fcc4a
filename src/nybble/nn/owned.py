"""Whether a tensor that a function was given may be written over.

A gradient: the engine hands it on as soon as it is complete. Nobody else will read it unless
somebody else holds it: the other branch of a sum, a parameter's `.grad`, `retain_grad`, a hook, a
caller's own `y.backward(gradient)`. Each of these is one more reference to the tensor, to its
Python object or to its storage (views), and all three are counted. How many references the engine
itself holds depends on versions of torch and Python, so it is measured once, on a gradient that
nobody else has and on one that is shared; where the two look alike, no gradient is ever written
over. Watchers (dispatch modes, tracers) hold references too: they are kept from the measurement, so
that what they hold later counts as held.

References do not tell whose memory it is: a function may return an array of NumPy's as a gradient.
Only blocks of nybble's own pool are written over.

An activation, in forward: the same counts, of a tensor that only the call's arguments hold.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from nybble.nn.once import once_differentiable
from nybble.ops.native.pool import is_own

Counts = tuple[int, int, int, bool]


def counts(grad: Tensor) -> Counts:
    """References to the Python object, the tensor and its storage; whether its memory is not
    nybble's own."""
    # Not `untyped_storage()`: autograd adds in place only to memory that has no Python object.
    storage = torch._C._storage_id(grad)  # type: ignore[attr-defined]
    return (
        sys.getrefcount(grad),
        grad._use_count(),  # type: ignore[attr-defined]
        torch._C._storage_Use_Count(storage),
        not is_own(grad),
    )


def may_overwrite(found: Counts) -> bool:
    """Whether `counts(grad)`, taken on the first line of a `once_differentiable` backward, says
    that nobody else holds the gradient, and that its memory is nybble's own.

    >>> may_overwrite((10**6, 10**6, 10**6, False))
    False
    """
    alone = _alone()
    return alone is not None and all(a <= b for a, b in zip(found, alone, strict=True))


def is_unshared(x: Tensor) -> bool:
    """Whether one Python object alone holds the memory of `x`: no view of it lives, and no graph
    has saved it.

    >>> x = torch.zeros(3)
    >>> is_unshared(x)
    True
    >>> view = x.detach()
    >>> is_unshared(x)
    False
    """
    if not _countable():
        return False
    storage = torch._C._storage_id(x)  # type: ignore[attr-defined]
    return bool(x._use_count() == 1 and torch._C._storage_Use_Count(storage) == 1)  # type: ignore[attr-defined]


class _Probe(torch.autograd.Function):
    seen: ClassVar[list[Counts]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x + 1.0

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        _Probe.seen.append(counts(grad))
        return grad


@lru_cache(maxsize=1)
def _alone() -> Counts | None:
    """The counts of a gradient that nobody else holds; None where sharing does not show."""
    if not _countable():
        return None
    with torch.enable_grad(), _unwatched():
        return _measure()


@lru_cache(maxsize=1)
def _countable() -> bool:
    names = ("_storage_id", "_storage_Use_Count")
    return hasattr(Tensor, "_use_count") and all(hasattr(torch._C, name) for name in names)


@contextmanager
def _unwatched() -> Iterator[None]:
    """Without those who may hold what goes by."""
    trace, profiler = sys.gettrace(), sys.getprofile()
    sys.settrace(None)
    sys.setprofile(None)
    try:
        with (
            _disable_current_modes(),
            torch._C.DisableTorchFunction(),
            torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x),
        ):
            yield
    finally:
        sys.settrace(trace)
        sys.setprofile(profiler)


def _measure() -> Counts | None:
    def probe() -> Tensor:
        x = torch.ones(3, requires_grad=True)
        return _Probe.apply(x * 2.0)  # type: ignore[no-any-return, no-untyped-call]

    def run(output: Tensor) -> list[Counts]:
        _Probe.seen.clear()
        (output * 3.0).sum().backward()
        return list(_Probe.seen)

    (alone,) = run(probe())
    # A sum hands one tensor to both sides: the first to be called shares it with the second.
    shared = run(probe() + probe())
    if not any(a > b for a, b in zip(shared[0], alone, strict=True)):
        return None
    return (*alone[:3], False)
