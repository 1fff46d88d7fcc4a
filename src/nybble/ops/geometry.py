"""The shape of a Gemm: which of torch's operators it is, and that operator's integers.

A `Geometry` is what a layer passes to an operator beside its tensors. Padding is always a number
here: layers turn `"same"` and the padding modes other than zeros into an explicit pad first,
because a padded value is quantised like every other activation while padded zeros are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from nybble.errors import UserError
from nybble.formats.hash_once import hash_once

Kind = Literal["linear", "conv2d"]
KINDS: tuple[Kind, ...] = ("linear", "conv2d")


@hash_once
@dataclass(frozen=True)
class Geometry:
    """One layer's Gemm: `kind`, and for convolutions stride, padding, dilation and groups.

    Linear operands are matrices: layers flatten the leading dimensions first.
    """

    kind: Kind
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"unknown kind of Gemm {self.kind!r}: use one of {', '.join(KINDS)}")

    def output_shape(self, x: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the output for an input and a weight of these shapes.

        >>> Geometry("linear").output_shape((8, 5), (3, 5))
        (8, 3)
        >>> Geometry("conv2d", (2, 2), (1, 1), (1, 1)).output_shape((8, 4, 9, 9), (6, 4, 3, 3))
        (8, 6, 5, 5)
        """
        if self.kind == "linear":
            return (x[0], weight[0])
        spatial = tuple(
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(
                x[2:], weight[2:], self.stride, self.padding, self.dilation, strict=True
            )
        )
        return (x[0], weight[0], *spatial)

    def contraction(self, gemm: str, x: tuple[int, ...], weight: tuple[int, ...]) -> int:
        """How many products one element of the result of `gemm` sums, at most.

        `gemm` is `output`, `grad_input` or `grad_weight`.

        >>> Geometry("linear").contraction("grad_weight", (8, 5), (3, 5))
        8
        """
        out = self.output_shape(x, weight)
        if gemm == "output":
            return prod(weight[1:])
        if gemm == "grad_input":
            return weight[0] // self.groups * prod(weight[2:])
        if self.kind == "linear":
            return x[0]
        return out[0] * prod(out[2:])

    def macs(self, x: tuple[int, ...], weight: tuple[int, ...]) -> int:
        """Multiply-accumulates of one forward pass; each backward Gemm costs the same.

        >>> Geometry("linear").macs((8, 5), (3, 5))
        120
        """
        return prod(self.output_shape(x, weight)) * prod(weight[1:])
