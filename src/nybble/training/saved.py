"""Bytes kept from the forward pass for the backward pass, measured, not computed.

Every tensor that autograd saves passes through `torch.autograd.graph.saved_tensors_hooks`. Each
storage is counted once, with all its bytes (a saved view keeps the whole storage alive). Storages
of parameters and buffers are left out: they exist anyway. The packed 4-bit weights that a layer
saves are counted. Not seen: tensors that a function hides in Python attributes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn


class SavedBytes:
    """The running count; `total` is final when the context has ended."""

    def __init__(self, model: nn.Module) -> None:
        tensors = chain(model.parameters(), model.buffers())
        self._own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self._seen: dict[int, tuple[Tensor, int]] = {}

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        pointer = storage.data_ptr()
        if pointer and pointer not in self._own and pointer not in self._seen:
            # the tensor is held until the end, so that its address is not given away again
            self._seen[pointer] = tensor.detach(), storage.nbytes()
        return tensor

    @property
    def total(self) -> int:
        return sum(size for _, size in self._seen.values())

    def release(self) -> int:
        total = self.total
        self._seen.clear()
        return total


@contextmanager
def measure_saved_bytes(model: nn.Module) -> Iterator[SavedBytes]:
    """Count what autograd saves inside the `with` block.

    >>> layer = nn.Linear(8, 4)
    >>> with measure_saved_bytes(layer) as saved:
    ...     loss = layer(torch.ones(2, 8)).sum()
    >>> saved.total  # the input: 2 x 8 floats
    64
    """
    saved = SavedBytes(model)
    with torch.autograd.graph.saved_tensors_hooks(saved.add, lambda tensor: tensor):
        yield saved
