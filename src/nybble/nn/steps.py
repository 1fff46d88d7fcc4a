"""Learned steps (LSQ): operands are divided by them before the Gemm, its result is multiplied.

    y = (s_x s_w) Q(x / s_x) Q(w / s_w)^T + bias          Q: round to the integers of the format

so the Gemm sees scale 1. With v = x / s, q = Q(v), and g the gradient of s q that the layer's own
backward Gemm gives, in few bits (LSQ, arXiv 1902.08153):

    dx = g inside of the format's range, else 0
    ds = sum of g (q - v) inside and of g times the end beyond it, times 1 / sqrt(n Qp)

all in the rotated basis where the slot has a transform. Autograd alone would find the same mean of
ds as two large sums, of g q through the result and of g v through the quotient, one exact and one
in few bits: the noise of g, which should meet q - v, would meet v, thirty times its variance.

Steps are parameters, `nybble_step_input` and `nybble_step_weight`, float32 [1], 0 until the first
batch sets them to 2 mean|x| / sqrt(Qp), of the rotated operand. A step below 2**-48 is used as
2**-48, and gets its gradient all the same.

Not done here: steps for each channel; steps in the time loop of a recurrent layer (refused); the
input is kept in float32 beside its codes for the step's gradient; transforms with random signs,
which are drawn inside of the operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.nn.once import once_differentiable
from nybble.ops.geometry import Geometry
from nybble.ops.reference.places import Place, places
from nybble.ops.spec import LayerSpec
from nybble.quantizers import LSQ, Quantizer

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
        operands[i] = _Quotient.apply(tensor, step, slot, place)  # type: ignore[no-untyped-call]
        size = _used(step)
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
        step.copy_(LSQ().initial_alpha(_turned(tensor, slot, place), slot.format))
    return step


def _used(step: Tensor) -> Tensor:
    return step.detach().clamp(min=_LEAST)


def _turned(tensor: Tensor, slot: Quantizer, place: Place) -> Tensor:
    turn = slot.transform
    return tensor if turn is None else turn.apply(tensor, place.contraction, None, place.groups)


class _Quotient(torch.autograd.Function):
    """`apply(x, step, slot, place)`: x / step, with LSQ's gradients of both."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, slot: Quantizer, place: Place) -> Tensor:
        ctx.save_for_backward(x, step)
        ctx.slot, ctx.place = slot, place
        return x * torch.reciprocal(_used(step))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, step = ctx.saved_tensors
        slot, place = ctx.slot, ctx.place
        inv = torch.reciprocal(_used(step))
        # The operator's own order, so that inside means here what it meant there.
        v = _turned(x * inv, slot, place)
        given = _turned(grad, slot, place)
        one = torch.ones_like(step)
        dv, ds = LSQ().gradient(v, one, given, slot.format, count=x.numel())
        if slot.transform is not None:
            dv = slot.transform.inverse(dv, place.contraction, None, place.groups)
        return dv * inv, ds * inv, None, None
