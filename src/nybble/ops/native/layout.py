"""Results in the layout that torch expects, in memory that is there already or in the pool's.

reuse          a gradient's memory as a result of another shape
gathered       a permuted result in torch's order
torch_layout   [N, H, W, C] as torch's [N, C, H, W]
image          uninitialised [N, C, H, W]
"""

from __future__ import annotations

from math import prod

from torch import Tensor

from nybble.ops.native.pool import result

__all__ = ["gathered", "image", "reuse", "torch_layout"]


def reuse(memory: Tensor | None, shape: tuple[int, ...], last: bool = False) -> Tensor | None:
    """`memory` as a dense tensor of `shape`, or None where it does not hold as many numbers.

    last: it is an image in channels-last order, and `shape` is [N, H, W, C].
    """
    if memory is None or memory.numel() != prod(shape):
        return None
    if last:
        memory = memory.permute(0, 2, 3, 1)
    return memory.view(shape).detach() if memory.is_contiguous() else None


def gathered(x: Tensor, memory: Tensor | None = None, *, lasting: bool = False) -> Tensor:
    """`x` contiguous: itself, or copied into `memory` where that is as large, else into the pool's
    (`lasting` as there).

    >>> import torch
    >>> gathered(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).t()).view(-1).tolist()
    [1.0, 3.0, 2.0, 4.0]
    """
    # Detached: autograd adds gradients in place only where nothing else holds their memory, and a
    # view holds what it was taken from.
    if x.is_contiguous():
        return x.detach()
    out = reuse(memory, tuple(x.shape))
    return (result(x.shape, lasting) if out is None else out).copy_(x)


def torch_layout(
    nhwc: Tensor, channels_last: bool, memory: Tensor | None = None, *, lasting: bool = False
) -> Tensor:
    """[N, H, W, C] memory as torch's [N, C, H, W], in the memory format that torch would choose;
    without `channels_last` in `memory` where that is as large."""
    nchw = nhwc.permute(0, 3, 1, 2)
    return nchw.detach() if channels_last else gathered(nchw, memory, lasting=lasting)


def image(shape: tuple[int, ...], channels_last: bool) -> Tensor:
    """An uninitialised image [N, C, H, W] in one of torch's two layouts.

    >>> image((1, 2, 3, 4), True).stride()
    (24, 1, 8, 2)
    """
    if not channels_last:
        return result(shape)
    n, c, h, w = shape
    return torch_layout(result((n, h, w, c)), True)
