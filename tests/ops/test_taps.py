"""What each tap of a kernel sees: equal to a convolution of ones, for every geometry."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nybble.ops.geometry import Geometry
from nybble.ops.reference.taps import interval, spread_tap_sums, sum_of_images, tap_sums


@given(
    size=st.integers(1, 9),
    taps=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 3),
)
def test_interval_by_counting(size, taps, stride, padding, dilation):
    out = (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
    assume(out > 0)
    for tap in range(taps):
        seen = [y for y in range(out) if 0 <= y * stride + tap * dilation - padding < size]
        first, last = interval(tap, size, out, stride, padding, dilation)
        assert list(range(first, last)) == seen


@settings(deadline=None)
@given(
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    taps=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_sums_are_a_convolution_with_ones(height, width, stride, padding, dilation, taps):
    geometry = Geometry("conv2d", stride, padding, dilation)
    shape = geometry.output_shape((2, 1, height, width), (4, 1, *taps))
    assume(min(shape) > 0)
    plane = torch.randn(4, *shape[2:])
    ones = torch.ones(1, 1, height, width, dtype=torch.float64)
    weight = torch.zeros(4, 1, *taps, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.conv2d(ones, weight, None, stride, padding, dilation).backward(
        plane.double().unsqueeze(0)
    )
    found = tap_sums(plane, geometry, (2, 1, height, width), taps)
    torch.testing.assert_close(found.double(), weight.grad[:, 0], rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    taps=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    data=st.data(),
)
def test_sums_of_a_transposed_convolution(size, stride, padding, dilation, taps, data):
    more = tuple(data.draw(st.integers(0, s - 1)) for s in stride)
    geometry = Geometry("conv_transpose2d", stride, padding, dilation, 1, more)
    shape = geometry.output_shape((2, 1, *size), (1, 4, *taps))
    assume(min(shape) > 0)
    plane = torch.randn(4, *shape[2:])
    ones = torch.ones(1, 1, *size, dtype=torch.float64)
    weight = torch.zeros(1, 4, *taps, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.conv_transpose2d(
        ones, weight, None, stride, padding, more, 1, dilation
    ).backward(plane.double().unsqueeze(0))
    found = spread_tap_sums(plane, geometry, (2, 1, *size), taps)
    torch.testing.assert_close(found.double(), weight.grad[0], rtol=1e-5, atol=1e-5)


def test_three_dimensions():
    geometry = Geometry("conv3d", (1, 2, 1), (1, 1, 0), (1, 1, 1))
    plane = torch.randn(2, 4, 3, 3)
    ones = torch.ones(1, 1, 4, 6, 5, dtype=torch.float64)
    weight = torch.zeros(2, 1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.conv3d(ones, weight, None, (1, 2, 1), (1, 1, 0)).backward(
        plane.double().unsqueeze(0)
    )
    found = tap_sums(plane, geometry, (1, 1, 4, 6, 5), (3, 3, 3))
    torch.testing.assert_close(found.double(), weight.grad[:, 0], rtol=1e-5, atol=1e-5)


def test_images_are_added_one_after_the_other():
    z = torch.tensor([[2.0**24], [1.0], [1.0]])
    assert sum_of_images(z).tolist() == [2.0**24]  # and not 2^24 + 2
    assert sum_of_images(torch.zeros(0, 3)).tolist() == [0.0, 0.0, 0.0]
    assert z[0].tolist() == [2.0**24]
