"""`LayerHook`: frozen data that names what a layer does around its Gemms and the state it needs.

    buffers      tensors that the layer carries for the hook: `nybble_hook_<name>` in its state_dict
    weight       before every forward: the weight that the Gemm quantises, in place of the layer's
    after_step   after every step of the optimizer: may change the weight, and the buffers

All three see the weight as the Gemm does (shape, and the slot with its scale along the sum), in
float32. What `weight` returns has the weight's gradient: passed straight through.

A hook of your own is a frozen dataclass of plain values; recipes put it in `LayerSpec.hook`. The
layer's side is nn/hooks.py.

Not done here: hooks of inputs and gradients, which have quantizers and no state between steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from nybble.errors import UserError, suggest

if TYPE_CHECKING:
    from nybble.quantizers.quantizer import Quantizer

__all__ = ["LayerHook", "State", "hook_from_dict"]

State = Mapping[str, Tensor]


class LayerHook(ABC):
    """See the module. Subclasses are frozen dataclasses of plain values."""

    families: ClassVar[dict[str, type[LayerHook]]] = {}

    def __init_subclass__(cls) -> None:
        LayerHook.families[cls.__name__.lower()] = cls

    def check(self, slot: Quantizer | None) -> None:
        """Raise UserError where the weight's slot does not fit."""
        if slot is None:
            raise UserError(f"{self.short}: the weight stays in float32; give output_weight a slot")

    @abstractmethod
    def buffers(self, weight: Tensor) -> dict[str, Tensor]:
        """The state of a layer with this weight before its first step: zeros, so that a state that
        is missing in a file starts afresh. Those as large as the weight have its shape."""

    def weight(self, weight: Tensor, state: State, slot: Quantizer) -> Tensor:
        """What the Gemm quantises; `weight` itself where nothing changes."""
        return weight

    @abstractmethod
    def after_step(self, weight: Tensor, state: State, slot: Quantizer) -> None:
        """The optimizer has changed `weight`: bring the buffers up to date, in place."""

    @property
    @abstractmethod
    def short(self) -> str:
        """A short printable form."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return {"family": type(self).__name__.lower(), **asdict(self)}  # type: ignore[call-overload]


def hook_from_dict(data: dict[str, Any]) -> LayerHook:
    """The hook of a `to_dict()`.

    >>> from nybble.quantizers.hooks import QEma
    >>> hook_from_dict(QEma(0.5).to_dict())
    QEma(decay=0.5, start=10)
    """
    values = dict(data)
    family = values.pop("family", None)
    if family not in LayerHook.families:
        raise UserError(
            f"unknown hook {family!r}; use one of {', '.join(LayerHook.families)}."
            f"{suggest(str(family), LayerHook.families)}"
        )
    try:
        return LayerHook.families[family](**values)
    except TypeError as error:
        raise UserError(f"hook {family!r}: {error}") from None
