"""Forward functions that torch.compile leaves alone: the graph breaks before them, once.

A converted layer keeps state in Python (counters, what its input is, hooks), and its operators are
nybble's own kernels: there is nothing in it to fuse. Traced, it would fall into many small graphs,
guarded and compiled again whenever that state changes, and run slower than without.

`torch.compiler.disable` does this, but imports the compiler, a second and more, when it is applied.
Here it is applied at the first call after somebody else has imported it; before, nobody compiles.

Not done here: layers as operators inside of one graph (`fullgraph=True` is refused by torch).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

__all__ = ["eager"]

P = ParamSpec("P")
R = TypeVar("R")


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, called as it is when a compiled caller comes to it.

    >>> @eager
    ... def twice(x: torch.Tensor) -> torch.Tensor:
    ...     return x + x
    >>> twice(torch.ones(1))
    tensor([2.])
    """

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        disabled: Callable[P, R] | None = getattr(function, "_nybble_eager", None)
        if disabled is None:
            if "torch._dynamo" not in sys.modules:
                return function(*args, **kwargs)
            disabled = torch.compiler.disable(function)
            function._nybble_eager = disabled  # type: ignore[attr-defined]
        return disabled(*args, **kwargs)

    return alone
