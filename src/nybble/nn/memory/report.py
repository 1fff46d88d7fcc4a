"""What every module beside the converted layers keeps for backward, as observed in one forward.

Bytes belong to the innermost module that was running when autograd saved them. A module that calls
`torch.nn.functional.relu` in its own forward keeps what that keeps; nothing changes such calls, and
here they are seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nybble.nn.memory.base import MemoryLayer, passive


@dataclass(frozen=True)
class Kept:
    """One module. `keeps`: in words, "" where it is not compressed; `bits`: for every output value,
    of what was saved, 0 where there is no such figure (a module with others inside, whose own
    operators are not known; nothing was saved)."""

    module: str
    type: str
    keeps: str
    saved: int
    bits: float

    def __str__(self) -> str:
        what = self.keeps or "not compressed"
        name = self.module or "(the model itself)"
        rate = f", {self.bits:.1f} bits a value" if self.bits else ""
        return f"{name} ({self.type}): {self.saved:,} bytes{rate}; {what}"


class KeptWatch:
    """Attributes saved bytes to modules; its hooks are passive, so that they change nothing.

    >>> import torch
    >>> net = nn.Sequential(nn.ReLU())
    >>> watch = KeptWatch(net, ())
    >>> add = lambda x: watch.note(x.nbytes) or x
    >>> with torch.autograd.graph.saved_tensors_hooks(add, lambda x: x):
    ...     _ = net(torch.ones(2, 4, requires_grad=True))
    >>> print(watch.rows()[0])
    0 (ReLU): 32 bytes, 32.0 bits a value; not compressed
    """

    def __init__(self, model: nn.Module, layers: Iterable[str]) -> None:
        self._running = True
        self._stack: list[str] = []
        self._saved: dict[str, int] = {}
        self._values: dict[str, int] = {}
        self._layers = set(layers)
        self._modules = dict(model.named_modules())
        for name, module in self._modules.items():
            module.register_forward_pre_hook(passive(self._enter(name)))
            module.register_forward_hook(passive(self._leave(name)), always_call=True)

    def note(self, size: int) -> None:
        """`size` bytes were saved just now."""
        owner = self._stack[-1] if self._stack else ""
        self._saved[owner] = self._saved.get(owner, 0) + size

    def rows(self) -> tuple[Kept, ...]:
        """Modules that kept something or were to keep less, in module order, without the layers."""
        rows = []
        for name, module in self._modules.items():
            saved, values = self._saved.get(name, 0), self._values.get(name, 0)
            compressed = isinstance(module, MemoryLayer)
            if name in self._layers or not (saved or compressed):
                continue
            keeps = module.keeps() if isinstance(module, MemoryLayer) else ""
            single = values and not any(True for _ in module.children())
            bits = 8 * saved / values if single else 0.0
            rows.append(Kept(name, type(module).__name__, keeps, saved, bits))
        return tuple(rows)

    def stop(self) -> None:
        """The forward pass is over: what runs again in backward is not counted."""
        self._running = False

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._stack.append(name)

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self._stack.pop()
            if isinstance(output, Tensor):
                self._values[name] = self._values.get(name, 0) + output.numel() * self._running

        return hook
