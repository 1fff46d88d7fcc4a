"""The autograd function of every converted layer: two operator calls, and what lies between them.

    forward   layer_forward quantises input and weight, multiplies, and returns what backward needs
    backward  layer_backward quantises the output gradient in its two phases and multiplies twice

Saved between the two: codes, scales and mask bits; a float32 operand only where a slot is float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nybble.nn.once import once_differentiable
from nybble.nn.owned import counts, may_overwrite
from nybble.ops.calls import BackwardCall, ForwardCall
from nybble.ops.dispatch import runs_native
from nybble.ops.geometry import Geometry
from nybble.ops.native import layer as native
from nybble.ops.reference.operand import Draw, rereads
from nybble.ops.reference.storage import is_channels_last
from nybble.ops.spec import LayerSpec, parse_spec

if TYPE_CHECKING:
    from nybble.nn.state import QuantizedLayer


@dataclass(frozen=True)
class LayerCall:
    """What one forward call fixes for its backward: the spec as resolved, and the random key."""

    spec: LayerSpec
    geometry: Geometry
    accumulate: str
    backend: str
    seed: int
    layer: int
    call: int

    def arguments(self, spec: LayerSpec | None = None) -> tuple[Any, ...]:
        """The operators' trailing arguments, in their schema's order; `spec` instead of its own."""
        g = self.geometry
        return (
            (spec or self.spec).key,
            g.kind,
            list(g.stride),
            list(g.padding),
            list(g.dilation),
            g.groups,
            self.accumulate,
            self.backend,
            self.seed,
            self.layer,
            self.call,
        )


def dense(x: Tensor) -> Tensor:
    """`x`, copied where a 4-d tensor lies in memory neither as [N, C, H, W] nor as [N, H, W, C], or
    a 5-d one not as [N, C, D, H, W], the only order that codes of volumes have.

    Codes are kept in memory order. Of a tensor with gaps (a slice, a crop) torch's elementwise
    operators make one without, in an order of their choice, which the backward would not know; and
    of a gradient with gaps, sums would be in another order than the compiled backend's.

    >>> x = torch.zeros(2, 4, 6, 6).to(memory_format=torch.channels_last)
    >>> dense(x) is x, dense(x[:, :, ::2]).is_contiguous()
    (True, True)
    """
    odd = x.dim() in (4, 5) and not x.is_contiguous() and not is_channels_last(x)
    return x.contiguous() if odd else x


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Within, autocast does not touch the products of a layer, whose operands have few bits
    already: `backward` may be called in a region of it."""
    device = x.device.type
    known = torch.amp.is_autocast_available(device)
    if known and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _directly(backend: str, x: Tensor) -> bool:
    """Whether the native functions may be called without torch's dispatcher, which takes longer
    than they do on a small layer. Who traces or watches operators gets to see them."""
    watched = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    return not watched and runs_native(backend, x)


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    alpha: Tensor | None,
    call: LayerCall,
    save: bool,
) -> tuple[Tensor, list[Tensor]]:
    """nybble::layer_forward."""
    if _directly(call.backend, x):
        spec, draw = parse_spec(call.spec.key), Draw(call.seed, call.layer, call.call)
        step = ForwardCall(bias, alpha, spec, call.geometry, "exact", draw, save)
        return native.layer_forward(x, weight, step)
    found: tuple[Tensor, list[Tensor]]
    more = list(call.geometry.output_padding)
    found = torch.ops.nybble.layer_forward(x, weight, bias, alpha, *call.arguments(), save, more)
    return found


def _backward(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    saved: list[Tensor],
    grad_scale: Tensor,
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    call: LayerCall,
    spec: LayerSpec,
    channels_last: tuple[bool, bool],
    needs: list[bool],
    overwrite: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """nybble::layer_backward; `overwrite`: dx may take the memory of `grad`."""
    if _directly(call.backend, grad):
        spec, draw = parse_spec(spec.key), Draw(call.seed, call.layer, call.call)
        step = BackwardCall(
            x,
            weight,
            saved,
            grad_scale,
            x_shape,
            weight_shape,
            spec,
            call.geometry,
            call.accumulate,
            draw,
            channels_last,
            needs,
        )
        return native.layer_backward(grad, step, overwrite)
    return torch.ops.nybble.layer_backward(  # type: ignore[no-any-return]
        grad,
        x,
        weight,
        saved,
        grad_scale,
        list(x_shape),
        list(weight_shape),
        *call.arguments(spec),
        list(channels_last),
        needs,
    )


def infer(
    x: Tensor, weight: Tensor, bias: Tensor | None, alpha: Tensor | None, call: LayerCall
) -> Tensor:
    """The output alone, where no gradient can be asked for; operands as for `LayerFunction`."""
    return _forward(dense(x), dense(weight), bias, alpha, call, False)[0]


class LayerFunction(torch.autograd.Function):
    """`apply(x, weight, bias, alpha, call, layer)`; x, weight, bias, alpha are float32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        alpha: Tensor | None,
        call: LayerCall,
        layer: QuantizedLayer,
    ) -> Tensor:
        x, weight = dense(x), dense(weight)
        needs = ctx.needs_input_grad
        save = needs[0] or needs[1] or needs[3]
        if layer.nybble_observer is not None:
            layer.nybble_observer.forward(call, x, weight, alpha)
        y, saved = _forward(x, weight, bias, alpha, call, save)
        ctx.call, ctx.save = call, save
        ctx.set_materialize_grads(False)
        if not save:
            return y
        spec = call.spec
        # A float32 slot of a backward Gemm needs the operand itself (and 16-bit weights are read
        # again): autograd keeps it by reference, so it costs memory only where the caller would
        # have let it go.
        raw_x = x if spec.kept("grad_weight_input") is None and (needs[1] or needs[3]) else None
        again = rereads(spec.kept("grad_input_weight")) or spec.weight_gradient is not None
        raw_weight = weight if again else None
        ctx.save_for_backward(raw_x, raw_weight, *saved)
        ctx.layer = layer
        ctx.x_shape, ctx.weight_shape = tuple(x.shape), tuple(weight.shape)
        ctx.channels_last = (is_channels_last(x), is_channels_last(weight))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        overwrite = may_overwrite(counts(grad))
        needs = ctx.needs_input_grad
        given, grad = grad, dense(grad.float())
        overwrite = overwrite or grad is not given
        dbias = None
        if needs[2]:
            dbias = grad.sum(ctx.call.geometry.channel_dims(grad.dim()))
        if not ctx.save:  # only the bias learns
            return None, None, dbias, None, None, None
        raw_x, raw_weight, *saved = ctx.saved_tensors
        layer: QuantizedLayer = ctx.layer
        if layer.nybble_observer is not None:
            wanted = (needs[0] or needs[3], needs[1])
            layer.nybble_observer.backward(ctx.call, grad, wanted)
        with full_precision(grad):
            dx, dw, dalpha, amax, scale = _backward(
                grad,
                raw_x,
                raw_weight,
                saved,
                layer.nybble_grad_scale,
                ctx.x_shape,
                ctx.weight_shape,
                ctx.call,
                layer.backward_spec(ctx.call.spec),
                ctx.channels_last,
                [needs[0], needs[1], needs[3]],
                overwrite,
            )
        layer.observe_gradient(amax, scale)
        return (
            dx if needs[0] else None,
            dw if needs[1] else None,
            dbias,
            dalpha if needs[3] else None,
            None,
            None,
        )
