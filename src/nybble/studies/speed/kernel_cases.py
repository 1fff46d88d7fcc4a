"""What `bench kernels` times: shapes, operands, and the float32 form of each in torch.

Operands are uniformly random codes, so every level of a format occurs and no kernel profits from
its data. float32 multiplies the same numbers, decoded, in every layout that torch has for them.
Unpacking, decoding and scaling are inside our time; quantising is its own group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.formats import get_format
from nybble.ops.geometry import Geometry
from nybble.ops.native.codes import Codes
from nybble.quantizers.packing import pack_codes

Call = Callable[[], Any]

GEMMS = (
    (1024, 1024, 1024),
    (512, 512, 2048),
    (4096, 512, 512),
    (4096, 2048, 512),
    (4096, 512, 2048),
    (2048, 1024, 1024),
)
SMALL = (64, 64, 64)
# (batch, input channels, output channels, side, kernel, stride)
CONVS = (
    (32, 64, 64, 32, 3, 1),
    (32, 128, 128, 16, 3, 1),
    (32, 256, 256, 8, 3, 1),
    (32, 512, 512, 4, 3, 1),
    (128, 16, 16, 32, 3, 1),
    (128, 32, 32, 16, 3, 1),
    (128, 64, 64, 8, 3, 1),
)
NARROW = CONVS[4:]  # those of ResNet-20
OTHER_CONVS = (
    (32, 64, 128, 32, 3, 2),
    (32, 128, 256, 16, 3, 2),
    (32, 256, 512, 8, 3, 2),
    (32, 64, 128, 32, 1, 2),
    (32, 128, 256, 16, 1, 2),
    (128, 16, 32, 32, 3, 2),
    (128, 32, 64, 16, 1, 2),
)
ELEMENTS = (1 << 20, 8 << 20)
BACKWARD = {"radix4": "fp4_radix4", "int8": "fp4_radix2"}

SUBJECTS = ("gemm", "conv", "quantize", "overhead")


@dataclass(frozen=True)
class Case:
    """One row: `ours` against the fastest of `float32`. `group` is what aims speak of."""

    group: str
    name: str
    ours: Call
    float32: dict[str, Call]
    macs: int = 0
    compare: bool = True


def cases(subjects: tuple[str, ...]) -> Iterator[Callable[[], Case]]:
    """Builders of the rows, in order: operands are made when a row's turn comes."""
    if "gemm" in subjects:
        for sizes in (*GEMMS, SMALL):
            small = "gemm small" if sizes == SMALL else None
            yield partial(gemm_case, sizes, "output", small or "gemm output", "int4_sym")
            for kind, fmt in BACKWARD.items():
                for which in ("grad_input", "grad_weight"):
                    group = small or f"gemm {kind}"
                    yield partial(gemm_case, sizes, which, group, fmt)
    if "conv" in subjects:
        for shape in (*CONVS, *OTHER_CONVS):
            for which in ("output", "grad_input", "grad_weight"):
                group = f"conv {which}{conv_kind(shape)}"
                yield partial(conv_case, shape, which, group)
    if "quantize" in subjects:
        for count in ELEMENTS:
            for name in QUANTIZERS:
                yield partial(quantize_case, count, name)
    if "overhead" in subjects:
        for name in OVERHEADS:
            yield partial(overhead_case, name)


def conv_kind(shape: tuple[int, ...]) -> str:
    """What a convolution's group is called beside its product.

    >>> conv_kind((32, 64, 64, 32, 3, 1)), conv_kind((128, 16, 16, 32, 3, 1))
    ('', ', narrow')
    >>> conv_kind((32, 64, 128, 32, 3, 2))
    ', other'
    """
    _, inputs, outputs, _, kernel, stride = shape
    if (kernel, stride) != (3, 1):
        return ", other"
    wide = min(inputs, outputs) >= 64 and shape not in NARROW
    return "" if wide else ", narrow"


def random_codes(shape: tuple[int, ...], name: str, seed: int) -> tuple[Codes, Tensor]:
    """Packed codes of a format, uniformly random, and the same as float32 integers.

    >>> codes, values = random_codes((3, 5), "int4_sym", 0)
    >>> codes.shape, float(values.abs().max()) <= 7
    ((3, 5), True)
    """
    fmt = get_format(name)
    every = torch.arange(1 << fmt.bits, dtype=torch.uint8)
    integers = fmt.integers(every)
    usable = every[integers.abs() <= (fmt.max_integer or 0)]
    generator = torch.Generator().manual_seed(seed)
    picks = usable[torch.randint(0, len(usable), (prod(shape),), generator=generator)]
    codes = Codes.of(pack_codes(picks, fmt.bits), shape, fmt)
    return codes, integers[picks.long()].view(shape)


# ---- matrix products ----------------------------------------------------------------------------


def gemm_case(shape: tuple[int, int, int], which: str, group: str, fmt: str) -> Case:
    """One of the three products of a linear layer with P examples, N outputs and K inputs."""
    from nybble.ops.native.gemm import gemm

    p, n, k = shape
    scale = torch.tensor(2.0**-10)
    x, fx = random_codes((p, k), "uint4", 1)
    w, fw = random_codes((n, k), "int4_sym", 2)
    vx, vw = fx * scale, fw * scale
    if which == "output":
        bias = torch.zeros(n)
        return Case(
            group,
            f"{p} x {n} x {k}, output",
            lambda: gemm(x, w, trans_b=True, scale_a=scale, scale_b=scale, bias=bias),
            {"linear": lambda: F.linear(vx, vw, bias), "mm": lambda: torch.mm(vx, vw.t())},
            p * n * k,
        )
    g, fg = random_codes((p, n), fmt, 3)
    vg = fg * scale
    name = f"{p} x {n} x {k}, {which}, {fmt}"
    if which == "grad_input":
        return Case(
            group,
            name,
            lambda: gemm(g, w, scale_a=scale, scale_b=scale),
            {"mm": lambda: torch.mm(vg, vw)},
            p * n * k,
        )
    return Case(
        group,
        name,
        lambda: gemm(g, x, trans_a=True, scale_a=scale, scale_b=scale),
        {"mm": lambda: torch.mm(vg.t(), vx)},
        p * n * k,
    )


# ---- convolutions -------------------------------------------------------------------------------


def conv_case(shape: tuple[int, ...], which: str, group: str) -> Case:
    """One of the three products of a convolution; gradients are FP4 radix-4."""
    from nybble.ops.native import convolution

    batch, inputs, outputs, side, kernel, stride = shape
    pad = kernel // 2
    geometry = Geometry("conv2d", (stride, stride), (pad, pad), (1, 1))
    x_shape, w_shape = (batch, side, side, inputs), (outputs, kernel, kernel, inputs)
    out = (side + 2 * pad - kernel) // stride + 1
    scale = torch.tensor(2.0**-10)
    x, fx = random_codes(x_shape, "uint4", 1)
    w, fw = random_codes(w_shape, "int4_sym", 2)
    g, fg = random_codes((batch, out, out, outputs), "fp4_radix4", 3)
    images, weights, grads = (_as_nchw(t * scale) for t in (fx, fw, fg))
    calls: dict[str, Call] = {
        "output": lambda: convolution.output(x, w, geometry, scale, scale),
        "grad_input": lambda: convolution.grad_input(g, w, geometry, x_shape, scale, scale),
        "grad_weight": lambda: convolution.grad_weight(g, x, geometry, w_shape, scale, scale),
    }
    float32: dict[str, Call] = {}
    for name, layout in (("NCHW", torch.contiguous_format), ("channels-last", torch.channels_last)):
        a, b, c = (t.contiguous(memory_format=layout) for t in (images, weights, grads))
        float32[name] = partial(_torch_conv, which, a, b, c, stride, pad)
    kind = f"{kernel}x{kernel}" + (f" stride {stride}" if stride > 1 else "")
    name = f"{inputs} to {outputs} at {side} x {side}, batch {batch}, {kind}, {which}"
    macs = batch * out * out * outputs * inputs * kernel * kernel
    return Case(group, name, calls[which], float32, macs)


def _as_nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2).contiguous()


def _torch_conv(which: str, x: Tensor, w: Tensor, g: Tensor, stride: int, pad: int) -> Tensor:
    """The same in torch, as [N, H, W, C]: a view of what torch computes."""
    if which == "output":
        return F.conv2d(x, w, stride=stride, padding=pad).permute(0, 2, 3, 1)
    wanted = [which == "grad_input", which == "grad_weight", False]
    found = torch.ops.aten.convolution_backward(
        g, x, w, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1, wanted
    )
    result: Tensor = found[0] if wanted[0] else found[1]
    return result.permute(0, 2, 3, 1)


# ---- quantising and packing ---------------------------------------------------------------------


def _operand(slot: Any, alpha: float | None = None, mask: bool = False) -> Callable[[Tensor], Call]:
    from nybble.ops.native.operand import quantize_kept
    from nybble.ops.reference.operand import INPUT, Draw

    clip = None if alpha is None else torch.tensor([alpha])

    def make(x: Tensor) -> Call:
        return lambda: quantize_kept(x, slot, Draw(0, 0, 1), INPUT, clip, want_inside=mask)

    return make


def _gradient(recipe: str, both: bool = True) -> Callable[[Tensor], Call]:
    from nybble.ops.native.gradient import quantize_gradient
    from nybble.ops.reference.operand import Draw
    from nybble.recipes import get_recipe

    spec, wanted = get_recipe(recipe).spec, (True, both)
    scale = torch.tensor([2.0**4])
    return lambda x: lambda: quantize_gradient(x, spec, scale, Draw(0, 0, 1), wanted)


def _pact(mask: bool) -> Callable[[Tensor], Call]:
    from nybble.quantizers import PACT, Quantizer

    return _operand(Quantizer(get_format("uint4"), PACT("unsigned")), alpha=3.0, mask=mask)


def _int4(scale: str, rounding: str = "nearest") -> Callable[[Tensor], Call]:
    from nybble.formats import Nearest, Stochastic
    from nybble.quantizers import SAWB, AbsMax, Quantizer

    chosen = SAWB("ibm15") if scale == "sawb" else AbsMax()
    rule = Stochastic() if rounding == "stochastic" else Nearest()
    return _operand(Quantizer(get_format("int4_sym"), chosen, rule))


QUANTIZERS: dict[str, Callable[[], Callable[[Tensor], Call]]] = {
    "UINT4 by PACT": partial(_pact, False),
    "UINT4 by PACT, with its mask": partial(_pact, True),
    "INT4 by SAWB, two moments first": partial(_int4, "sawb"),
    "INT4 by absmax, the maximum first": partial(_int4, "absmax"),
    "FP4 radix-4, one phase, with the statistic": partial(_gradient, "sun2020", False),
    "FP4 radix-4, both phases, with the statistic": partial(_gradient, "sun2020"),
    "FP4 radix-2, with the statistic": partial(_gradient, "sun2020:gradients=radix2", False),
    "INT4 by absmax, stochastic": partial(_int4, "absmax", "stochastic"),
    "FP4 radix-4, both phases, stochastic": partial(_gradient, "sun2020:factor=stochastic"),
}
DECIDING = (
    "UINT4 by PACT",
    "UINT4 by PACT, with its mask",
    "FP4 radix-4, one phase, with the statistic",
    "FP4 radix-2, with the statistic",
)
"""The aim speaks of one deterministic layout from one read; others read twice or write more."""


def quantize_case(count: int, name: str) -> Case:
    """float32 memory to packed codes, against copying that memory."""
    x = torch.randn(count, generator=torch.Generator().manual_seed(4)).view(-1, 64)
    target = torch.empty_like(x)
    decides = count == ELEMENTS[-1] and name in DECIDING
    group = "quantize" if decides else "quantize, other"
    size = f"{count >> 20}M" if count >= 1 << 20 else str(count)
    return Case(
        group,
        f"{size} elements, {name}",
        QUANTIZERS[name]()(x),
        {"memcpy": lambda: target.copy_(x)},
        compare=False,
    )


# ---- what a call costs --------------------------------------------------------------------------


def _layer(
    make: Callable[[], nn.Module], shape: tuple[int, ...], backward: bool
) -> dict[str, Call]:
    from nybble.convert import convert

    calls: dict[str, Call] = {}
    for side in ("float32", "ours"):
        torch.manual_seed(0)
        model = nn.Sequential(make())
        x = torch.randn(shape).requires_grad_(backward)
        if side == "ours":
            convert(model, "sun2020:first_last=int4")
        calls[side] = partial(_forward_backward if backward else _forward, model, x)
        calls[side]()
    return calls


def _forward(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        model(x)


def _forward_backward(model: nn.Module, x: Tensor) -> None:
    model(x).sum().backward()


OVERHEADS: dict[str, Callable[[], dict[str, Call]]] = {
    "Linear 64 to 64, batch 1, forward": lambda: _layer(lambda: nn.Linear(64, 64), (1, 64), False),
    "Linear 64 to 64, batch 1, both ways": lambda: _layer(lambda: nn.Linear(64, 64), (1, 64), True),
    "Conv2d 16 to 16 at 8 x 8, batch 1, both ways": lambda: _layer(
        lambda: nn.Conv2d(16, 16, 3, padding=1), (1, 16, 8, 8), True
    ),
}


def overhead_case(name: str) -> Case:
    """A converted layer on one example: nearly all of it is the cost of calls."""
    calls = OVERHEADS[name]()
    return Case("overhead", name, calls["ours"], {"float32": calls["float32"]}, compare=False)
