"""The output gradient's two operands as packed codes: `ops/reference/gradient.py`, natively.

Each operand comes back as `Kept` where its slot is codes, else as the reference's `Operand` (FP8
and wider, float32). See the reference for the formulas and for what `amax` and `scale` are.
"""

from __future__ import annotations

from torch import Tensor

from nybble.ops.native.operand import Kept
from nybble.ops.native.plan import is_code_slot
from nybble.ops.reference import gradient as reference
from nybble.ops.reference.operand import Draw, Operand, store
from nybble.ops.spec import LayerSpec

__all__ = ["quantize_gradient"]


def quantize_gradient(
    grad: Tensor,
    spec: LayerSpec,
    grad_scale: Tensor,
    draw: Draw,
    wanted: tuple[bool, bool],
) -> tuple[Kept | Operand | None, Kept | Operand | None, Tensor, Tensor]:
    """(operand of grad_input, operand of grad_weight, amax, scale used); grad is dense."""
    first, second, amax, scale = reference.quantize_gradient(grad, spec, grad_scale, draw, wanted)
    slots = (spec.grad_input_grad, spec.grad_weight_grad)
    kept: list[Kept | Operand | None] = []
    for operand, slot in zip((first, second), slots, strict=True):
        codes = operand is not None and slot is not None and is_code_slot(slot)
        kept.append(store(operand, slot, None) if codes and operand is not None else operand)
    return kept[0], kept[1], amax, scale
