"""Wide layers in slices of the batch compute what they compute whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nybble.ops import native
from nybble.ops.calls import BackwardCall, ForwardCall
from nybble.ops.geometry import Geometry
from nybble.ops.native import layer as native_layer
from nybble.ops.reference import layer, sliced
from nybble.ops.reference.operand import Draw
from nybble.ops.spec import Accumulator, LayerSpec
from nybble.quantizers.layout import is_channels_last
from nybble.recipes import get_recipe

DRAW = Draw(0, 0, 0)


@pytest.fixture(scope="module", autouse=True)
def small_slices() -> Any:
    """Slices of a few images, also of small tensors."""
    patch = pytest.MonkeyPatch()
    patch.setattr(sliced, "SLICE", 300)
    yield
    patch.undo()


def step(
    functions: Any, x: Tensor, w: Tensor, spec: LayerSpec, geometry: Geometry
) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """Output, what is kept, dx and dw of one call and its backward."""
    forward = ForwardCall(None, None, spec, geometry, "exact", DRAW, True)
    y, saved = functions.layer_forward(x, w, forward)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    if is_channels_last(y):
        grad = grad.to(memory_format=torch.channels_last)
    last = (is_channels_last(x), is_channels_last(w))
    shapes = (tuple(x.shape), tuple(w.shape))
    call = BackwardCall(
        *(None, w, saved, torch.zeros(1), *shapes),
        *(spec, geometry, "exact", DRAW, last, [True, True, False]),
    )
    dx, dw, *_ = functions.layer_backward(grad, call)
    return y, saved, dx, dw


def draw_operands(
    n: int, groups: int, size: int, last: bool, kernel: int
) -> tuple[Tensor, Tensor, Geometry]:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, 2 * groups, size, size + 1, generator=generator)
    w = torch.randn(3 * groups, 2, kernel, kernel, generator=generator)
    if last:
        x = x.to(memory_format=torch.channels_last)
    return x, w, Geometry("conv2d", (2, 1), (kernel // 2, 1), (1, 1), groups)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 9),
    groups=st.integers(1, 3),
    size=st.integers(7, 20),
    last=st.booleans(),
    kernel=st.sampled_from([1, 3]),
    recipe=st.sampled_from(["fp16", "bf16"]),
)
def test_slices_equal_the_whole(
    n: int, groups: int, size: int, last: bool, kernel: int, recipe: str
) -> None:
    x, w, geometry = draw_operands(n, groups, size, last, kernel)
    spec = get_recipe(recipe).spec
    assert sliced._slice(x, tuple(x.shape), tuple(w.shape), spec, geometry) is not None or n < 5
    whole, parts = step(layer, x, w, spec, geometry), step(sliced, x, w, spec, geometry)
    assert parts[0].stride() == whole[0].stride() and parts[2].stride() == whole[2].stride()
    # A product's order of summation is torch's, and may depend on the number of images.
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts[2], whole[2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts[3], whole[3], rtol=1e-5, atol=1e-4)
    assert len(parts[1]) == len(whole[1])
    for a, b in zip(parts[1], whole[1], strict=True):
        assert a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)


@pytest.mark.skipif(native.core()[0] is None, reason="compiled module present")
@pytest.mark.parametrize("last", [False, True])
def test_backends_are_equal(last: bool) -> None:
    x, w, geometry = draw_operands(9, 2, 16, last, 3)
    spec = get_recipe("fp16").spec
    ours, reference = (step(f, x, w, spec, geometry) for f in (native_layer, sliced))
    assert all(torch.equal(ours[i], reference[i]) for i in (0, 2, 3))
    assert ours[0].stride() == reference[0].stride()


def test_what_is_not_cut() -> None:
    x, w, geometry = draw_operands(9, 2, 16, False, 3)
    wide = get_recipe("fp16").spec

    def slice_of(x: Tensor, spec: LayerSpec) -> int | None:
        return sliced._slice(x, tuple(x.shape), tuple(w.shape), spec, geometry)

    assert slice_of(x, wide) == 1  # an image of the output has 576 numbers
    assert slice_of(x[:1], wide) is None
    assert slice_of(x.to("meta"), wide) is None
    assert slice_of(x, get_recipe("sun2020").spec) is None  # scales of the whole tensor
    narrow = replace(wide, accumulator=Accumulator("fp16", 64))
    assert slice_of(x, narrow) is None
