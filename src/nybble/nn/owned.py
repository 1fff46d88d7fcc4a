"""Whether the gradient that a backward function was given may be written over.

The engine hands a gradient on as soon as it is complete. Nobody else will read it unless somebody
else holds it: the other branch of a sum, a parameter's `.grad`, `retain_grad`, a hook, a caller's
own `y.backward(gradient)`. Each of these is one more reference to the tensor, to its Python object
or to its storage (views), and all three are counted. How many references the engine itself holds
depends on versions of torch and Python, so it is measured once, on a gradient that nobody else has
and on one that is shared; where the two look alike, no gradient is ever written over.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

Counts = tuple[int, int, int]


def counts(grad: Tensor) -> Counts:
    """References to the Python object, the tensor and its storage."""
    # Not `untyped_storage()`: autograd adds in place only to memory that has no Python object.
    storage = torch._C._storage_id(grad)  # type: ignore[attr-defined]
    return (
        sys.getrefcount(grad),
        grad._use_count(),  # type: ignore[attr-defined]
        torch._C._storage_Use_Count(storage),
    )


def may_overwrite(found: Counts) -> bool:
    """Whether `counts(grad)`, taken on the first line of a `once_differentiable` backward, says
    that nobody else holds the gradient.

    >>> may_overwrite((10**6, 10**6, 10**6))
    False
    """
    alone = _alone()
    return alone is not None and all(a <= b for a, b in zip(found, alone, strict=True))


class _Probe(torch.autograd.Function):
    seen: ClassVar[list[Counts]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x + 1.0

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        _Probe.seen.append(counts(grad))
        return grad


@lru_cache(maxsize=1)
def _alone() -> Counts | None:
    """The counts of a gradient that nobody else holds; None where sharing does not show."""
    names = ("_storage_id", "_storage_Use_Count")
    if not hasattr(Tensor, "_use_count") or not all(hasattr(torch._C, name) for name in names):
        return None
    with torch.enable_grad():
        return _measure()


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
    return alone if any(a > b for a, b in zip(shared[0], alone, strict=True)) else None
