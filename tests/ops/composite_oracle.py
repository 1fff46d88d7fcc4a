"""A composite layer's step, written as its definition reads: quantise, multiply values, turn back.

Nothing of ops/reference is used: operands are `nybble.quantize`d along an axis from the table
below, and the three Gemms are torch's own operators in float64, with autograd for the backward two.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import nybble
from nybble.ops.geometry import Geometry
from nybble.ops.spec import LayerSpec
from nybble.quantizers import AbsMax, Quantizer, RandomKey, random24

# slot -> (axis of the sum, free axis, number in the random key); a batch of products has no free
# axis; a transposed convolution's weight lies the other way round.
PLACES = {
    "output_input": (1, 0, 0),
    "output_weight": (1, 0, 1),
    "grad_input_grad": (1, 0, 2),
    "grad_weight_grad": (0, 1, 3),
    "grad_input_weight": (0, 1, 4),
    "grad_weight_input": (0, 1, 5),
}
BMM = {
    "output_input": 2,
    "output_weight": 2,
    "grad_input_grad": 2,
    "grad_input_weight": 1,
    "grad_weight_grad": 1,
    "grad_weight_input": 1,
}
TRANSPOSED = {"output_weight": (0, 1, 1), "grad_input_weight": (1, 0, 4)}
GEMM = {"output": 0, "grad_input": 2, "grad_weight": 3}


def multiply(x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
    """The output Gemm, in float64."""
    x, w = x.double(), w.double()
    if geometry.kind == "linear":
        return x @ w.t()
    if geometry.kind == "bmm":
        return x @ w.transpose(1, 2)
    call: dict[str, Any] = {
        "stride": geometry.stride,
        "padding": geometry.padding,
        "dilation": geometry.dilation,
        "groups": geometry.groups,
    }
    if geometry.mirror is not None:
        call["output_padding"] = geometry.output_padding or 0
    return getattr(F, geometry.kind)(x, w, **call)


def gradients(x: Tensor, w: Tensor, g: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """dx and dw of `multiply` for the output gradient g."""
    x, w = x.double().requires_grad_(), w.double().requires_grad_()
    return torch.autograd.grad(multiply(x, w, geometry), (x, w), g.double())


class Oracle:
    """One layer's operands; `key`: seed, layer and call."""

    def __init__(self, spec: LayerSpec, geometry: Geometry, **key: int) -> None:
        self.spec, self.geometry, self.key = spec, geometry, key

    def place(self, name: str) -> tuple[int, int | None, int, int]:
        """(axis, free axis, number, groups that cut the axis)."""
        axis, free, number = PLACES[name]
        groups = self.geometry.groups
        if self.geometry.kind == "bmm":
            return BMM[name], None, number, 1
        if self.geometry.mirror is not None:
            axis, free, number = TRANSPOSED.get(name, (axis, free, number))
        weight = name.endswith("input_weight") or name == "output_weight"
        cut = axis == (0 if weight else 1) and not name.startswith("grad_weight")
        return axis, free, number, groups if cut else 1

    def turn(self, t: Tensor, slot: Quantizer | None, name: str, back: bool = False) -> Tensor:
        if slot is None or slot.transform is None:
            return t
        axis, _, _, groups = self.place(name)
        gemm = GEMM[name.rsplit("_", 1)[0]]

        def bits(stream: int, shape: Any) -> Tensor:
            return random24(shape, RandomKey(operand=gemm + 8 * stream, **self.key))

        turn = slot.transform.inverse if back else slot.transform.apply
        return turn(t, axis, bits, groups)

    def quantized(self, t: Tensor, name: str, slot: Any = None, sample: int = 0) -> Any:
        """The QTensor of an operand that has been turned."""
        slot = self.spec.slot(name) if slot is None else slot
        axis, free, number, _ = self.place(name)
        scale = slot.scale
        if isinstance(scale, AbsMax):
            if scale.granularity == "block":
                scale = replace(scale, axis=axis)
            elif scale.granularity == "free" and free is None:
                scale = replace(scale, granularity="row", axis=axis)
            elif scale.granularity == "free":
                scale = replace(scale, granularity="channel", axis=free)
        key = RandomKey(operand=number + 4096 * sample, **self.key)
        return nybble.quantize(t, replace(slot, scale=scale, transform=None), key=key)

    def values(self, t: Tensor, name: str, sample: int = 0) -> Tensor:
        """Turned (if the slot says so), quantised, decoded."""
        slot = self.spec.slot(name)
        if slot is None:
            return t
        return self.quantized(self.turn(t, slot, name), name, sample=sample).dequantize()

    def reused(self, name: str) -> bool:
        return getattr(self.spec, name) == "same"

    def partner(self, t: Tensor, name: str, forward: Tensor) -> Tensor:
        """The weight or input of a backward Gemm."""
        if self.reused(name):
            return forward
        return self.values(forward if self.spec.double else t, name)

    def step(self, x: Tensor, w: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y (without a bias), dx, dw, in float64 but for what is quantised."""
        spec, geometry = self.spec, self.geometry
        qx, qw = self.values(x, "output_input"), self.values(w, "output_weight")
        y = multiply(qx, qw, geometry)
        bw = self.partner(w, "grad_input_weight", qw)
        dx, _ = gradients(torch.zeros_like(x), bw, self.values(dy, "grad_input_grad"), geometry)
        dx = self.from_own(dx, "grad_input_grad", "output_input", "grad_input_weight")
        bx = self.partner(x, "grad_weight_input", qx)
        dw = torch.zeros_like(w, dtype=torch.float64)
        for sample in range(spec.samples):
            g = self.values(dy, "grad_weight_grad", sample)
            dw += gradients(bx, torch.zeros_like(w), g, geometry)[1] / spec.samples
        return y, dx, self.from_own(dw, "grad_weight_grad", "output_weight", "grad_weight_input")

    def from_own(self, result: Tensor, gradient: str, forward: str, name: str) -> Tensor:
        """A result in the layer's own basis: it is in the output Gemm's where codes were reused."""
        slot = self.spec.output_weight
        if slot is None or not (self.reused(name) or self.spec.double):
            return result
        return self.turn(result.float(), slot, forward, back=True).double()
