"""The one place where an integer becomes a float, and the order in which scales multiply.

Let `acc` be a Gemm's exact integer sum of products of integers a and b, and let s_a and s_b be
their multipliers (scale x format unit, each one float32 rounding). Then, in float32 with one
rounding to nearest even per operation,

    result = float32(acc) * (s_a * s_b)            grad_input, grad_weight
    result = float32(acc) * (s_a * s_b) + bias     output

Three details are easy to simplify wrongly:
- s_a * s_b is rounded on its own BEFORE it meets the sum; (acc * s_a) * s_b has other last bits.
- the bias is a separate, rounded add: no fused multiply-add.
- float32(acc) rounds above 2^24. It rounds once, from the exact sum; summing in float32 rounds
  many times. That is the whole difference between `accumulate="exact"` and `"fast"`.
A zero sum is +0, whatever the signs of its terms.

Scales that vary by block along the contraction (MX: 32 elements, NV: 16; of two operands whose
blocks differ, the greatest common divisor of both sizes) meet the exact integer sum of their block,
and the blocks are added in float32 in ascending order:

    sum = +0
    sum = fl(sum + fl(float32(acc_block) * fl(s_a_block * s_b_block)))          for every block
"""

from __future__ import annotations

from torch import Tensor

from nybble.errors import NybbleError

EXACT_LIMIT = 2**53
"""Integers below this are exact in float64, the accumulator of the reference backend."""


def check_exact(max_a: int, max_b: int, contraction: int) -> None:
    """Refuse an exact sum that float64 could not hold: `max_a * max_b * contraction < 2^53`."""
    bound = max_a * max_b * contraction
    if bound >= EXACT_LIMIT:
        raise NybbleError(
            f"an exact sum of {contraction} products of up to {max_a} x {max_b} may reach {bound},"
            f" beyond 2^53: use accumulate='fast' or narrower formats"
        )


def finish_(
    acc: Tensor, scale_a: Tensor | None, scale_b: Tensor | None, bias: Tensor | None = None
) -> Tensor:
    """Turn float32(acc) into the result, in place; see the module's formulas.

    `acc`: float32. Multipliers: float32, broadcastable to `acc`, or None for an operand that has
    none (its values are its integers). `bias`: broadcastable float32 or None.
    """
    if scale_a is not None and scale_b is not None:
        acc.mul_(scale_a * scale_b)
    elif scale_a is not None or scale_b is not None:
        acc.mul_(scale_a if scale_a is not None else scale_b)  # type: ignore[arg-type]
    if bias is not None:
        acc.add_(bias)
    return acc
