"""Names for the memory behind tensors: numbers that are the same at every run, and parameters.

    key(x)      0, 1, 2, ... in the order in which storages were first seen
    access(x)   key, elements that really exist (an expanded tensor has fewer than its shape says),
                bits of an element where it is no number, and the parameter that lives there

Every storage is kept alive, since the address of a freed one would come again with another tensor
in it. Not done here: two parameters in one storage of which each is a part.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nybble.hardware.operation import Access

__all__ = ["Storages"]


class Storages:
    """See the module. `parameters`: access by name, tied ones once.

    >>> import torch
    >>> book = Storages(nn.Linear(2, 3))
    >>> book.access(torch.zeros(1, 4).expand(5, 4)).elements
    4
    >>> [access.parameter for access in book.parameters.values()]
    ['weight', 'bias']
    """

    def __init__(self, model: nn.Module) -> None:
        self.kept: list[Any] = []
        self.parameters: dict[str, Access] = {}
        self._numbers: dict[int, int] = {}
        self._tied: dict[int, set[str]] = {}  # every name of a storage: tied weights have several
        self._of_storage: dict[int, str] = {}
        for name, p in model.named_parameters():
            self._of_storage[self.key(p)] = name
            self.parameters[name] = self.access(p)
        for name, p in model.named_parameters(remove_duplicate=False):
            self._tied.setdefault(self.key(p), set()).add(name)

    def key(self, x: Tensor) -> int:
        """A number for a tensor's storage, the same at every run."""
        return self._numbers.setdefault(x.untyped_storage()._cdata, len(self._numbers))

    def access(self, x: Tensor) -> Access:
        """What reading or writing the tensor touches."""
        storage = x.untyped_storage()
        self.kept.append(storage)
        held = storage.nbytes() // max(1, x.element_size())
        bits = None if x.dtype.is_floating_point else 8 * x.element_size()
        key = self.key(x)
        return Access(key, min(x.numel(), held), bits, self._of_storage.get(key, ""))

    def is_parameter(self, x: Tensor) -> bool:
        """Whether the tensor, or what it is a view of, is a parameter of the model."""
        return self.key(x) in self._of_storage

    def owner(self, operand: Tensor, layer: str) -> str:
        """The layer of a Gemm: where its second operand is the parameter `p` of the module that
        runs, the module's name; of a module with several, the parameter's own name."""
        key = self.key(operand)
        name = self._of_storage.get(key)
        if name is None or f"{layer}.weight" in self._tied[key]:
            return layer
        owner, _, leaf = name.rpartition(".")
        return owner if leaf == "weight" else f"{owner}.{leaf}" if owner else leaf
