"""`nybble.matmul`: both backends give the same bits, and block scales meet exact sums of blocks."""

from __future__ import annotations

import pytest
import torch
from tests.bits import same_bits

import nybble
from nybble.ops import native
from nybble.quantizers import AbsMax, MinMax, Quantizer, Unit
from nybble.quantizers.packing import pack_codes
from nybble.quantizers.scales import Fit

CORE, MISSING = native.core()
needs_core = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")


def quantized(shape, fmt, scale, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return nybble.quantize(x, Quantizer(nybble.get_format(fmt), scale))


PAIRS = {
    "tensor": (("int4_sym", AbsMax()), ("int4_sym", AbsMax())),
    "row": (("uint4", AbsMax("row")), ("int4", AbsMax("channel", axis=1))),
    "affine": (("int4", MinMax()), ("fp4_radix4", AbsMax())),
    "radix2": (("fp4_radix2", AbsMax("row")), ("fp4_e2m1", AbsMax())),
    "int8": (("int8", AbsMax()), ("int8", AbsMax())),
    "mx": (("fp4_e2m1", AbsMax.mx()), ("fp4_e2m1", AbsMax.mx(axis=0))),
    "nv": (("fp4_e2m1", AbsMax.nv()), ("fp4_e2m1", AbsMax.nv(axis=0))),
    "mx and nv": (("fp4_e2m1", AbsMax.mx()), ("int4_sym", AbsMax.nv(axis=0))),
    "mx and tensor": (("fp4_e2m1", AbsMax.mx()), ("int4_sym", AbsMax())),
    "row and mx": (("int8", AbsMax("row")), ("fp4_radix4", AbsMax.mx(axis=0))),
    "affine and nv": (("int4", MinMax()), ("fp4_e2m1", AbsMax.nv(axis=0))),
}


@needs_core
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("sizes", [((5,), 33, 4), ((2, 3), 70, 18), ((1,), 1, 1), ((0,), 4, 2)])
def test_native_equals_reference(pair, sizes):
    rows, k, n = sizes
    a, b = quantized((*rows, k), *pair[0]), quantized((k, n), *pair[1], seed=1)
    expected = nybble.matmul(a, b, backend="reference")
    assert same_bits(nybble.matmul(a, b, backend="native"), expected)
    assert same_bits(nybble.matmul(a, b), expected)
    torch.testing.assert_close(expected, a.dequantize() @ b.dequantize(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("blocks", "total"),
    # 2^24 + 1 is no float32: what the 1 meets decides whether it is lost.
    [((2**24, 1, -(2**24)), 0.0), ((2**24, -(2**24), 1), 1.0), ((-(2**24), 1, 2**24), 1.0)],
)
def test_blocks_are_added_in_ascending_order_in_float32(blocks, total):
    fmt = nybble.get_format("int4")
    codes = torch.zeros(1, 96, dtype=torch.uint8)
    codes[0, ::32] = torch.tensor([1 if x > 0 else 15 for x in blocks], dtype=torch.uint8)
    scale = torch.tensor([[abs(float(x)) for x in blocks]])
    fit = Fit.of(scale, granularity="block", axis=1, blocks=32)
    a = nybble.QTensor.pack(codes, fmt, fit)
    ones = nybble.quantize(torch.ones(96, 1), Quantizer(fmt, Unit()))
    for backend in ("auto", "reference"):
        assert nybble.matmul(a, ones, backend=backend).item() == total


def test_opcheck_of_block_matmul():
    args = (torch.ones(3, 6), torch.ones(6, 2), torch.ones(3, 3), torch.ones(1, 1), 2, 7, 7)
    torch.library.opcheck(torch.ops.nybble.block_matmul.default, args)
    with pytest.raises(nybble.UserError, match="do not fit"):
        torch.ops.nybble.block_matmul(*args[:4], 0, 7, 7)


def test_scales_that_stay_in_the_sum_take_the_reference():
    # One scale for every k: not a block, not outside of the sum.
    a = quantized((4, 6), "int4_sym", AbsMax("channel", axis=1))
    b = quantized((6, 3), "int4_sym", AbsMax())
    torch.testing.assert_close(nybble.matmul(a, b), a.dequantize() @ b.dequantize())
    with pytest.raises(nybble.UserError, match=r"the scale of a \(channel\) varies within the sum"):
        nybble.matmul(a, b, backend="native")


@needs_core
def test_native_says_what_it_cannot():
    a = quantized((4, 6), "int4_sym", AbsMax())
    b = quantized((6, 3), "int4_sym", AbsMax())
    with pytest.raises(nybble.UserError, match="accumulates exactly"):
        nybble.matmul(a, b, backend="native", accumulate="fast")
    with pytest.raises(nybble.UserError, match="fp8_143, which has no table"):
        nybble.matmul(a, quantized((6, 3), "fp8_143", AbsMax()), backend="native")
    with pytest.raises(nybble.UserError, match="beyond 16 bits"):
        nybble.matmul(a, quantized((6, 3), "log4_base8", AbsMax()), backend="native")
    with pytest.raises(nybble.UserError, match="b has 3 dimensions"):
        nybble.matmul(
            quantized((2, 4, 6), "int4_sym", AbsMax()),
            quantized((2, 6, 3), "int4_sym", AbsMax()),
            backend="native",
        )
    with pytest.raises(nybble.UserError, match="unknown backend 'natve'"):
        nybble.matmul(a, b, backend="natve")
    with pytest.raises(nybble.UserError, match="do not fit"):
        nybble.matmul(a, a, backend="native")


def test_codes_from_outside_may_be_any():
    # -8 is no code that int4_sym's encoder makes, but a file may hold it.
    fmt = nybble.get_format("int4_sym")
    codes = torch.full((3, 40), 8, dtype=torch.uint8)
    q = nybble.QTensor(pack_codes(codes, 4), fmt, (3, 40), Fit.of(torch.tensor(1.0)))
    w = nybble.quantize(torch.ones(40, 2), Quantizer(fmt, Unit()))
    assert nybble.matmul(q, w).unique().tolist() == [-320.0]


def test_poisoned_scales_propagate():
    a = quantized((4, 6), "int4_sym", AbsMax())
    x = torch.randn(6, 3)
    x[2, 1] = float("nan")
    b = nybble.quantize(x, Quantizer(nybble.get_format("int4"), MinMax()))
    for backend in ("auto", "reference"):
        assert nybble.matmul(a, b, backend=backend).isnan().all()
