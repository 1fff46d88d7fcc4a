"""2-d convolutions of any shape, and what nybble4's recipes give one in the middle of a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from nybble.nn.inputs import signed_input
from nybble.ops.geometry import Geometry
from nybble.ops.spec import LayerSpec
from nybble.recipes import get_recipe


def conv_spec(recipe: str, signed: bool) -> LayerSpec:
    rules = get_recipe(recipe).rules
    spec = next(rule.spec for rule in rules if getattr(rule, "type", None) == "conv")
    assert isinstance(spec, LayerSpec)
    return signed_input(spec) if signed else spec


@dataclass(frozen=True)
class Conv:
    """The operands of one step; the input has both signs."""

    geometry: Geometry
    x: Tensor
    weight: Tensor
    grad: Tensor
    bias: Tensor


@st.composite
def convs(draw: st.DrawFn) -> Conv:
    """Images of very different magnitude, both layouts, groups of few channels and of one."""
    n = draw(st.sampled_from([0, 1, 2, 3, 17]))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 16]))
    c, o = groups * draw(_CHANNELS), groups * draw(_CHANNELS)
    if groups > 3:
        c, o = groups, groups * draw(st.integers(1, 2))
    kernel, dilation = draw(st.sampled_from([1, 2, 3])), draw(st.integers(1, 2))
    stride, padding = draw(st.integers(1, 2)), draw(st.integers(0, 1))
    side = max(draw(st.integers(2, 9)), dilation * (kernel - 1) + 1)
    geometry = Geometry(
        "conv2d", (stride, stride), (padding, padding), (dilation, dilation), groups
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(n, c, side, side + 1, generator=generator)
    x *= torch.exp2(torch.randint(-3, 3, (n, 1, 1, 1), generator=generator).float())
    weight = torch.randn(o, c // groups, kernel, kernel, generator=generator) / 8
    shape = geometry.output_shape(tuple(x.shape), tuple(weight.shape))
    grad = torch.randn(shape, generator=generator) * 1e-4
    x, weight, grad = (
        t.contiguous(memory_format=torch.channels_last) if draw(st.booleans()) else t
        for t in (x, weight, grad)
    )
    return Conv(geometry, x, weight, grad, torch.randn(o, generator=generator))


_CHANNELS = st.sampled_from([1, 3, 13, 16, 40, 64])
