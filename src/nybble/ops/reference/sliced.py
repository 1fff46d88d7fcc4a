"""`layer_forward` and `layer_backward` in slices of the batch, where a layer's operands are wide.

    y[i:j]  = layer(x[i:j])        dx[i:j] = layer'(dy[i:j])        dw = sum of dw(dy[i:j], x[i:j])

FP16 is emulated in float32: the rounded operands, and the copies that torch's convolution makes of
them in an order of its own, are float tensors as large as the layer's input and output; for the
first layer of a network, which the recipes keep wide, that is much beside packed codes. A slice's
are small and stay in the cache. Formats without a scale round every number by itself, so a slice's
operands are the whole's; only the sum over the batch in dw changes its order, and both backends
come through here, so they stay equal; a gradient with NaN in it makes its images' part of dx NaN
and all of dw. What one scale and one rounding do not describe goes to
`composite` from here.

Not done: other devices than the CPU (accelerators are faster on whole batches); scales, which are
of the whole tensor; narrow accumulators, whose chunks would end elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from nybble.formats import Stochastic
from nybble.ops.calls import BackwardCall, ForwardCall, Gradients
from nybble.ops.geometry import Geometry
from nybble.ops.reference import composite, composite_backward, layer
from nybble.ops.reference import composite_operand as operands
from nybble.ops.reference.composite_operand import Make
from nybble.ops.reference.storage import is_channels_last
from nybble.ops.spec import LayerSpec
from nybble.quantizers import Quantizer, Unit

__all__ = ["layer_backward", "layer_forward"]

SLICE = 1 << 19
"""Elements of a slice's larger operand, about."""

Empty = Callable[[tuple[int, ...], bool], Tensor]
"""(shape, channels last) -> uninitialised float32 memory for a result."""


def empty(shape: tuple[int, ...], channels_last: bool) -> Tensor:
    """torch's own memory.

    >>> empty((1, 2, 3, 4), True).stride()
    (24, 1, 8, 2)
    """
    form = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, memory_format=form)


def layer_forward(
    x: Tensor,
    weight: Tensor,
    call: ForwardCall,
    memory: Empty = empty,
    make: Make = operands,
) -> tuple[Tensor, list[Tensor]]:
    """As `layer.layer_forward`; a sliced output lies in `memory`. make: who quantises the operands
    of `composite`."""
    if call.spec.composite:
        return composite.layer_forward(x, weight, call, make)
    count = _slice(x, tuple(x.shape), tuple(weight.shape), call.spec, call.geometry)
    if count is None:
        return layer.layer_forward(x, weight, call)
    y = codes = saved = mark = None
    for part in _parts(x.shape[0], count):
        some, saved = layer.layer_forward(x[part], weight, call)
        if y is None:
            y = memory((x.shape[0], *some.shape[1:]), is_channels_last(some))
            if call.save:
                form = torch.channels_last if is_channels_last(x) else torch.contiguous_format
                codes = torch.empty(x.shape, dtype=saved[0].dtype, memory_format=form)
        y[part] = some
        if codes is not None:
            codes[part] = saved[0]
            mark = saved[1] if mark is None else mark * saved[1]  # 1, or NaN where a slice had one
    assert y is not None and saved is not None  # a sliced batch is not empty
    return y, saved if codes is None or mark is None else [codes, mark, *saved[2:]]


def layer_backward(
    grad: Tensor, call: BackwardCall, memory: Empty = empty, make: Make = operands
) -> Gradients:
    """As `layer.layer_backward`; a sliced grad_input lies in `memory`."""
    if call.spec.composite:
        return composite_backward.layer_backward(grad, call, make=make)
    x_shape, needs = call.x_shape, call.needs
    count = _slice(grad, x_shape, call.weight_shape, call.spec, call.geometry)
    if count is None:
        return layer.layer_backward(grad, call)
    dx = dw = None
    for part in _parts(x_shape[0], count):
        given = grad[part]
        kept = [call.saved[0][part], *call.saved[1:]]
        some = replace(call, saved=kept, x_shape=(len(given), *x_shape[1:]))
        some_dx, some_dw, *others = layer.layer_backward(given, some)
        if dx is None or dw is None:
            dw = some_dw
            dx = memory(x_shape, is_channels_last(some_dx)) if needs[0] else some_dx
        else:
            dw += some_dw
        if needs[0]:
            dx[part] = some_dx
    assert dx is not None and dw is not None  # as above
    return dx, dw, others[0], others[1], others[2]


def _slice(
    x: Tensor,
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    spec: LayerSpec,
    geometry: Geometry,
) -> int | None:
    """The images of a slice, or None where the layer is to be computed whole.

    `x` is a tensor of the call, whose device counts; of fake ones only shapes are asked.
    """
    if geometry.kind != "conv2d" or geometry.mirror is not None or type(x) is not Tensor:
        return None
    if not x.is_cpu or spec.accumulator.format is not None or x_shape[0] < 2:
        return None
    slots = (
        spec.output_input,
        spec.output_weight,
        spec.slot("grad_input_weight"),
        spec.slot("grad_weight_input"),
        spec.grad_input_grad,
        spec.grad_weight_grad,
    )
    if not all(isinstance(slot, Quantizer) and _each_by_itself(slot) for slot in slots):
        return None
    y_shape = geometry.output_shape(x_shape, weight_shape)
    image = max(prod(x_shape[1:]), prod(y_shape[1:]))
    count = max(1, SLICE // max(image, 1))
    return count if count < x_shape[0] else None


def _each_by_itself(slot: Quantizer) -> bool:
    return (
        isinstance(slot.scale, Unit)
        and slot.format.unit is None
        and not isinstance(slot.rounding, Stochastic)
    )


def _parts(total: int, count: int) -> Iterator[slice]:
    return (slice(i, min(i + count, total)) for i in range(0, total, count))
