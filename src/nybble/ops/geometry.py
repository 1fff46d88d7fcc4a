"""The shape of a Gemm: which of torch's operators it is, and that operator's integers.

    linear              x [P, K],  weight [N, K]            -> [P, N]
    bmm                 x [B, M, K],  weight [B, N, K]      -> [B, M, N]     a product for each b
    conv2d, conv3d      x [N, C, ...],  weight [O, C / groups, ...]
    conv_transpose2d, conv_transpose3d      x [N, I, ...],  weight [I, O / groups, ...]

A transposed convolution is its mirror image: the convolution with the same weight whose output is
this one's input. So its three Gemms are the mirror's, in another order:

    output = mirror's grad_input      grad_input = mirror's output      grad_weight = grad_weight

A `Geometry` is what a layer passes to an operator beside its tensors. Padding is always a number
here: layers turn `"same"` and the padding modes other than zeros into an explicit pad first,
because a padded value is quantised like every other activation while padded zeros are exact.
One-dimensional convolutions are two-dimensional ones of one line.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal

from nybble.errors import UserError
from nybble.formats.hash_once import hash_once

Kind = Literal["linear", "bmm", "conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d"]
KINDS: tuple[Kind, ...] = (
    "linear",
    "bmm",
    "conv2d",
    "conv3d",
    "conv_transpose2d",
    "conv_transpose3d",
)
_MIRROR: dict[Kind, Kind] = {"conv_transpose2d": "conv2d", "conv_transpose3d": "conv3d"}

Follow = tuple[tuple[int, int], tuple[int, int]]
"""For both operands of a Gemm: (the dimension that a scale may follow, that of the result)."""


@hash_once
@dataclass(frozen=True)
class Geometry:
    """One layer's Gemm: `kind`, and for convolutions stride, padding, dilation and groups.

    Linear operands are matrices: layers flatten the leading dimensions first. `output_padding` is
    the transposed convolutions'.
    """

    kind: Kind
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    output_padding: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"unknown kind of Gemm {self.kind!r}: use one of {', '.join(KINDS)}")
        if any(more >= s for more, s in zip(self.output_padding, self.stride, strict=False)):
            raise UserError(
                f"output_padding {self.output_padding} must be below the stride {self.stride}: what"
                " lies beyond is reached by no product, and layers append it"
            )

    @cached_property
    def mirror(self) -> Geometry | None:
        """The convolution that a transposed one mirrors, None for the other kinds."""
        kind = _MIRROR.get(self.kind)
        if kind is None:
            return None
        return Geometry(kind, self.stride, self.padding, self.dilation, self.groups)

    @property
    def convolves(self) -> bool:
        """Whether this is a convolution, transposed or not.

        >>> Geometry("linear").convolves, Geometry("conv3d").convolves
        (False, True)
        """
        return self.kind not in ("linear", "bmm")

    def output_shape(self, x: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the output for an input and a weight of these shapes.

        >>> Geometry("linear").output_shape((8, 5), (3, 5))
        (8, 3)
        >>> Geometry("conv2d", (2, 2), (1, 1), (1, 1)).output_shape((8, 4, 9, 9), (6, 4, 3, 3))
        (8, 6, 5, 5)
        >>> up = Geometry("conv_transpose2d", (2, 2), (1, 1), (1, 1), output_padding=(1, 0))
        >>> up.output_shape((8, 6, 5, 5), (6, 4, 3, 3))
        (8, 4, 10, 9)
        """
        if self.kind == "linear":
            return (x[0], weight[0])
        if self.kind == "bmm":
            return (x[0], x[1], weight[1])
        if self.mirror is not None:
            grown = tuple(
                (size - 1) * s - 2 * p + d * (k - 1) + 1 + more
                for size, k, s, p, d, more in zip(
                    x[2:],
                    weight[2:],
                    self.stride,
                    self.padding,
                    self.dilation,
                    self.output_padding or (0,) * len(self.stride),
                    strict=True,
                )
            )
            return (x[0], weight[1] * self.groups, *grown)
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
        if self.kind == "bmm":
            return {"output": x[2], "grad_input": weight[1], "grad_weight": x[1]}[gemm]
        outwards = "output" if self.mirror is None else "grad_input"
        if gemm == "grad_weight":
            if self.kind == "linear":
                return x[0]
            out = x if self.mirror is not None else self.output_shape(x, weight)
            return out[0] * prod(out[2:])
        if gemm == outwards:
            return prod(weight[1:])
        return weight[0] // self.groups * prod(weight[2:])

    def follow(self, gemm: str) -> Follow:
        """Which dimension of each operand may carry a scale of its own, outside of the sum; -1
        where there is none, because groups cut it.

        >>> Geometry("linear").follow("grad_weight")
        ((1, 0), (1, 1))
        """
        if self.kind == "bmm":
            return ((0, 0), (0, 0))
        cut = 1 if self.groups == 1 else -1
        if self.mirror is None:
            weight = {"output": 0, "grad_input": cut}
            return ((0, 0), (weight[gemm], 1)) if gemm in weight else ((1, 0), (cut, 1))
        weight = {"output": cut, "grad_input": 0}
        return ((0, 0), (weight[gemm], 1)) if gemm in weight else ((cut, 1), (1, 0))

    def channel_dims(self, rank: int) -> list[int]:
        """The dimensions of an output of `rank` dimensions over which a bias's gradient sums.

        >>> Geometry("conv2d").channel_dims(4), Geometry("linear").channel_dims(2)
        ([0, 2, 3], [0])
        """
        return [0, *range(2, rank)] if self.convolves else list(range(rank - 1))

    def macs(self, x: tuple[int, ...], weight: tuple[int, ...]) -> int:
        """Multiply-accumulates of one forward pass; each backward Gemm costs the same.

        >>> Geometry("linear").macs((8, 5), (3, 5))
        120
        >>> Geometry("conv_transpose2d", (1, 1), (0, 0), (1, 1)).macs((1, 2, 3, 3), (2, 4, 1, 1))
        72
        """
        if self.kind == "bmm":
            return prod(x) * weight[1]
        if self.mirror is not None:
            return prod(x) * prod(weight[1:])
        return prod(self.output_shape(x, weight)) * prod(weight[1:])
