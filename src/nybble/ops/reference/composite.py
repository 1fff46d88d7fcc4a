"""One layer's step where recipes do more than one scale and one rounding to an operand.

    forward    qx, qw = quantise(x R), quantise(w R)         R: the output Gemm's transform, or 1
               y = qx qw^T + outliers + bias                 outliers (OCC): (x - clamp(x)) w^T
    backward   dx = Q(dy s_w R') (w R') R^T                  R': grad_input's own transform
               dw = Q(dy s_x R'') (x R'') R^T                the mean over `samples` roundings
               dw += (sum dy - sum Q(dy)) (x) mean(x)        control variate

Where R is not 1 and a backward Gemm takes the forward codes (`same`, or `double`), it works in the
rotated basis, and its result is turned back. `fold` puts s_w, s_x into the gradient; without it
they are multiplied into the codes, and the Gemm runs on values. Each slot's scale lies along the
sum or the free dimension of its own Gemm: see places.py.

`make` is who makes the operands: composite_operand.py, or its native twin; `products` multiplies
them. The backward step: composite_backward.py.
"""

from __future__ import annotations

from torch import Tensor

from nybble.ops.calls import ForwardCall
from nybble.ops.exactness import finish_
from nybble.ops.geometry import Geometry
from nybble.ops.reference import composite_operand as operands
from nybble.ops.reference import gemm
from nybble.ops.reference.composite_operand import (
    Make,
    Products,
    Streams,
    store,
    values,
)
from nybble.ops.reference.operand import (
    GRAD_INPUT_WEIGHT,
    GRAD_WEIGHT_INPUT,
    INPUT,
    WEIGHT,
    Draw,
    Operand,
    rereads,
)
from nybble.ops.reference.outliers import (
    keep_outliers,
    multiply_outliers,
    split_outliers,
)
from nybble.ops.reference.places import Place, places
from nybble.ops.reference.storage import is_channels_last
from nybble.ops.spec import LayerSpec
from nybble.quantizers import Fit

__all__ = ["decoded_weight", "keep", "layer_forward", "output_operands"]


Quantized = tuple[Operand, Fit | None]


def output_operands(
    x: Tensor,
    weight: Tensor,
    alpha: Tensor | None,
    spec: LayerSpec,
    geometry: Geometry,
    draw: Draw,
    *,
    want_inside: bool,
    make: Make = operands,
) -> tuple[Quantized, Quantized]:
    """Both operands of the output Gemm."""
    place_x, place_w = places(geometry, "output")
    qx = make.quantize(
        x, spec.output_input, place_x, Streams(draw, INPUT), alpha, want_inside=want_inside
    )
    qw = make.quantize(
        weight, spec.output_weight, place_w, Streams(draw, WEIGHT), want_inside=want_inside
    )
    return qx, qw


def layer_forward(
    x: Tensor,
    weight: Tensor,
    call: ForwardCall,
    make: Make = operands,
    products: Products = gemm,
) -> tuple[Tensor, list[Tensor]]:
    """Output of the layer, and what its backward needs. make: who quantises; products: who
    multiplies."""
    spec, geometry, draw, bias, save = call.spec, call.geometry, call.draw, call.bias, call.save
    inner, outer = split_outliers(x, spec.outliers)
    qx, qw = output_operands(
        inner, weight, call.alpha, spec, geometry, draw, want_inside=save, make=make
    )
    rank = x.dim()
    follow_x, follow_w = geometry.follow("output")
    tx, mx, limit_x = qx[0].facing(*follow_x, rank)
    tw, mw, limit_w = qw[0].facing(*follow_w, rank)
    acc = products.output(
        tx,
        tw,
        geometry,
        max_x=limit_x,
        max_weight=limit_w,
        accumulate=call.accumulate,
        accumulator=spec.accumulator,
    )
    y = finish_(acc, mx, mw)
    if outer is not None:
        weights = decoded_weight(qw[0], spec, geometry, draw, make)
        y += multiply_outliers(outer, weights, geometry)
    if bias is not None:
        y += bias.reshape((1, -1, *[1] * (rank - 2)) if geometry.convolves else (-1,))
    if not save:
        return y, []
    return y, keep(inner, weight, qx, qw, spec, geometry, draw, make) + keep_outliers(
        outer, spec.outliers
    )


def decoded_weight(
    qw: Operand, spec: LayerSpec, geometry: Geometry, draw: Draw, make: Make = operands
) -> Tensor:
    """The weight's values, in its own basis."""
    return make.turn(values(qw), spec.transform, places(geometry, "output")[1], draw, back=True)


def keep(
    x: Tensor,
    weight: Tensor,
    qx: Quantized,
    qw: Quantized,
    spec: LayerSpec,
    geometry: Geometry,
    draw: Draw,
    make: Make = operands,
) -> list[Tensor]:
    """Four tensors of the input and four of the weight, as `layer.keep` has them."""
    _, place_x = places(geometry, "grad_weight")
    _, place_w = places(geometry, "grad_input")
    name, streams = "grad_weight_input", Streams(draw, GRAD_WEIGHT_INPUT)
    kept_x = _keep(x, qx, name, spec, place_x, streams, make)
    if rereads(spec.kept("grad_input_weight")):
        last = is_channels_last(weight)
        return [*kept_x, *store(Operand(weight, None, None, qw[0].inside), None, None, last)]
    name, streams = "grad_input_weight", Streams(draw, GRAD_INPUT_WEIGHT)
    kept_w = _keep(weight, qw, name, spec, place_w, streams, make)
    return [*kept_x, *kept_w]


def _keep(
    tensor: Tensor,
    forward: Quantized,
    name: str,
    spec: LayerSpec,
    place: Place,
    streams: Streams,
    make: Make,
) -> list[Tensor]:
    slot = spec.kept(name)
    if spec.reuses(name):
        return store(forward[0], slot, forward[1], is_channels_last(tensor))
    found, fit = make.quantize(tensor, slot, place, streams)
    found.inside = forward[0].inside
    return store(found, slot, fit, is_channels_last(tensor))
