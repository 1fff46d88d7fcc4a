"""Scalar oracle of a layer's three Gemms: Python integers, one product at a time.

Independent of the torch code on purpose: loops over output positions, kernel taps and groups, and
float32 arithmetic through numpy scalars. Slow; for tiny shapes.
"""

from __future__ import annotations

from itertools import product

import numpy as np

f32 = np.float32


def conv_taps(x_shape, w_shape, stride, padding, dilation, groups):
    """(n, o, i, j, c_weight, c_input, ki, kj, row, col) of every product of a 2d convolution."""
    n_batch, _, height, width = x_shape
    out_c, per_group, kh, kw = w_shape
    out_h = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    out_w = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    for n, o, i, j in product(range(n_batch), range(out_c), range(out_h), range(out_w)):
        group = o // (out_c // groups)
        for c, ki, kj in product(range(per_group), range(kh), range(kw)):
            row = i * stride[0] - padding[0] + ki * dilation[0]
            col = j * stride[1] - padding[1] + kj * dilation[1]
            if 0 <= row < height and 0 <= col < width:
                yield n, o, i, j, c, group * per_group + c, ki, kj, row, col


def conv_shape(x_shape, w_shape, stride, padding, dilation):
    spatial = [
        (x_shape[2 + d] + 2 * padding[d] - dilation[d] * (w_shape[2 + d] - 1) - 1) // stride[d] + 1
        for d in range(2)
    ]
    return (x_shape[0], w_shape[0], *spatial)


def conv_output(x, w, stride, padding, dilation, groups):
    """Integer sums of the forward convolution, as an object array of Python integers."""
    y = np.zeros(conv_shape(x.shape, w.shape, stride, padding, dilation), dtype=object)
    for n, o, i, j, c, ci, ki, kj, row, col in conv_taps(
        x.shape, w.shape, stride, padding, dilation, groups
    ):
        y[n, o, i, j] += int(x[n, ci, row, col]) * int(w[o, c, ki, kj])
    return y


def conv_grad_input(g, w, x_shape, stride, padding, dilation, groups):
    dx = np.zeros(x_shape, dtype=object)
    for n, o, i, j, c, ci, ki, kj, row, col in conv_taps(
        x_shape, w.shape, stride, padding, dilation, groups
    ):
        dx[n, ci, row, col] += int(g[n, o, i, j]) * int(w[o, c, ki, kj])
    return dx


def conv_grad_weight(g, x, w_shape, stride, padding, dilation, groups):
    dw = np.zeros(w_shape, dtype=object)
    for n, o, i, j, c, ci, ki, kj, row, col in conv_taps(
        x.shape, w_shape, stride, padding, dilation, groups
    ):
        dw[o, c, ki, kj] += int(g[n, o, i, j]) * int(x[n, ci, row, col])
    return dw


def finish(acc, scale_a, scale_b, bias=None):
    """float32(acc) * (s_a * s_b) + bias, one rounding an operation (ops/exactness.py)."""
    scale = f32(scale_a) * f32(scale_b)
    flat = [f32(int(a)) * scale for a in acc.reshape(-1)]
    out = np.array(flat, dtype=np.float32).reshape(acc.shape)
    if bias is not None:
        out = out + np.asarray(bias, dtype=np.float32).reshape(1, -1, *[1] * (acc.ndim - 2))
    return out


def tree_sum(values):
    """The fixed-order sum of quantizers/sums.py for up to 1024 elements: halves of the lanes."""
    flat = [f32(v) for v in np.asarray(values, dtype=np.float32).reshape(-1)]
    assert len(flat) <= 1024
    width = 1
    while width < len(flat):
        width *= 2
    flat += [f32(0)] * (width - len(flat))
    while len(flat) > 1:
        half = len(flat) // 2
        flat = [flat[i] + flat[i + half] for i in range(half)]
    return flat[0] if flat else f32(0)


def radix4_integer(y, offset=0):
    """[1,3,0] radix 4 by comparison with 0.625 * 4^n, on the grid times 2^offset; integer codes."""
    magnitude = abs(float(y)) * 2.0**-offset
    level = 0
    for k in range(7):
        if magnitude >= 0.625 * 4.0 ** (k - 3):
            level = 4**k
    return -level if y < 0 else level
