"""`nybble.conv2d` and `conv1d`: torch's results on values, and the same bits from both backends."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import nybble
from nybble.ops.native import core
from nybble.quantizers import AbsMax, MinMax

needs_native = pytest.mark.skipif(core()[0] is None, reason=core()[1] or "compiled")


def quantized(shape, name="int4_sym", scale=None, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return nybble.quantize(x, nybble.Quantizer(nybble.get_format(name), scale or AbsMax()))


def same(a, b):
    assert a.shape == b.shape and a.dtype is b.dtype is torch.float32
    assert torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


WAYS = {
    "tensor": (AbsMax(), AbsMax()),
    "channel": (AbsMax(), AbsMax(granularity="channel", axis=0)),
    "image": (AbsMax(granularity="channel", axis=0), AbsMax()),
    "input channel": (AbsMax(granularity="channel", axis=1), AbsMax()),
}


@needs_native
@settings(max_examples=40)
@given(
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 2),
    st.sampled_from(["int4_sym", "uint4", "fp4_e2m1", "int8"]),
    st.booleans(),
)
def test_backends_agree(dims, groups, stride, padding, dilation, name, with_bias):
    conv = (nybble.conv1d, nybble.conv2d)[dims - 1]
    x = quantized((2, 6 * groups, *[7, 9][:dims]), name)
    w = quantized((4 * groups, 6, *[2, 3][:dims]), seed=1)
    bias = torch.randn(4 * groups) if with_bias else None
    options = (bias, stride, padding, dilation, groups)
    got = conv(x, w, *options, backend="native")
    same(got, conv(x, w, *options, backend="reference"))
    same(got, conv(x, w, *options))
    want = (F.conv1d, F.conv2d)[dims - 1](x.dequantize(), w.dequantize(), *options)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_scales(way):
    sx, sw = WAYS[way]
    x, w = quantized((3, 4, 8, 8), scale=sx), quantized((5, 4, 3, 3), scale=sw, seed=1)
    got = nybble.conv2d(x, w, padding=1)
    want = F.conv2d(x.dequantize(), w.dequantize(), padding=1)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    same(got, nybble.conv2d(x, w, padding=1, backend="reference"))


def test_zero_points_and_block_scales():
    w = quantized((4, 32, 3, 3), seed=1)
    affine = nybble.quantize(
        torch.rand(2, 32, 5, 5) + 0.5, nybble.Quantizer(nybble.get_format("uint4"), MinMax())
    )
    got = nybble.conv2d(affine, w, padding=1)
    want = F.conv2d(affine.dequantize(), w.dequantize(), padding=1)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    same(got, nybble.conv2d(affine, w, padding=1, backend="reference"))
    blocks = quantized((2, 32, 5, 32), "fp4_e2m1", AbsMax(granularity="block", block=32))
    want = F.conv2d(blocks.dequantize(), w.dequantize())
    torch.testing.assert_close(nybble.conv2d(blocks, w), want, rtol=1e-4, atol=1e-4)
    with pytest.raises(nybble.UserError, match=r"scale of x \(block\) varies"):
        nybble.conv2d(blocks, w, backend="native")


def test_fast_sums_in_float():
    x, w = quantized((2, 3, 8, 8)), quantized((5, 3, 3, 3), seed=1)
    fast = nybble.conv2d(x, w, accumulate="fast")
    torch.testing.assert_close(fast, nybble.conv2d(x, w), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride=0"),
        ({"padding": "same"}, "padding='same'"),
        ({"dilation": (1, 2, 3)}, "dilation"),
        ({"groups": 2}, "does not fit"),
        ({"dilation": 5}, "larger than the input"),
        ({"bias": torch.zeros(2)}, "the bias is"),
        ({"accumulate": "slow"}, "not known"),
        ({"backend": "naitve"}, "native"),
        ({"backend": "native", "accumulate": "fast"}, "cannot do this"),
    ],
)
def test_errors_say_what_to_do(options, message):
    x, w = quantized((2, 4, 8, 8)), quantized((5, 4, 3, 3), seed=1)
    with pytest.raises(nybble.UserError, match=message):
        nybble.conv2d(x, w, **options)


def test_operands_must_be_quantized():
    x = quantized((2, 4, 8, 8))
    with pytest.raises(nybble.UserError, match="w is Tensor, not a QTensor"):
        nybble.conv2d(x, torch.zeros(5, 4, 3, 3))
    with pytest.raises(nybble.UserError, match="needs 3 dimensions"):
        nybble.conv1d(x, x)
    with pytest.raises(nybble.UserError, match="does not fit"):
        nybble.conv2d(x, quantized((2, 3, 1, 1)))
