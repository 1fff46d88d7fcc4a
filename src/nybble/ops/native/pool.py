"""Where the results of the native kernels lie: in a pool of memory that the process keeps.

    result(shape)        float32, for an output or a gradient that lives for a moment
    kept(count)          bytes, for codes and masks that live until the backward pass
    result_like(x)       as `torch.empty_like`
    is_own(x)            whether a tensor lies there
    hollow_(x)           take the memory of a tensor that nobody will read again, while it lives
    empty_cache()        hand what is free back to the system

The two kinds lie apart, so that small blocks that are kept do not break up the space of large ones
that come and go, and what is broken up is joined again by moving pages: `csrc/core/pool.hpp` has
the rules. Small tensors are torch's.

Not done: what torch itself allocates (a residual sum, its loss) stays in malloc's heap.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from nybble.ops.native import core

__all__ = ["empty_cache", "hollow_", "is_own", "kept", "pool_use", "result", "result_like"]

_LARGE_RESULT = 1 << 18
_LARGE_KEPT = 1 << 14
"""Bytes from which a pool is used: below, malloc is faster and what it loses is little."""

_NAMES = {torch.float32: "float32", torch.uint8: "uint8", torch.int32: "int32"}


def result(shape: Sequence[int], lasting: bool = False) -> Tensor:
    """An uninitialised contiguous float32 tensor; `lasting`: it outlives the step, as a dw does.

    >>> result((2, 3)).shape
    torch.Size([2, 3])
    """
    if 4 * prod(shape) < _LARGE_RESULT:
        return torch.empty(tuple(shape), dtype=torch.float32)
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return _take(list(shape), strides, "float32", "kept" if lasting else "passing")


def result_like(x: Tensor) -> Tensor:
    """An uninitialised tensor of the shape, dtype and memory order of `x`, which is dense.

    >>> result_like(torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)).stride()
    (48, 1, 12, 3)
    """
    name = _NAMES.get(x.dtype)
    if name is None or x.numel() * x.element_size() < _LARGE_RESULT:
        return torch.empty_like(x)
    return _take(list(x.shape), list(x.stride()), name, "passing")


def kept(count: int) -> Tensor:
    """`count` uninitialised bytes for what a backward pass will read.

    >>> kept(100_000).dtype
    torch.uint8
    """
    if count < _LARGE_KEPT:
        return torch.empty(count, dtype=torch.uint8)
    return _take([count], [1], "uint8", "kept")


def hollow_(x: Tensor) -> None:
    """Take the memory of `x`, if it is a whole block of the pool, for others; `x` becomes zeros.

    A gradient that a backward function was given lives until the function returns, though nobody
    reads it once it is quantised. Its pages are moved away, and its addresses stay valid.

    >>> x = result((1 << 20,)).fill_(1.0)
    >>> hollow_(x)
    >>> bool((x == 0.0).all() or (x == 1.0).all())
    True
    """
    module, _ = core()
    if module is not None:
        module.hollow(x.data_ptr())


def empty_cache() -> int:
    """Hand the pool's free memory back to the system; the number of bytes.

    Native results and codes come from memory that nybble keeps from step to step, as torch does on
    an accelerator (`torch.cuda.empty_cache`). Tensors that are alive are not touched.

    >>> del_me = kept(1 << 20)
    >>> del del_me
    >>> empty_cache() >= 1 << 20
    True
    """
    module, _ = core()
    return 0 if module is None else int(module.pool_release())


def pool_use() -> dict[str, int]:
    """Bytes of the pool: `mapped` from the system, `taken` now, `most_taken` at any time; `moved`
    so far to join free ranges.

    >>> sorted(pool_use())
    ['mapped', 'most_taken', 'moved', 'taken']
    """
    module, _ = core()
    if module is None:
        return dict.fromkeys(("mapped", "taken", "most_taken", "moved"), 0)
    use: dict[str, int] = module.pool_use()
    return use


def _take(shape: list[int], strides: list[int], dtype: str, kind: str) -> Tensor:
    module, _ = core()
    if module is None:  # numbers of the library itself, without kernels to fill them
        return torch.empty_strided(shape, strides, dtype=getattr(torch, dtype))
    taken: Tensor = module.take(shape, strides, dtype, kind)
    module.tag(taken.data_ptr(), storage_of(taken))
    return taken


def storage_of(x: Tensor) -> int:
    """A number for the storage of `x`; not `untyped_storage()`, which makes a Python object of it:
    autograd adds in place only to memory that has none."""
    return torch._C._storage_id(x)  # type: ignore[attr-defined,no-any-return]


def is_own(x: Tensor) -> bool:
    """Whether `x` is a block of the pool, and not somebody's array with a tensor around it.

    >>> is_own(result((1 << 20,))), is_own(torch.zeros(1 << 20))
    (True, False)
    """
    module, _ = core()
    return module is not None and module.owns(x.data_ptr(), storage_of(x))
