"""The operators, as `torch.library` knows them.

    nybble::layer_forward    quantise input and weight, output Gemm      -> output, saved codes
    nybble::layer_backward   quantise the gradient, grad_input and grad_weight Gemms
    nybble::embedding_*      a look-up in a quantised table, and its gradient
    nybble::matmul           integers times integers, scaled: the Gemm alone
    nybble::block_matmul     the same with scales that vary along the contraction

They are functional (nothing is written in place) and take any device. A spec travels as its JSON
key, since schemas know strings but not dataclasses. The fake kernels, which torch.compile and
FakeTensor use, are the reference kernels themselves where those touch no cached table.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.ops import embedding
from nybble.ops.calls import BackwardCall, ForwardCall
from nybble.ops.dispatch import runs_native
from nybble.ops.geometry import Geometry
from nybble.ops.native import layer as native
from nybble.ops.reference import sliced as reference
from nybble.ops.reference.matmul import block_matmul as reference_block_matmul
from nybble.ops.reference.matmul import matmul as reference_matmul
from nybble.ops.reference.operand import Draw
from nybble.ops.spec import Slot, parse_spec
from nybble.quantizers import PACT, SAWB, StatefulScale

_LIBRARY = torch.library.Library("nybble", "DEF")

_PLAN = (
    "str spec, str kind, int[] stride, int[] padding, int[] dilation, int groups,"
    " str accumulate, str backend, int seed, int layer, int call"
)
_LIBRARY.define(
    f"layer_forward(Tensor x, Tensor weight, Tensor? bias, Tensor? alpha, {_PLAN}, bool save,"
    " int[] output_padding=[]) -> (Tensor, Tensor[])"
)
_LIBRARY.define(
    "layer_backward(Tensor grad, Tensor? x, Tensor? weight, Tensor[] saved, Tensor grad_scale,"
    f" int[] x_shape, int[] weight_shape, {_PLAN}, bool[] channels_last, bool[] needs)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    "embedding_forward(Tensor weight, Tensor index, str spec, bool native, int seed, int layer,"
    " int call, bool save) -> (Tensor, Tensor)"
)
_LIBRARY.define(
    "embedding_backward(Tensor grad, Tensor index, Tensor mask, Tensor grad_scale, int[] size,"
    " int padding, str spec, bool native, int seed, int layer, int call)"
    " -> (Tensor, Tensor, Tensor)"
)
_LIBRARY.define(
    "matmul(Tensor a, Tensor b, Tensor? scale_a, Tensor? scale_b, int max_a, int max_b,"
    " str accumulate) -> Tensor"
)
_LIBRARY.define(
    "block_matmul(Tensor a, Tensor b, Tensor scale_a, Tensor scale_b, int block, int max_a,"
    " int max_b) -> Tensor"
)


def _geometry(
    kind: str,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    output_padding: list[int] | None = None,
) -> Geometry:
    more = tuple(output_padding or ())
    return Geometry(kind, tuple(stride), tuple(padding), tuple(dilation), groups, more)  # type: ignore[arg-type]


def _check_float32(**tensors: Tensor | None) -> None:
    """Every operand is float32: layers convert, and the kernels read memory as it is."""
    for name, x in tensors.items():
        if x is not None and x.dtype is not torch.float32:
            raise UserError(f"layer: {name} is {x.dtype}; convert it to torch.float32")


def _distinct(tensors: list[Tensor]) -> list[Tensor]:
    """Results of an operator share no memory, as empty ones of the native functions do."""
    return [t if t.numel() else t.clone() for t in tensors]


def _layer_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    alpha: Tensor | None,
    spec: str,
    kind: str,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    accumulate: str,
    backend: str,
    seed: int,
    layer: int,
    call: int,
    save: bool,
    output_padding: list[int] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    _check_float32(x=x, weight=weight, bias=bias, alpha=alpha)
    layer_spec, draw = parse_spec(spec), Draw(seed, layer, call)
    geometry = _geometry(kind, stride, padding, dilation, groups, output_padding)
    step = ForwardCall(bias, alpha, layer_spec, geometry, accumulate, draw, save)
    if runs_native(backend, x):
        y, saved = native.layer_forward(x, weight, step)
        return y, _distinct(saved)
    return reference.layer_forward(x, weight, step)


def _layer_backward(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    saved: list[Tensor],
    grad_scale: Tensor,
    x_shape: list[int],
    weight_shape: list[int],
    spec: str,
    kind: str,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    accumulate: str,
    backend: str,
    seed: int,
    layer: int,
    call: int,
    channels_last: list[bool],
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    _check_float32(grad=grad, x=x, weight=weight, grad_scale=grad_scale)
    layer_spec, draw = parse_spec(spec), Draw(seed, layer, call)
    geometry = _geometry(kind, stride, padding, dilation, groups)
    step = BackwardCall(
        x,
        weight,
        saved,
        grad_scale,
        tuple(x_shape),
        tuple(weight_shape),
        layer_spec,
        geometry,
        accumulate,
        draw,
        (channels_last[0], channels_last[1]),
        needs,
    )
    if runs_native(backend, grad):
        dx, dw, *others = native.layer_backward(grad, step)
        dx, dw, dalpha, amax, scale = *_distinct([dx, dw]), *(t.clone() for t in others)
        return dx, dw, dalpha, amax, scale
    return reference.layer_backward(grad, step)


def _layer_backward_fake(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    saved: list[Tensor],
    grad_scale: Tensor,
    x_shape: list[int],
    weight_shape: list[int],
    spec: str,
    *plan: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Shapes only: decoding codes goes through tables that are real tensors."""
    need_dx, need_dw, need_dalpha = cast(list[bool], plan[-1])
    layer = parse_spec(spec)
    clips = 0
    slot = layer.output_input
    if need_dalpha and slot is not None and isinstance(slot.scale, PACT) and saved[3].numel():
        clips = slot.scale.clips
    first, second = _has_state(layer.grad_input_grad), _has_state(layer.grad_weight_grad)
    if layer.gradient_pair in ("mean", "random"):  # of a random pair, the slots have one scale
        first = second = first or second
    moving = ((need_dx or need_dalpha) and first) or (need_dw and second)
    return (
        grad.new_empty(x_shape if need_dx else 0),
        grad.new_empty(weight_shape if need_dw else 0),
        grad.new_empty(clips),
        grad.new_empty(1 if moving else 0),
        grad.new_empty(1 if moving else 0),
    )


def _embedding_forward(
    weight: Tensor,
    index: Tensor,
    spec: str,
    native: bool,
    seed: int,
    layer: int,
    call: int,
    save: bool,
) -> tuple[Tensor, Tensor]:
    _check_float32(weight=weight)
    draw = Draw(seed, layer, call)
    return embedding.embedding_forward(weight, index, parse_spec(spec), draw, save, native)


def _embedding_forward_fake(
    weight: Tensor,
    index: Tensor,
    spec: str,
    native: bool,
    seed: int,
    layer: int,
    call: int,
    save: bool,
) -> tuple[Tensor, Tensor]:
    slot = parse_spec(spec).output_weight
    clips = save and slot is not None and isinstance(slot.scale, SAWB) and slot.scale.ste == "clip"
    bits = -(-weight.numel() // 8) if clips else 0
    return (
        weight.new_empty(*index.shape, weight.shape[1]),
        weight.new_empty(bits, dtype=torch.uint8),
    )


def _embedding_backward(
    grad: Tensor,
    index: Tensor,
    mask: Tensor,
    grad_scale: Tensor,
    size: list[int],
    padding: int,
    spec: str,
    native: bool,
    seed: int,
    layer: int,
    call: int,
) -> tuple[Tensor, Tensor, Tensor]:
    _check_float32(grad=grad, grad_scale=grad_scale)
    return embedding.embedding_backward(
        grad,
        index,
        mask,
        grad_scale,
        size,
        padding,
        parse_spec(spec),
        Draw(seed, layer, call),
        native,
    )


def _embedding_backward_fake(
    grad: Tensor,
    index: Tensor,
    mask: Tensor,
    grad_scale: Tensor,
    size: list[int],
    padding: int,
    spec: str,
    *plan: object,
) -> tuple[Tensor, Tensor, Tensor]:
    moving = 1 if _has_state(parse_spec(spec).grad_weight_grad) else 0
    return grad.new_empty(size), grad.new_empty(moving), grad.new_empty(moving)


def _has_state(slot: Slot) -> bool:
    return slot is not None and isinstance(slot.scale, StatefulScale)


for _name, _kernel, _fake in (
    ("layer_forward", _layer_forward, _layer_forward),
    ("layer_backward", _layer_backward, _layer_backward_fake),
    ("embedding_forward", _embedding_forward, _embedding_forward_fake),
    ("embedding_backward", _embedding_backward, _embedding_backward_fake),
    ("matmul", reference_matmul, reference_matmul),
    ("block_matmul", reference_block_matmul, reference_block_matmul),
):
    _LIBRARY.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"nybble::{_name}", _fake, lib=_LIBRARY)
