"""`nn.Embedding` with a table of few bits, an option of the recipes (`ops/embedding.py`).

The table is quantised as a weight is (the recipe's `output_weight` slot), rows are looked up in
codes, and the output's gradient is quantised as for a weight's update (`grad_weight_grad`). A
look-up multiplies nothing, so recipes leave it in float32 unless asked: `sun2020:embedding=yes`, or
a rule that names the layer.

`padding_idx` gets no gradient; `max_norm` renormalises rows of the master table first, as torch
does. Not done here: sparse gradients and `scale_grad_by_freq`, which are refused; `EmbeddingBag`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.nn.once import once_differentiable
from nybble.nn.state import QuantizedLayer
from nybble.ops.dispatch import runs_native
from nybble.ops.spec import LayerSpec


class EmbeddingFunction(torch.autograd.Function):
    """`apply(weight, index, call, layer)`; weight is float32."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, index: Tensor, call: tuple[Any, ...], layer: Any) -> Any:
        save = ctx.needs_input_grad[0]
        y, mask = torch.ops.nybble.embedding_forward(weight, index, *call, save)
        ctx.call, ctx.layer, ctx.size = call, layer, list(weight.shape)
        ctx.padding = -1 if layer.padding_idx is None else layer.padding_idx
        ctx.save_for_backward(index, mask)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        index, mask = ctx.saved_tensors
        spec, *rest = ctx.call
        layer: Embedding = ctx.layer
        spec = layer.backward_spec(layer.nybble_spec).key
        table, amax, scale = torch.ops.nybble.embedding_backward(
            grad.float(), index, mask, layer.nybble_grad_scale, ctx.size, ctx.padding, spec, *rest
        )
        layer.observe_gradient(amax, scale)
        return table, None, None, None


class Embedding(QuantizedLayer, nn.Embedding):
    """A converted `torch.nn.Embedding`."""

    def attach_(self, spec: LayerSpec, **rest: Any) -> None:
        """Keep the two slots that a table has; refuse what has no dense gradient."""
        name = rest.get("name") or type(self).__name__
        for option in ("sparse", "scale_grad_by_freq"):
            if getattr(self, option):
                raise UserError(
                    f"{name}: an Embedding with {option}=True cannot be converted; leave it in"
                    f" float32 with rules={{{name!r}: None}}, or make it without {option}"
                )
        # A transform belongs to both operands of a Gemm, and a look-up is none.
        table, gradient = (
            None if slot is None else replace(slot, transform=None)
            for slot in (spec.output_weight, spec.grad_weight_grad)
        )
        spec = LayerSpec(output_weight=table, grad_weight_grad=gradient, grad_input_weight=None)
        super().attach_(spec, **rest)

    def forward(self, input: Tensor) -> Tensor:
        """Indices of any shape to [..., embedding_dim]."""
        if input.is_floating_point():
            raise UserError(f"{type(self).__name__}: indices are integers, not {input.dtype}")
        weight = self.weight
        if input.numel() and not (int(input.min()) >= 0 and int(input.max()) < weight.shape[0]):
            raise UserError(
                f"{self.nybble_name or type(self).__name__}: an index is out of range: they go from"
                f" 0 to {weight.shape[0] - 1}, but {int(input.min())} to {int(input.max())} came in"
            )
        if self.max_norm is not None:
            with torch.no_grad():
                torch.embedding_renorm_(
                    weight.detach(), input.contiguous(), self.max_norm, self.norm_type
                )
        call = (
            self.nybble_spec.key,
            runs_native(self.nybble_backend, weight),
            self.nybble_seed,
            self.nybble_index,
            self._next_call(input),
        )
        y: Tensor = EmbeddingFunction.apply(weight.float(), input, call, self)  # type: ignore[no-untyped-call]
        return y.to(weight.dtype)
