"""Stub."""

from __future__ import annotations

from nybble.ops.exactness import finish_
from math import prod
from nybble.quantizers.packing import unpack_codes
def ints(c):
    return c.table.double()[unpack_codes(c.packed, prod(c.shape), c.bits).long()].view(c.shape)
from nybble.ops.reference import gemm as ref


def nchw(c):
    return ints(c).permute(0, 3, 1, 2)


def conv_output(x, w, geometry, scale_x, scale_w, bias=None):
    acc = ref._output(nchw(x), nchw(w), geometry).float().add_(0.0).permute(0, 2, 3, 1).contiguous()
    return finish_(acc, scale_x, scale_w, bias)


def conv_grad_input(g, w, geometry, x_shape, sg, sw):
    n, h, wd, c = x_shape
    acc = (
        ref._grad_input(nchw(g), nchw(w), geometry, (n, c, h, wd))
        .float()
        .add_(0.0)
        .permute(0, 2, 3, 1)
        .contiguous()
    )
    return finish_(acc, sg, sw)


def conv_grad_weight(g, x, geometry, w_shape, sg, sx):
    o, h, wd, c = w_shape
    acc = (
        ref._grad_weight(nchw(g), nchw(x), geometry, (o, c, h, wd))
        .float()
        .add_(0.0)
        .permute(0, 2, 3, 1)
        .contiguous()
    )
    return finish_(acc, sg if sg is None or sg.numel() == 1 else sg.view(-1, 1, 1, 1), sx)
