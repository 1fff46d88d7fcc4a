"""Learned steps (LSQ): operands are divided by them before the Gemm, its result is multiplied.

    y = (s_x s_w) Q(x / s_x) Q(w / s_w)^T + bias          Q: round to the integers of the format

so the Gemm sees scale 1, with a mask of what was inside the format's range, and autograd has LSQ's
gradient of a step without a formula of its own (q = Q(x / s), g the gradient of s q):

    through the result     sum of g q             through the quotient    - sum of g x / s, inside

together the sum of g (q - x / s) inside and of g times the end beyond it, times 1 / sqrt(n Qp).
The products are those of the layer's own backward Gemms, in few bits like them. Steps are
parameters, `nybble_step_input` and `nybble_step_weight`, float32 [1], 0 until the first batch sets
them to 2 mean|x| / sqrt(Qp), of the rotated operand where its slot has a transform. A step below
2**-48 is used as 2**-48, and gets its gradient all the same.

Not done here: steps for each channel; steps in the time loop of a recurrent layer (refused); the
input is kept in float32 beside its codes for the step's gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.ops.geometry import Geometry
from nybble.ops.reference.places import Place, places
from nybble.ops.spec import LayerSpec
from nybble.quantizers import LSQ, Quantizer
from nybble.quantizers.scales.fit import value_range

if TYPE_CHECKING:
    from nybble.nn.state import QuantizedLayer

__all__ = ["add_steps", "divided", "finished", "refuse_steps", "step_names"]

_SIDES = (("output_input", "nybble_step_input"), ("output_weight", "nybble_step_weight"))
_LEAST = 2.0**-48  # the square of its inverse is still a float32


def add_steps(layer: QuantizedLayer, forms: Sequence[LayerSpec]) -> None:
    """Give a layer the steps that its spec, in any of its forms, has to learn."""
    for slot, name in _SIDES:
        if any(learns(spec, slot) for spec in forms):
            zero = torch.zeros(1, dtype=torch.float32, device=layer.weight.device)
            layer.register_parameter(name, nn.Parameter(zero))


def step_names(layer: nn.Module) -> tuple[str, ...]:
    """Names of the learned steps of a layer."""
    return tuple(name for _, name in _SIDES if name in layer._parameters)


def learns(spec: LayerSpec, name: str) -> bool:
    """Whether a slot's step is learned."""
    slot = getattr(spec, name)
    return isinstance(slot, Quantizer) and isinstance(slot.scale, LSQ)


def refuse_steps(spec: LayerSpec, name: str) -> None:
    """Raise UserError for the time loop of a recurrent layer."""
    if any(learns(spec, slot) for slot, _ in _SIDES):
        raise UserError(
            f"{name}: LSQ learns no step inside a time loop; give hidden states another scale with"
            " a rule for type='time-loop'"
        )


def divided(
    layer: QuantizedLayer, x: Tensor, weight: Tensor, spec: LayerSpec, geometry: Geometry
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(x / s_x, w / s_w, s_x s_w); None where no step is learned."""
    factor: Tensor | None = None
    sides = zip(_SIDES, (x, weight), places(geometry, "output"), strict=True)
    operands = [x, weight]
    for i, ((slot_name, name), tensor, place) in enumerate(sides):
        if not learns(spec, slot_name):
            continue
        slot = getattr(spec, slot_name)
        step = _ready(getattr(layer, name), tensor, slot, place)
        high = value_range(slot.format)[1]
        size: Tensor = _Step.apply(step, 1.0 / math.sqrt(max(tensor.numel(), 1) * high))  # type: ignore[no-untyped-call]
        operands[i] = tensor * torch.reciprocal(size)
        factor = size if factor is None else factor * size
    return operands[0], operands[1], factor


def finished(y: Tensor, factor: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The result of a Gemm of quotients: times the steps, plus the bias."""
    y = y * factor
    if bias is None:
        return y
    return y + bias.float().reshape((1, -1, *[1] * (y.dim() - 2)) if geometry.convolves else (-1,))


@torch.no_grad()
def _ready(step: nn.Parameter, tensor: Tensor, slot: Quantizer, place: Place) -> Tensor:
    """The step, set from `tensor` if nothing has set it yet."""
    if float(step) == 0.0:
        if not tensor.numel():
            return torch.ones_like(step)
        turn = slot.transform
        if turn is not None:  # its signs hardly matter to a mean magnitude
            turned = replace(turn, signs="none")
            tensor = turned.apply(tensor, place.contraction, None, place.groups)
        step.copy_(LSQ().initial_alpha(tensor, slot.format))
    return step


class _Step(torch.autograd.Function):
    """`apply(step, share)`: the step as it is used; its gradient times `share`."""

    @staticmethod
    def forward(ctx: Any, step: Tensor, share: float) -> Tensor:
        ctx.share = share
        return step.clamp(min=_LEAST)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.share, None
