"""Native convolutions against the reference Gemms on exact sums: the same 32 bits of every result.

Codes are drawn over the whole table of a format, extremes with one sign included; the limit of the
int32 sums is lowered in some tests so that every way of spilling into 64 bits runs.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nybble.errors import NybbleError
from nybble.formats import get_format
from nybble.ops.exactness import finish_
from nybble.ops.geometry import Geometry
from nybble.ops.native import core
from nybble.ops.native.codes import Codes
from nybble.ops.native.conv import LIMIT, conv_grad_input, conv_grad_weight, conv_output
from nybble.ops.reference import gemm
from nybble.quantizers.packing import pack_codes

module, _reason = core()
pytestmark = pytest.mark.skipif(module is None, reason=_reason or "compiled")
ISAS = module.isas() if module is not None else ()

# Unsigned and signed nibbles, one- and two-sided; a table; powers of 2 and 4; bytes.
FORMATS = ("uint4", "int4", "int4_sym", "fp4_e2m1", "fp4_radix2", "fp4_radix4", "int8", "uint8")


@pytest.fixture(params=ISAS)
def isa(request):
    before = module.active_isa()
    module.use_isa(request.param)
    yield request.param
    module.use_isa(before)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@dataclasses.dataclass
class Drawn:
    """Codes and, in torch's layout, their integers as float64."""

    codes: Codes
    integers: Tensor


def draw(
    shape: tuple[int, ...], name: str, generator: torch.Generator, extreme: bool = False
) -> Drawn:
    """Random codes of `shape` [N, H, W, C] or [O, kh, kw, C]; `extreme`: all the largest one."""
    fmt = get_format(name)
    used = torch.arange(1 << fmt.bits, dtype=torch.uint8)
    integers = fmt.integers(used)
    used = used[integers.abs() <= fmt.max_integer]
    if extreme:
        used = used[fmt.integers(used).argmax()].reshape(1)
    codes = used[torch.randint(len(used), shape, generator=generator)]
    return Drawn(
        Codes.of(pack_codes(codes, fmt.bits), shape, fmt),
        fmt.integers(codes).double().permute(0, 3, 1, 2),
    )


def scale(size: int | None, generator: torch.Generator) -> Tensor | None:
    return None if size is None else torch.rand(size, generator=generator) * 3 + 0.1


def same(got: Tensor, want: Tensor) -> None:
    """`want` in torch's layout; the same bits."""
    want = want.permute(0, 2, 3, 1).contiguous()
    assert got.dtype is torch.float32 and got.is_contiguous()
    assert got.shape == want.shape
    assert torch.equal(got.view(torch.int32), want.view(torch.int32))


@dataclasses.dataclass
class Case:
    """One convolution: shapes NHWC and OHWI."""

    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    geometry: Geometry

    @property
    def y(self) -> tuple[int, int, int, int]:
        x, w = self.x, self.w
        n, o, h, v = self.geometry.output_shape((x[0], x[3], *x[1:3]), (w[0], w[3], *w[1:3]))
        return n, h, v, o


def check(
    case: Case,
    x_format: str,
    w_format: str,
    g_format: str,
    seed: int = 0,
    limit: int = LIMIT,
    extreme: bool = False,
    plain: bool = False,
) -> None:
    """All three Gemms of a case against the reference, with drawn scales (`plain`: none)."""
    generator = torch.Generator().manual_seed(seed)
    g = case.geometry
    x = draw(case.x, x_format, generator, extreme)
    w = draw(case.w, w_format, generator, extreme)
    dy = draw(case.y, g_format, generator, extreme)
    outputs, inputs = case.w[0], case.x[3]
    one = None if plain else 1
    per_output = None if plain else (outputs if seed % 2 else 1)
    per_input = None if plain else (inputs if seed % 2 and g.groups == 1 else 1)

    sx, sw = scale(one, generator), scale(per_output, generator)
    bias = scale(outputs if seed % 3 else None, generator)
    acc = gemm.output(
        x.integers, w.integers, g, max_x=x.codes.limit, max_weight=w.codes.limit, accumulate="exact"
    )
    want = finish_(acc, sx, shaped(sw, 1), shaped(bias, 1))
    same(conv_output(x.codes, w.codes, g, sx, sw, bias, limit=limit), want)

    sg, sw = scale(one, generator), scale(per_input, generator)
    nchw = (case.x[0], inputs, *case.x[1:3])
    acc = gemm.grad_input(
        dy.integers,
        w.integers,
        g,
        nchw,
        max_grad=dy.codes.limit,
        max_weight=w.codes.limit,
        accumulate="exact",
    )
    want = finish_(acc, sg, shaped(sw, 1))
    same(conv_grad_input(dy.codes, w.codes, g, case.x, sg, sw, limit=limit), want)

    sg, sx = scale(per_output, generator), scale(per_input, generator)
    oihw = (outputs, case.w[3], *case.w[1:3])
    acc = gemm.grad_weight(
        dy.integers,
        x.integers,
        g,
        oihw,
        max_grad=dy.codes.limit,
        max_x=x.codes.limit,
        accumulate="exact",
    )
    want = finish_(acc, shaped(sg, 0), shaped(sx, 1))
    same(conv_grad_weight(dy.codes, x.codes, g, case.w, sg, sx, limit=limit), want)


def shaped(scale: Tensor | None, dim: int) -> Tensor | None:
    if scale is None:
        return None
    shape = [1, 1, 1, 1]
    shape[dim] = -1
    return scale.reshape(shape)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    small = st.integers(1, 3)
    stride = (draw(small), draw(small))
    padding = (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 20]))
    inputs, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    if groups > 1:
        inputs, outputs = draw(small), draw(small)
    reach = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    size = [draw(st.integers(max(1, r), max(1, r) + 9)) for r in reach]
    return Case(
        (draw(small), *size, inputs * groups),
        (outputs * groups, *kernel, inputs),
        Geometry("conv2d", stride, padding, dilation, groups),
    )


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cases(),
    st.sampled_from(FORMATS),
    st.sampled_from(FORMATS),
    st.sampled_from(FORMATS),
    st.integers(0, 100),
    st.sampled_from([LIMIT, LIMIT, 2**24, 20000, 1]),
    st.booleans(),
)
def test_equals_reference(isa, case, x_format, w_format, g_format, seed, limit, extreme):
    check(case, x_format, w_format, g_format, seed, limit, extreme)


def conv(x, w, stride=1, padding=0, dilation=1, groups=1) -> Case:
    pair = lambda n: (n, n)  # noqa: E731
    return Case(x, w, Geometry("conv2d", pair(stride), pair(padding), pair(dilation), groups))


NETS = {
    "first": conv((2, 32, 32, 3), (16, 3, 3, 3), 1, 1),
    "block": conv((2, 8, 8, 64), (64, 3, 3, 64), 1, 1),
    "stride": conv((3, 16, 16, 64), (128, 3, 3, 64), 2, 1),
    "shortcut": conv((3, 16, 16, 64), (128, 1, 1, 64), 2, 0),
    "point": conv((2, 7, 9, 48), (20, 1, 1, 48)),
    "dense": conv((3, 4, 4, 512), (34, 3, 3, 512), 2, 1),
    "patch": conv((2, 16, 16, 3), (32, 4, 4, 3), 4),
    "seven": conv((1, 20, 20, 3), (17, 7, 7, 3), 2, 3),
    "dilated": conv((1, 12, 12, 16), (16, 3, 3, 16), 1, 2, 2),
    "groups": conv((2, 8, 8, 32), (64, 3, 3, 8), 1, 1, groups=4),
    "depthwise": conv((2, 9, 9, 96), (96, 3, 3, 1), 1, 1, groups=96),
    "depthwise2": conv((2, 9, 9, 33), (66, 3, 3, 1), 2, 1, groups=33),
    "line": Case((2, 1, 50, 20), (24, 1, 5, 20), Geometry("conv2d", (1, 2), (0, 2), (1, 1))),
    "far": conv((1, 2, 2, 5), (3, 2, 2, 5), 3, 3, 1),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    "formats", [("uint4", "int4_sym", "fp4_radix4"), ("int4", "int4", "fp4_radix2")]
)
def test_layers(isa, name, formats):
    check(NETS[name], *formats, seed=1)
    check(NETS[name], *formats, seed=2)
    check(NETS[name], *formats, plain=True, extreme=True)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_threads(isa, threads, number):
    threads(number)
    for name in ("stride", "groups", "depthwise2", "line", "seven"):
        check(NETS[name], "uint4", "int4_sym", "fp4_radix4", seed=number)
        check(NETS[name], "int4", "fp4_e2m1", "fp4_radix2", seed=number, limit=30000)


def test_sums_beyond_int32(isa):
    """More pixels than 4096 * 15 leaves room for, all of one sign."""
    check(conv((3, 112, 112, 2), (3, 1, 1, 2)), "uint4", "uint4", "fp4_radix4", extreme=True)


def test_no_pixels_and_no_images(isa):
    geometry = Geometry("conv2d", (1, 1), (0, 0), (1, 1))
    check(Case((0, 5, 5, 4), (6, 3, 3, 4), geometry), "uint4", "int4", "fp4_radix4")


def test_scale_of_nan_reaches_pixels_without_a_tap(isa):
    case = conv((1, 5, 5, 3), (4, 1, 1, 3), 2)
    generator = torch.Generator().manual_seed(0)
    w = draw(case.w, "int4", generator)
    g = draw(case.y, "fp4_radix4", generator)
    nan = torch.tensor(float("nan"))
    got = conv_grad_input(g.codes, w.codes, case.geometry, case.x, nan, None)
    assert got.isnan().all()
    got = conv_grad_input(g.codes, w.codes, case.geometry, case.x, None, None)
    assert (got[0, 1] == 0).all() and not got[0, 1].signbit().any()


def test_errors_are_one_line():
    generator = torch.Generator().manual_seed(0)
    x, w = draw((1, 3, 3, 4), "uint4", generator), draw((2, 5, 5, 4), "int4", generator)
    geometry = Geometry("conv2d", (1, 1), (0, 0), (1, 1))
    with pytest.raises(NybbleError, match="larger than the padded input"):
        conv_output(x.codes, w.codes, geometry, None, None)
    w = draw((2, 3, 3, 3), "int4", generator)
    with pytest.raises(NybbleError, match="reads 3 channels"):
        conv_output(x.codes, w.codes, geometry, None, None)
    w = draw((2, 3, 3, 4), "int4", generator)
    with pytest.raises(NybbleError, match=r"gradient has shape \(1, 3, 3, 2\)"):
        conv_grad_input(
            draw((1, 3, 3, 2), "int4", generator).codes,
            w.codes,
            geometry,
            x.codes.shape,
            None,
            None,
        )
    with pytest.raises(ValueError, match="one scale or 2"):
        conv_output(x.codes, w.codes, geometry, None, torch.ones(3))
    short = dataclasses.replace(x.codes, packed=x.codes.packed[:8])
    with pytest.raises(ValueError, match="bytes are needed"):
        conv_output(short, w.codes, geometry, None, None)
    with pytest.raises(ValueError, match="negative or too large"):
        module.conv_output(
            [1, 3, 3, 2**40, 2, 3, 3, 1, 1, 0, 0, 1, 1, 1],
            *[(0, 0, 4, 0, 0, 0, 0)] * 2,
            *[(0, 0)] * 4,
            1,
        )
