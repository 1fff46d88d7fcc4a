"""Family `conv` (csrc/conv, csrc/winograd): the three Gemms of convolutions of every kind, direct
and, where they are 3x3 of stride 1, by Winograd. Expected: torch's convolutions of the integers in
float64, finished by `ops/exactness.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from golden_cases.operands import operand, scale
from golden_cases.values import Case, Value, generator
from nybble.ops.exactness import finish_
from nybble.ops.geometry import Geometry
from nybble.ops.reference import gemm as reference

INT32 = 2**31 - 1


@dataclass(frozen=True)
class Shape:
    """Input [N, H, W, C], output channels and kernel, and the rest of a geometry."""

    x: tuple[int, int, int, int]
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    winograd: bool = False


THREE = Shape((2, 5, 6, 19), 17, (3, 3), winograd=True)
SHAPES = (
    THREE,
    Shape((1, 4, 4, 33), 16, (3, 3), padding=(0, 1), winograd=True),
    Shape((1, 7, 3, 8), 20, (3, 3), padding=(2, 2), winograd=True),
    Shape((2, 7, 6, 5), 6, (3, 3), stride=(2, 2)),
    Shape((2, 5, 5, 18), 7, (1, 1), padding=(0, 0)),
    Shape((1, 6, 9, 12), 8, (2, 5), (1, 3), (1, 2), (2, 1), 4),
    Shape((2, 5, 4, 9), 18, (3, 3), groups=9),
    Shape((1, 1, 30, 4), 5, (1, 7), padding=(0, 3)),
)
FILLS = ("random", "high", "mixed", "random", "mixed", "random", "high", "low")


def conv() -> Iterator[Case]:
    """Every shape as every Gemm; then a spill to int64 in each, and an 8-bit operand."""
    make = generator(4)
    for shape, fill in zip(SHAPES, FILLS, strict=True):
        yield _case("output", shape, "uint4", "int4_sym", fill, make, bias=True)
        yield _case("grad_input", shape, "fp4_radix4", "int4_sym", fill, make)
        yield _case("grad_weight", shape, "fp4_radix4", "uint4", fill, make)
    small = Shape((1, 4, 5, 6), 5, (3, 3))
    for gemm, a, b in (
        ("output", "uint4", "int4"),
        ("grad_input", "fp4_radix4", "int4"),
        ("grad_weight", "fp4_radix2", "uint4"),
    ):
        yield _case(gemm, small, a, b, "high", make, limit=1 << 17)
    yield _case("output", small, "uint8", "int4", "mixed", make, bias=True)
    yield _case("output", THREE, "int4", "fp4_e2m1", "random", make, zero=2)


def _case(
    gemm: str,
    s: Shape,
    fa: str,
    fb: str,
    fill: str,
    make: torch.Generator,
    *,
    bias: bool = False,
    limit: int = INT32,
    zero: int = 0,
) -> Case:
    geometry = Geometry("conv2d", s.stride, s.padding, s.dilation, s.groups)
    n, h, w, c = s.x
    weight = (s.outputs, *s.kernel, c // s.groups)
    oh, ow = geometry.output_shape((n, c, h, w), (weight[0], weight[3], *s.kernel))[2:]
    y = (n, oh, ow, s.outputs)
    shapes = {"output": (s.x, weight), "grad_input": (y, weight), "grad_weight": (y, s.x)}[gemm]
    a = operand(fa, shapes[0], fill, make, zero)
    b = operand(fb, shapes[1], fill, make)
    if gemm == "output":
        sums, rows, columns = reference._output(_nchw(a.ints), _nchw(b.ints), geometry), 1, y[3]
    elif gemm == "grad_input":
        sums = reference._grad_input(_nchw(a.ints), _nchw(b.ints), geometry, (n, c, h, w))
        rows, columns = 1, c
    else:
        shape = (weight[0], weight[3], *s.kernel)
        sums = reference._grad_weight(_nchw(a.ints), _nchw(b.ints), geometry, shape)
        rows, columns = s.outputs, weight[3]
    acc = sums.float().add_(0.0).permute(0, 2, 3, 1).contiguous()
    s_a = scale(make, rows)
    s_b = scale(make, columns if s.groups == 1 else 1)
    add = torch.randn(y[3], generator=make) if bias else None
    out = finish_(acc, s_a.view(-1, 1, 1, 1) if rows > 1 else s_a, s_b, add)
    sizes = [*s.x, *weight[:3], *s.stride, *s.padding, *s.dilation, s.groups]
    values: dict[str, Value] = {"sizes": sizes, "limit": limit, "winograd": int(s.winograd)}
    values |= a.values("a") | b.values("b") | {"scale_a": s_a, "scale_b": s_b, "out": out}
    if add is not None:
        values["bias"] = add
    return f"{gemm} {fa} x {fb} {fill} {'x'.join(map(str, s.x))}", values


def _nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)
