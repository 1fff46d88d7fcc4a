"""What a layer's two steps need beside the operands that they multiply, as one argument.

    layer_forward(x, weight, call)  -> (y, what backward needs)                in every backend
    layer_backward(grad, call)      -> (dx, dw, dalpha, amax, scale)

What backward needs is an empty list unless `save` asks for it; each of the five that it returns is
an empty tensor where `needs` says no, or there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nybble.ops.geometry import Geometry
from nybble.ops.reference.operand import Draw
from nybble.ops.spec import LayerSpec

__all__ = ["BackwardCall", "ForwardCall", "Gradients"]

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""(dx, dw, dalpha, amax, scale): amax and scale are what the gradient scale's state wants, the
gradient's largest magnitude and the state that was used; empty for scales without a state."""


@dataclass(frozen=True)
class ForwardCall:
    """See the module. alpha: the clip of PACT. accumulate: `fast` or `exact`, of the reference;
    save: whether there will be a backward step."""

    bias: Tensor | None
    alpha: Tensor | None
    spec: LayerSpec
    geometry: Geometry
    accumulate: str
    draw: Draw
    save: bool


@dataclass(frozen=True)
class BackwardCall:
    """See the module.

    x, weight: the operands themselves, where a slot is float32 or rereads the weight; else None.
    saved: what forward kept: codes, multiplier, zero point and mask of the input; the same of the
    weight. grad_scale: the state of GradScale. channels_last: how input and weight lay in memory,
    which is the order of their codes. needs: gradients of input, weight and alpha.
    """

    x: Tensor | None
    weight: Tensor | None
    saved: list[Tensor]
    grad_scale: Tensor
    x_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    spec: LayerSpec
    geometry: Geometry
    accumulate: str
    draw: Draw
    channels_last: tuple[bool, bool]
    needs: list[bool]

    @property
    def wanted(self) -> tuple[bool, bool]:
        """Whether each of the two Gemms runs; a clip's gradient is a part of grad_input."""
        need_dx, need_dw, need_dalpha = self.needs
        return need_dx or need_dalpha, need_dw
