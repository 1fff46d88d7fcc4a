"""Sixteen codes for a normalised value, placed so that they tell the sign after the ReLU as well.

A normalised input x^ = (x - mean) * invstd has mean 0 and variance 1 in every channel, so a fixed
step needs no pass over the data: step = 3/8, 16 steps cover -3 .. 3, values beyond are clipped. In
the direction in which the output y = gamma x^ + beta grows, u = sign(gamma) x^:

    threshold  t = -beta / |gamma|           y > 0 where u > t
    anchor     a = t clipped to [-3, 3]      (0 without a ReLU)
    first      k = round(a / step) + 8       clipped to [1, 15]; codes k .. 15 are those of y > 0
    code       floor((u - a) / step) + k     clipped to [k, 15] where y > 0, to [0, k - 1] elsewhere
    decoded    x^ = sign(gamma) ((code - k + 1/2) step + a) = code * step_c + offset_c

One border between two codes lies on the ReLU's threshold, so `code >= k` is its mask, exactly, at
no bit of its own. Without a ReLU the grid is centred and the mask is always true (first = 0).

Used in the backward pass only, where x^ enters dgamma = sum(dy x^) and the small correction
x^ * mean(dy x^) of dx. Measured on ResNet-18 (docs/memory.md): the cosine to the exact gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEP = 0.375
RANGE = 3.0


def channel_grid(weight: Tensor | None, bias: Tensor | None, relu: bool, like: Tensor) -> Tensor:
    """[4, C] float32: step_c, offset_c, first, and k + the anchor's part of the encoder.

    `like`: a tensor [C] whose device is used.

    >>> channel_grid(None, None, False, torch.zeros(1)).tolist()
    [[0.375], [-2.8125], [0.0], [8.0]]
    """
    ones = torch.ones_like(like, dtype=torch.float32)
    gamma = ones if weight is None else weight.detach().float()
    sign = torch.where(gamma < 0, -ones, ones)
    if not relu:
        anchor, k, first = torch.zeros_like(ones), 8.0 * ones, torch.zeros_like(ones)
    else:
        beta = torch.zeros_like(ones) if bias is None else bias.detach().float()
        # gamma = beta = 0 gives NaN: y = 0 is masked everywhere, like an infinite threshold
        anchor = torch.nan_to_num(-beta / gamma.abs(), nan=RANGE).clamp(-RANGE, RANGE)
        k = first = (torch.round(anchor / STEP) + 8.0).clamp(1.0, 15.0)
    offset = sign * (anchor + (0.5 - k) * STEP)
    return torch.stack([sign * STEP, offset, first, k - anchor / STEP])


def encode(xhat: Tensor, grid: Tensor, positive: Tensor | None) -> Tensor:
    """Codes (float32 integers) of normalised values; `grid` broadcasts against `xhat` in each of
    its four rows; `positive`: where y > 0, None without a ReLU."""
    step, _, first, shift = grid
    codes = torch.floor(xhat / step + shift)
    if positive is None:
        return codes.clamp_(0.0, 15.0)
    above = torch.maximum(codes, first).clamp_(max=15.0)
    below = torch.minimum(codes, first - 1.0).clamp_(min=0.0)
    return torch.where(positive, above, below)


def row_steps(xhat: Tensor) -> Tensor:
    """One step for each row of [rows, n]: its largest magnitude is 7.5 steps.

    >>> row_steps(torch.tensor([[3.0, -7.5], [0.0, 0.0]])).tolist()
    [[1.0], [0.0]]
    """
    return xhat.abs().amax(1, keepdim=True) / 7.5
