"""Which Gemm an operator of torch is: its product, shape, operands and kernel.

Which product a Gemm of the backward pass is follows from its operands: that of the forward Gemm of
the same autograd node that it shares memory with. Where copies hide that, the shape of the result
decides: that of the second operand makes it grad_weight.

    output       [M, K] x [K, N]      activation x weight
    grad_input   [M, N] x [N, K]      gradient x weight
    grad_weight  [N, M] x [M, K]      gradient x activation

A convolution is the Gemm of its output pixels: M = batch x output pixels, K = input channels x
taps, with every input element held once, not once a tap. A transposed convolution is the one whose
grad_input it is. Not done here: which layer a Gemm belongs to (trace.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from nybble.hardware.kinds import GRAD_INPUT, GRAD_WEIGHT, OUTPUT
from nybble.hardware.operation import Gemm
from nybble.hardware.storages import Storages

__all__ = ["Forward", "convolution", "factors", "product", "role_in_backward"]

_BIAS_FIRST = ("addmm", "baddbmm", "addmv")


@dataclass(frozen=True)
class Forward:
    """What is known of a forward Gemm when its backward runs."""

    layer: str
    left: int
    right: int
    right_shape: tuple[int, ...]


def factors(name: str, args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """The two tensors that an operator multiplies, in its own order.

    >>> import torch
    >>> bias, a, b = torch.zeros(4), torch.zeros(2, 3), torch.zeros(3, 4)
    >>> [tuple(x.shape) for x in factors("addmm", (bias, a, b))]
    [(2, 3), (3, 4)]
    """
    return args[1:3] if name in _BIAS_FIRST else args[:2]


def role_in_backward(
    known: Forward | None, a: Tensor, b: Tensor, result: Tensor, storages: Storages
) -> tuple[str, Tensor, Tensor]:
    """(product, gradient, the other operand) of a Gemm in the backward pass."""
    if known is not None:
        for gradient, other in ((a, b), (b, a)):
            key = storages.key(other)
            if key == known.right and key != known.left:
                return GRAD_INPUT, gradient, other
            if key == known.left and key != known.right:
                return GRAD_WEIGHT, gradient, other
        if sorted(result.shape) == sorted(known.right_shape):
            return GRAD_WEIGHT, b, a
    return GRAD_INPUT, a, b


def product(
    which: str,
    first: Tensor,
    second: Tensor,
    result: Tensor,
    left: Tensor,
    storages: Storages,
) -> Gemm:
    """The Gemm of first x second, of which `left` is the activation or gradient.

    >>> import torch
    >>> weight, x = torch.zeros(4, 3), torch.zeros(3, 8)
    >>> storages = Storages(torch.nn.Identity())
    >>> gemm = product(OUTPUT, weight, x, weight @ x, x, storages)
    >>> gemm.m, gemm.n, gemm.k
    (8, 4, 3)
    """
    count = prod(first.shape[:-2]) if first.dim() > 2 else 1
    m, k = first.shape[-2:]
    n = second.shape[-1] if second.dim() > 1 else 1
    right = second
    if first is not left:  # the transposed product, so that `left` comes first again
        m, n, right = n, m, first
    access = storages.access
    return Gemm(which, count, m, n, k, access(left), access(right), access(result))


def convolution(
    which: str,
    operands: tuple[Tensor, Tensor, Tensor],
    x: Tensor,
    weight: Tensor,
    output: Tensor,
    args: tuple[Any, ...],
    storages: Storages,
) -> Gemm:
    """One Gemm of a convolution.

    operands: left, right and result of this Gemm. x, weight, output: of the convolution itself, or
    tensors of their shapes. args: those of torch's `convolution` operator (input, weight, bias,
    stride, padding, dilation, transposed, output_padding, groups).
    """
    transposed, groups = bool(args[6]), int(args[8])
    if transposed:  # the convolution whose gradient this is
        x, output = output, x
    taps = prod(weight.shape[2:])
    outs, ins = weight.shape[0] // groups, weight.shape[1]
    pixels = output.shape[0] * prod(output.shape[2:])
    role = {OUTPUT: GRAD_INPUT, GRAD_INPUT: OUTPUT}.get(which, which) if transposed else which
    if role == OUTPUT:
        m, n, k, tapped = pixels, outs, ins * taps, "k"
    elif role == GRAD_INPUT:
        m, n, k, tapped = pixels, ins, outs * taps, "k"
    else:
        m, n, k, tapped = outs, ins * taps, pixels, "n"
    kernel = "conv"
    if groups > 1 and ins == 1:
        kernel = "depthwise"
    elif taps == 1:
        kernel = "conv1x1"
    left, right, result = (storages.access(operand) for operand in operands)
    return Gemm(
        *(which, groups, m, n, k, left, right, result),
        taps=taps,
        tapped=tapped,
        kernel=kernel,
        stride=max(args[3]) if args[3] else 1,
        image=prod(x.shape[2:]),
    )
