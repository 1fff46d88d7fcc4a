"""Tensors that are not what a kernel expects.

`same(x)`     hold the numbers of `x` in another form: a call must refuse them or give the very
              result that it gives for `x`
`wrong(x)`    do not: a call must refuse them (or, for tensors without numbers, return such)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from nybble.errors import NybbleError

__all__ = ["REFUSALS", "same", "without_numbers", "wrong"]

# AttributeError, IndexError and the like are no answer.
REFUSALS = (NybbleError, ValueError, TypeError, RuntimeError, MemoryError)


class Plain(Tensor):
    """A subclass that changes nothing."""


class Wrapper(Tensor):
    """A subclass without memory of its own."""

    @staticmethod
    def __new__(cls, x: Tensor) -> Wrapper:
        return Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype)  # type: ignore[attr-defined,no-any-return]

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        raise RuntimeError(f"{function} of a tensor without memory")


def same(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "gaps", torch.stack([x, torch.zeros_like(x)], -1)[..., 0]
    yield "not aligned", torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape)
    yield "subclass", x.clone().as_subclass(Plain)
    yield "one dimension more", x[None]
    yield "longer", torch.cat([x.flatten(), x.flatten()])
    if x.dim() > 1:
        yield "transposed memory", x.transpose(0, -1).contiguous().transpose(0, -1)
    if x.dim() == 4:
        yield "channels-last", x.contiguous(memory_format=torch.channels_last)
        yield "middle first", x.transpose(1, 2).contiguous().transpose(1, 2)
    if x.is_floating_point():
        yield "negative view", torch._neg_view(-x)
        yield "imaginary part", torch.complex(-x, -x).conj().imag
        yield "float64", x.double()
        yield "parameter", torch.nn.Parameter(x.clone())
        yield "sparse", x.to_sparse()
        yield "needs gradient", x.clone().requires_grad_() * 1.0


def wrong(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "empty", x.flatten()[:0]
    yield "short", x.flatten()[:-1].clone()
    yield "wide integers", x.to(torch.int64)
    yield "booleans", x.to(torch.bool)
    yield "complex", x.to(torch.complex64)


def without_numbers(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "meta", x.to("meta")
    yield "fake", FakeTensorMode().from_tensor(x)
    yield "wrapper", Wrapper(x)
