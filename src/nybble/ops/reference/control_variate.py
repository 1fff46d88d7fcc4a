"""The control variate of grad_weight: what rounding added to the gradient's sums, times the mean.

    dw += (sum of z - sum of Q(z)) (x) mean of x

The sum runs over the batch, the mean of an input channel over batch and positions. The term has
mean zero over the rounding of z, and takes from dw the noise that multiplies the input's mean.

In a convolution a tap sees only a part of the positions: taps.py sums the error's plane, itself the
sum over the images, over what each tap sees. In a batch of products each product has its own term.

Natively: ops/native/composite.py and taps.py. Not done: other variates than the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nybble.ops.geometry import Geometry
from nybble.ops.reference.composite_operand import Blocks, values
from nybble.ops.reference.operand import Operand
from nybble.ops.reference.taps import spread_tap_sums, sum_of_images, tap_sums
from nybble.quantizers import per_channel_sum

__all__ = ["control_variate"]


def control_variate(
    z: Tensor, g: Operand, x: Operand, geometry: Geometry, weight_shape: tuple[int, ...]
) -> Tensor:
    """The term to add to a grad_weight of `weight_shape`. g: z as it was rounded.

    >>> z, x = torch.tensor([[1.25], [2.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> rounded = Operand(torch.tensor([[1.0], [2.0]]))
    >>> control_variate(z, rounded, Operand(x), Geometry("linear"), (1, 2))
    tensor([[0.5000, 0.7500]])
    """
    if geometry.kind == "bmm":
        return (z - values(g)).sum(1).unsqueeze(2) * values(x).mean(1, keepdim=True)
    mean = _channel_means(x)
    if not geometry.convolves:
        m = g.multiplier
        if m is not None and (m.numel() == 1 or m.numel() == m.shape[1]):
            rounded = per_channel_sum(g.tensor, 1) * m.reshape(-1)  # exact sums: of integers
        else:
            rounded = per_channel_sum(values(g), 1)
        return (per_channel_sum(z, 1) - rounded).unsqueeze(1) * mean.unsqueeze(0)
    groups, taps = geometry.groups, weight_shape[2:]
    error, x_shape = sum_of_images(z) - _sum_of_rounded(g), tuple(x.tensor.shape)
    if geometry.mirror is None:  # weight [O, C / groups, ...]
        rest = tap_sums(error, geometry, x_shape, tuple(taps)).unsqueeze(1)
        mean = mean.view(groups, -1).repeat_interleave(weight_shape[0] // groups, dim=0)
    else:  # weight [I, O / groups, ...]
        rest = spread_tap_sums(error, geometry, x_shape, tuple(taps))
        rest = rest.view(groups, *weight_shape[1:])
        rest = rest.repeat_interleave(weight_shape[0] // groups, dim=0)
        mean = mean.unsqueeze(1)
    return rest * mean.view(*mean.shape, *[1] * len(taps))


def _sum_of_rounded(g: Operand) -> Tensor:
    """The sum over the images of a convolution's rounded gradient: exact where one scale, or one a
    channel, can leave it."""
    m = g.multiplier
    if m is not None and not isinstance(g, Blocks) and m.numel() in (1, g.tensor.shape[1]):
        return g.tensor.sum(0) * m.reshape(-1, *[1] * (g.tensor.dim() - 2))
    return sum_of_images(values(g))


def _channel_means(x: Operand) -> Tensor:
    """The mean of each input channel's values, from the exact sum of its integers."""
    ints, m = x.tensor, x.multiplier
    whole = m is not None and m.numel() == 1
    summed = ints if whole else values(x)
    count = ints.numel() // max(ints.shape[1], 1)
    dims = [d for d in range(ints.dim()) if d != 1]
    mean = summed.sum(dims, dtype=torch.float64).to(torch.float32) / float(max(count, 1))
    return mean if m is None or not whole else mean * m.reshape(())
