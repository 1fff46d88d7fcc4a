"""The activation function inside `nn.TransformerEncoderLayer` and `TransformerDecoderLayer`.

Both call a plain function, `F.relu` or `F.gelu`, on the hidden width, which is the largest tensor
of the layer and no module. While the layer is compressed, its attribute `activation` holds that
function in the form of `pointwise.py`: ReLU at one bit a value, GELU's derivative in 4 bits. A
module given as the activation (`activation=nn.GELU()`) is compressed as every other is.

Not done here: other functions, whose derivative is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.nn.memory.base import MemoryLayer, compresses
from nybble.nn.memory.pointwise import gelu, relu

KINDS: dict[Any, str] = {F.relu: "relu", torch.relu: "relu", F.gelu: "gelu"}


@dataclass(frozen=True)
class CompressedActivation:
    """`function` (relu or gelu) on whatever a backward pass will need, keeping less.

    >>> act = CompressedActivation(F.relu, "reference")
    >>> act(torch.tensor([-1.0, 2.0], requires_grad=True))
    tensor([0., 2.], grad_fn=<MaskFunctionBackward>)
    """

    function: Callable[[Tensor], Tensor]
    backend: str

    def __call__(self, x: Tensor) -> Tensor:
        """The function's own result."""
        if not compresses(x) or not x.is_floating_point():
            return self.function(x)
        if KINDS[self.function] == "relu":
            return relu(x, self.backend)
        return gelu(x, self.backend)


KEEPS = "its activation: 1 bit a value (ReLU), 4 bits (GELU)"


def kind_of(module: nn.Module) -> str | None:
    """The kind of a block's activation, or None where it is another function or a module."""
    function = getattr(module, "activation", None)
    return None if isinstance(function, nn.Module) else KINDS.get(function)


def attach_(block: Any, backend: str) -> None:
    """Put the compressing form in the place of the block's function."""
    block.activation = CompressedActivation(block.activation, backend)


def detach_(block: Any) -> None:
    """Undo `attach_`."""
    if isinstance(block.activation, CompressedActivation):
        block.activation = block.activation.function


class Block(MemoryLayer):
    """What the two layers share."""

    memory_kind = "relu"  # or "gelu": `kind_of`
    memory_keeps = KEEPS

    def attach_memory_(self, backend: str) -> None:
        """Changes the activation as well."""
        super().attach_memory_(backend)
        attach_(self, backend)

    def detach_memory_(self) -> None:
        """Puts it back."""
        detach_(self)
        super().detach_memory_()


class EncoderLayer(Block, nn.TransformerEncoderLayer):
    """1 or 4 bits a value of the hidden width."""


class DecoderLayer(Block, nn.TransformerDecoderLayer):
    """1 or 4 bits a value of the hidden width."""
