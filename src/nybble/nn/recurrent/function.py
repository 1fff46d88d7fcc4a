"""The autograd function of one direction of one recurrent layer: a whole sequence in one node.

    forward   the time loop: hidden-hidden Gemm (and projection) and gates of every step
    backward  the loop backwards, which makes dz row by row; then one grad_weight Gemm over all rows

GradScale has one scale a Gemm and sequence, and moves once an iteration, by the maximum over all
steps. Where the scale must follow from this very gradient (the first one of a layer; the modes
`fit` and `immediate`), the loop first runs once with float32 gradients to find that maximum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nybble.nn.function import LayerCall, full_precision
from nybble.nn.once import once_differentiable
from nybble.nn.scaling import held
from nybble.ops.dispatch import runs_native
from nybble.ops.gradients import drawn
from nybble.ops.native import recurrent as native
from nybble.ops.recurrent import Sequence, StepGemm
from nybble.ops.reference import recurrent as reference
from nybble.ops.reference.operand import Draw, rereads
from nybble.ops.reference.recurrent import Outputs, Weights
from nybble.ops.spec import LayerSpec
from nybble.quantizers.scales.gradscale import usable

if TYPE_CHECKING:
    from nybble.nn.recurrent.gemm import RecurrentGemm

__all__ = ["SequenceCall", "SequenceFunction", "infer"]


@dataclass(frozen=True)
class SequenceCall:
    """What one forward fixes for its backward. `calls`: hidden-hidden and, if any, projection."""

    sequence: Sequence
    calls: tuple[LayerCall, ...]

    def gemms(self, specs: list[LayerSpec] | None = None) -> list[StepGemm]:
        """The Gemms as the backends take them; `specs` instead of their own."""
        specs = specs or [call.spec for call in self.calls]
        return [
            StepGemm(spec, Draw(call.seed, call.layer, call.call))
            for spec, call in zip(specs, self.calls, strict=True)
        ]


def infer(
    gx: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    hh: Tensor,
    hh_bias: Tensor | None,
    hh_alpha: Tensor | None,
    hr: Tensor | None,
    hr_alpha: Tensor | None,
    call: SequenceCall,
) -> tuple[Tensor, ...]:
    """The results of `SequenceFunction` where no gradient can be asked for: nothing is kept."""
    weights = Weights(hh, hh_bias, hh_alpha, hr, hr_alpha)
    backend = _backend(call.sequence, gx)
    out = backend.forward(gx, h0, c0, weights, call.sequence, call.gemms(), False)
    return (out.y, out.h) if c0 is None else (out.y, out.h, out.c)


class SequenceFunction(torch.autograd.Function):
    """`apply(gx, h0, c0, hh, hh_bias, hh_alpha, hr, hr_alpha, call, layers)`, tensors float32.

    Returns y [rows, P], h_n and, of an LSTM, c_n.
    """

    @staticmethod
    def forward(
        ctx: Any,
        gx: Tensor,
        h0: Tensor,
        c0: Tensor | None,
        hh: Tensor,
        hh_bias: Tensor | None,
        hh_alpha: Tensor | None,
        hr: Tensor | None,
        hr_alpha: Tensor | None,
        call: SequenceCall,
        layers: list[RecurrentGemm],
    ) -> tuple[Tensor, ...]:
        save = any(ctx.needs_input_grad)
        weights = Weights(hh, hh_bias, hh_alpha, hr, hr_alpha)
        backend = _backend(call.sequence, gx)
        out = backend.forward(gx, h0, c0, weights, call.sequence, call.gemms(), save)
        results = (out.y, out.h) if c0 is None else (out.y, out.h, out.c)
        ctx.set_materialize_grads(False)
        if not save:
            return results
        raw: list[Tensor | None] = []
        ctx.shapes = []
        for one, x, weight in zip(call.calls, out.inputs, (hh, hr), strict=False):
            assert weight is not None  # there are as many weights as calls
            spec = one.spec
            raw.append(x if spec.kept("grad_weight_input") is None else None)
            again = rereads(spec.kept("grad_input_weight")) or spec.weight_gradient is not None
            raw.append(weight if again else None)
            ctx.shapes.append(tuple(weight.shape))
        plain = call.sequence.mode in ("tanh", "relu")
        ctx.save_for_backward(
            out.y if plain else None,
            out.gates,
            out.before,
            *raw,
            *(tensor for kept in out.kept for tensor in kept),
        )
        ctx.call, ctx.layers = call, layers
        ctx.many_kept = [len(kept) for kept in out.kept]
        # The clips' shapes: a cell that is called again may set its clip before backward runs.
        ctx.clips = [None if alpha is None else alpha.shape for alpha in (hh_alpha, hr_alpha)]
        ctx.state_shapes = (h0.shape, None if c0 is None else c0.shape)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        known = [grad for grad in grads if grad is not None]
        if not known:
            return (None,) * 10
        with full_precision(known[0]):
            return SequenceFunction._backward(ctx, *grads)

    @staticmethod
    def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        call: SequenceCall = ctx.call
        layers: list[RecurrentGemm] = ctx.layers
        needs = ctx.needs_input_grad
        y, gates, before, *rest = ctx.saved_tensors
        many = len(call.calls)
        raw, flat = rest[: 2 * many], iter(rest[2 * many :])
        kept = [[next(flat) for _ in range(count)] for count in ctx.many_kept]
        matrices = [
            gates.new_empty(1).expand(shape) if weight is None else weight
            for shape, weight in zip(ctx.shapes, raw[1::2], strict=True)
        ]
        tape = Outputs(y, gates, gates, gates, before, raw[0::2], kept)
        weights = Weights(matrices[0], hr=matrices[1] if many > 1 else None)
        h_shape, c_shape = ctx.state_shapes
        dy = None if grads[0] is None else grads[0].float().contiguous()
        dh = _state_gradient(grads[1], h_shape, gates)
        dc = None if c_shape is None else _state_gradient(grads[2], c_shape, gates)
        specs = [
            layer.backward_spec(one.spec) for layer, one in zip(layers, call.calls, strict=True)
        ]
        states = [layer.nybble_grad_scale for layer in layers]
        used, kept_scales = list(states), list(states)
        if any(_needs_fit(spec, state) for spec, state in zip(specs, states, strict=True)):
            largest = reference.largest_gradients(
                dy, dh, dc, tape, weights, call.sequence, call.gemms(specs)
            )
            for i, (spec, state, amax) in enumerate(zip(specs, states, largest, strict=True)):
                if _needs_fit(spec, state) and spec.grad_scale is not None:
                    config, top = spec.grad_scale
                    used[i] = config.step(state, amax, top)[0]
                    kept_scales[i] = torch.where((state > 0) | usable(amax), used[i], state)
        specs = [
            drawn(held(spec), Draw(one.seed, one.layer, one.call))
            for spec, one in zip(specs, call.calls, strict=True)
        ]
        backend = _backend(call.sequence, gates)
        found = backend.backward(
            dy,
            dh,
            dc,
            tape,
            weights,
            call.sequence,
            call.gemms(specs),
            used,
            [needs[5], needs[7]][:many],
        )
        dws: list[Tensor | None] = [None, None]
        for i in range(many):
            amax = found.amax[i]
            if needs[(3, 6)[i]]:
                _, dws[i], _, seen, _ = torch.ops.nybble.layer_backward(
                    found.results[i],
                    raw[2 * i],
                    raw[2 * i + 1],
                    kept[i],
                    used[i],
                    [call.sequence.rows, ctx.shapes[i][1]],
                    list(ctx.shapes[i]),
                    *call.calls[i].arguments(specs[i]),
                    [False, False],
                    [False, True, False],
                )
                if seen.numel():
                    amax = seen if amax is None else torch.maximum(amax, seen)
            if specs[i].grad_scale is not None and amax is not None:
                layers[i].observe_gradient(amax.reshape(1), kept_scales[i].reshape(1))
        dalpha = [*found.dalpha, None]
        return (
            found.gx if needs[0] else None,
            found.h if needs[1] else None,
            found.c if needs[2] else None,
            dws[0],
            found.results[0].sum(0) if needs[4] else None,
            _clip_gradient(dalpha[0], ctx.clips[0], gates) if needs[5] else None,
            dws[1],
            _clip_gradient(dalpha[1], ctx.clips[1], gates) if needs[7] else None,
            None,
            None,
        )


def _backend(sequence: Sequence, x: Tensor) -> Any:
    return native if runs_native(sequence.backend, x) else reference


def _needs_fit(spec: LayerSpec, state: Tensor) -> bool:
    rule = spec.grad_scale
    return rule is not None and (rule[0].mode != "delayed" or not bool(state > 0))


def _state_gradient(grad: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    return like.new_zeros(shape) if grad is None else grad.float().contiguous()


def _clip_gradient(dalpha: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    return like.new_zeros(shape) if dalpha is None else dalpha
