"""The native Gemms against their definition in float64: the same 32 bits, for every instruction set
and number of threads.

The definition is written down here once more, from the table of integers, so that a fault in the
reference backend does not hide one in the kernels.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bits import same_bits
from torch import Tensor

from nybble.errors import NybbleError
from nybble.formats import FORMATS, Table16, get_format
from nybble.ops import native
from nybble.ops.native.codes import Codes
from nybble.ops.native.gemm import block_gemm, gemm
from nybble.quantizers.packing import pack_codes

CORE, MISSING = native.core()
pytestmark = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")
ISAS = () if CORE is None else CORE.isas()

TABLE = Table16((0, 1, 2, 4, 7, 13, 29, 127, -1, -2, -3, -5, -11, -23, -61, -128))
NAMES = sorted(
    name
    for name, fmt in FORMATS.items()
    if fmt.unit is not None and fmt.bits <= 8 and (fmt.max_integer or 2**20) < 2**15
)
FORMAT = st.sampled_from([*(get_format(name) for name in NAMES), TABLE])
SIZE = st.one_of(st.sampled_from([0, 1, 5, 6, 7, 16, 17, 32, 64, 96, 97]), st.integers(0, 150))


def operand(fmt, shape, generator, *, zero_point=0) -> tuple[Codes, Tensor]:
    """Random codes, and their integers in float64."""
    codes = torch.randint(0, 1 << fmt.bits, shape, dtype=torch.uint8, generator=generator)
    packed = pack_codes(codes, fmt.bits)
    made = Codes.of(packed, shape, fmt, zero_point, encoded=False)
    return made, fmt.integers(codes).double() - zero_point


def filled(fmt, shape, value: int) -> tuple[Codes, Tensor]:
    """All codes the one with this integer."""
    code = fmt.integer_values().index(value)
    codes = torch.full(shape, code, dtype=torch.uint8)
    made = Codes.of(pack_codes(codes, fmt.bits), shape, fmt, encoded=False)
    return made, torch.full(shape, float(value), dtype=torch.float64)


def definition(a, b, scale_a, scale_b, bias) -> Tensor:
    result = (a @ b).float() + 0.0
    scales = [
        s[:, None] if s is scale_a and s.dim() else s for s in (scale_a, scale_b) if s is not None
    ]
    if scales:
        result = result * (scales[0] * scales[1] if len(scales) == 2 else scales[0])
    return result if bias is None else result + bias


def scale(kind: str, length: int, generator) -> Tensor | None:
    if kind == "none":
        return None
    return torch.randn(() if kind == "one" else (length,), generator=generator)


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=150)
@given(
    formats=st.tuples(FORMAT, FORMAT),
    m=SIZE,
    n=SIZE,
    k=st.one_of(SIZE, st.sampled_from([1024, 2048, 2049, 3000])),
    trans=st.tuples(st.booleans(), st.booleans()),
    kinds=st.tuples(*[st.sampled_from(["none", "one", "each"])] * 3),
    zero_points=st.tuples(st.integers(-3, 9), st.integers(-3, 9)),
    threads=st.sampled_from([1, 2, 3]),
    spill=st.integers(0, 3),
    seed=st.integers(0, 2**31),
)
def test_equals_the_definition(
    isa, formats, m, n, k, trans, kinds, zero_points, threads, spill, seed
):
    generator = torch.Generator().manual_seed(seed)
    CORE.use_isa(isa)
    torch.set_num_threads(threads)
    # Large products in long contractions are the slow corner of the generic set.
    k = min(k, 3_000_000 // max(m * n, 1) + 1) if isa == "generic" else k
    a, x = operand(formats[0], (k, m) if trans[0] else (m, k), generator, zero_point=zero_points[0])
    b, y = operand(formats[1], (n, k) if trans[1] else (k, n), generator, zero_point=zero_points[1])
    x, y = x.t() if trans[0] else x, y.t() if trans[1] else y
    scale_a, scale_b = scale(kinds[0], m, generator), scale(kinds[1], n, generator)
    bias = None if kinds[2] == "none" else torch.randn(n, generator=generator)
    # A low limit sends the sums through int64 every few groups.
    least = (a.high - a.low) * (b.high - b.low) * 4
    limit = 2**31 - 1 if spill == 0 else min(2**31 - 1, max(least, 1) * spill * 7)
    result = gemm(
        a,
        b,
        trans_a=trans[0],
        trans_b=trans[1],
        scale_a=scale_a,
        scale_b=scale_b,
        bias=bias,
        limit=limit,
    )
    assert same_bits(result, definition(x, y, scale_a, scale_b, bias))


EXTREMES = [
    # (format of a, its integer, format of b, its integer): each kernel at its worst
    ("uint4", 15, "int4", -8),
    ("int4", -8, "int4", -8),
    ("int4", 7, "uint4", 15),
    ("fp4_radix2", 64, "uint4", 15),
    ("fp4_radix2", -64, "int4", -8),
    ("fp4_radix2", 64, "fp4_radix2", -64),
    ("uint4", 15, "int8", -128),
    ("int8", -128, "int4", -8),
    ("int8", -128, "int8", -128),
    ("fp4_radix4", 4096, "uint4", 15),
    ("int4", -8, "fp4_radix4", -4096),
    ("fp4_radix4", -4096, "fp4_radix4", 4096),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", EXTREMES, ids=lambda c: f"{c[0]}_{c[1]}_{c[2]}_{c[3]}")
def test_extremes_of_one_sign(isa, case):
    CORE.use_isa(isa)
    for m, n, k in ((6, 16, 2048), (7, 17, 1999), (1, 1, 5000)):
        a, x = filled(get_format(case[0]), (m, k), case[1])
        b, y = filled(get_format(case[2]), (n, k), case[3])
        assert same_bits(gemm(a, b, trans_b=True), (x @ y.t()).float())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_beyond_int32(isa, sign):
    # 4096 * 15 * 40_000 = 2.46e9 is beyond 2^31; a sum of 34_952 is the last that fits.
    CORE.use_isa(isa)
    for k in (34_952, 34_953, 40_000):
        a, x = filled(get_format("fp4_radix4"), (k, 2), sign * 4096)
        b, y = filled(get_format("uint4"), (k, 3), 15)
        assert same_bits(gemm(a, b, trans_a=True), (x.t() @ y).float())


@pytest.mark.parametrize("isa", ISAS)
def test_a_wide_sum_is_rounded_once(isa):
    # Positive sums beyond 2^24 of 400 elements: rounding the pieces gives other last bits.
    CORE.use_isa(isa)
    generator = torch.Generator().manual_seed(4)
    fmt, k = get_format("fp4_radix4"), 6000
    codes = torch.randint(0, 8, (20, k), dtype=torch.uint8, generator=generator)
    a, x = Codes.of(pack_codes(codes, 4), (20, k), fmt), fmt.integers(codes).double()
    b, y = operand(get_format("uint4"), (k, 20), generator)
    assert (x @ y).min() > 2**24
    for limit in (2**31 - 1, 2**27, 2**23):
        assert same_bits(gemm(a, b, limit=limit), (x @ y).float())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("fmt", ["uint4", "int4", "fp4_radix2", "fp4_radix4", "int8"])
@pytest.mark.parametrize("k", [1023, 1024, 1025, 2048, 2049, 4100, 6200])
def test_contractions_in_several_blocks(isa, fmt, k):
    CORE.use_isa(isa)
    generator = torch.Generator().manual_seed(k)
    for trans in (False, True):
        a, x = operand(get_format(fmt), (k, 13) if trans else (13, k), generator)
        b, y = operand(get_format("int4"), (17, k) if trans else (k, 17), generator)
        expected = ((x.t() if trans else x) @ (y.t() if trans else y)).float() + 0.0
        least = (a.high - a.low) * 15 * 1000
        for limit in (2**31 - 1, least, 3 * least):
            result = gemm(a, b, trans_a=trans, trans_b=trans, limit=limit)
            assert same_bits(result, expected)


@pytest.mark.parametrize("isa", ISAS)
def test_the_odd_phase(isa):
    CORE.use_isa(isa)
    generator = torch.Generator().manual_seed(0)
    fmt = get_format("fp4_radix4_odd")
    g, x = operand(fmt, (70, 33), generator)
    w, y = operand(get_format("int4_sym"), (33, 50), generator)
    assert same_bits(gemm(g, w), (x @ y).float() + 0.0)


@pytest.mark.parametrize("isa", ISAS)
@settings(deadline=None, max_examples=80)
@given(
    formats=st.tuples(FORMAT, FORMAT),
    m=SIZE,
    n=SIZE,
    k=st.one_of(SIZE, st.sampled_from([1024, 1500])),
    block=st.sampled_from([1, 2, 3, 8, 16, 30, 32, 64, 200]),
    trans=st.tuples(st.booleans(), st.booleans()),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**31),
)
def test_blocks_equal_the_definition(isa, formats, m, n, k, block, trans, threads, seed):
    generator = torch.Generator().manual_seed(seed)
    CORE.use_isa(isa)
    torch.set_num_threads(threads)
    k = min(k, 1_000_000 // max(m * n, 1) + 1)
    a, x = operand(formats[0], (k, m) if trans[0] else (m, k), generator)
    b, y = operand(formats[1], (n, k) if trans[1] else (k, n), generator)
    x, y = x.t() if trans[0] else x, y.t() if trans[1] else y
    if (a.high - a.low) * (b.high - b.low) * (block + 3) >= 2**31:
        most = 2**31 // ((a.high - a.low) * (b.high - b.low)) - 3
        block = max(1, min(8, most))
    count = -(-k // block)
    scale_a = torch.randn(m, count, generator=generator)
    scale_b = torch.randn(count, 1, generator=generator).expand(count, n)
    result = block_gemm(a, b, block, scale_a, scale_b, trans_a=trans[0], trans_b=trans[1])
    expected = torch.zeros(m, n)
    for i in range(count):
        cut = slice(i * block, (i + 1) * block)
        part = (x[:, cut] @ y[cut]).float() + 0.0
        expected = expected + part * (scale_a[:, i : i + 1] * scale_b[i : i + 1])
    assert same_bits(result, expected)


def test_a_block_that_int32_cannot_hold_is_refused():
    a, _ = filled(get_format("fp4_radix4"), (1, 200), 4096)
    with pytest.raises(ValueError, match="a block of 200 products may leave int32; at most 126"):
        block_gemm(a, a, 200, torch.ones(1, 1), torch.ones(1, 1), trans_b=True)


@pytest.mark.parametrize("isa", ISAS)
def test_scales_that_are_not_finite_and_denormal(isa):
    CORE.use_isa(isa)
    generator = torch.Generator().manual_seed(1)
    a, x = operand(get_format("uint4"), (9, 40), generator)
    b, y = operand(get_format("int4"), (40, 20), generator)
    odd = torch.tensor(
        [float("nan"), float("inf"), -float("inf"), 1e-45, -1e-40, 0.0, -0.0, 3e38, 2.0]
    )
    result = gemm(a, b, scale_a=odd, scale_b=torch.tensor(1.5))
    assert same_bits(result, definition(x, y, odd, torch.tensor(1.5), None))


def test_writes_into_out():
    generator = torch.Generator().manual_seed(2)
    a, x = operand(get_format("int4"), (3, 10), generator)
    b, y = operand(get_format("int4"), (10, 4), generator)
    out = torch.full((3, 4), float("nan"))
    assert gemm(a, b, out=out) is out
    assert same_bits(out, (x @ y).float() + 0.0)


def test_bounds_hold_for_codes_that_no_encoder_makes():
    # -8 is not a code of int4_sym: it counts as -7, the bound that the kernels rely on.
    codes = torch.full((6, 4000), 8, dtype=torch.uint8)
    a = Codes.of(pack_codes(codes, 4), (6, 4000), get_format("int4_sym"))
    assert gemm(a, a, trans_b=True).unique().tolist() == [4000.0 * 49]


def test_what_does_not_fit_is_refused():
    generator = torch.Generator().manual_seed(3)
    a, _ = operand(get_format("int4"), (3, 10), generator)
    b, _ = operand(get_format("int4"), (11, 4), generator)
    with pytest.raises(NybbleError, match="the contraction is 10 in a, 11 in b"):
        gemm(a, b)
    with pytest.raises(NybbleError, match="matrices"):
        gemm(dataclasses.replace(a, shape=(30,)), b)
    c = dataclasses.replace(b, shape=(10, 4))
    with pytest.raises(NybbleError, match=r"scale_a has shape \(4,\): one number or \[3\]"):
        gemm(a, c, scale_a=torch.ones(4))
    with pytest.raises(NybbleError, match=r"expected torch\.float32, got torch\.float64"):
        gemm(a, c, bias=torch.ones(4, dtype=torch.float64))
    with pytest.raises(NybbleError, match=r"out must be contiguous and \(3, 4\)"):
        gemm(a, c, out=torch.empty(4, 3).t())
    with pytest.raises(ValueError, match="bytes are needed"):
        gemm(dataclasses.replace(a, shape=(300, 10)), c)
    with pytest.raises(ValueError, match="negative or too large"):
        gemm(dataclasses.replace(a, shape=(3, -1)), dataclasses.replace(b, shape=(-1, 4)))
    wide = dataclasses.replace(a, high=40_000)
    with pytest.raises(ValueError, match="integers beyond"):
        gemm(wide, c)
    with pytest.raises(NybbleError, match="scale_a is"):
        block_gemm(a, c, 5, torch.ones(3, 3), torch.ones(2, 4))
    with pytest.raises(NybbleError, match="at least one"):
        block_gemm(a, c, 0, torch.ones(3, 3), torch.ones(2, 4))
