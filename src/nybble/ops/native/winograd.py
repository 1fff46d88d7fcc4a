"""3x3 convolutions of stride 1 as exact integer Winograd F(2x2, 3x3).

    U = 2G w (2G)^T,  V = B^T d B,  y = A^T (sum over channels of U V) A / 4

Every matrix is integer and the division is exact, so the result is the direct convolution's, bit
for bit, from 2.25 times fewer products; csrc/winograd/kernels.hpp has the matrices. `supports` says
whether the ranges of the operands prove that no sum overflows (csrc/winograd/plan.hpp) and whether
the shape is one that gains; the other functions take what `supports` accepted, and raise ValueError
where the proof fails.

Scales are one number (a tensor of one element, or None for 1), or one for each index of a dimension
that the sum leaves: see each function.
"""

from __future__ import annotations

from math import prod
from types import ModuleType

import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.ops.geometry import Geometry
from nybble.ops.native import core
from nybble.ops.native.buffers import span, threads, vector
from nybble.ops.native.codes import Codes
from nybble.ops.native.pool import result

__all__ = ["grad_input", "grad_weight", "output", "supports"]

_NO_SPILL = 2**31 - 1


def supports(gemm: str, a: Codes, b: Codes, geometry: Geometry, x_shape: tuple[int, ...]) -> bool:
    """Whether the Gemm is exact here and expected to be faster than the direct convolution.

    `gemm`: "output" (a = x, b = w), "grad_input" (a = g, b = w) or "grad_weight" (a = g, b = x).
    `x_shape`: [N, H, W, C], the layer's input.

    >>> from nybble.formats import get_format
    >>> none = torch.empty(0, dtype=torch.uint8)
    >>> x = Codes.of(none, (8, 16, 16, 64), get_format("uint4"))
    >>> w = Codes.of(none, (64, 3, 3, 64), get_format("int4_sym"))
    >>> supports("output", x, w, Geometry("conv2d", (1, 1), (1, 1), (1, 1)), x.shape)
    True
    >>> supports("output", x, w, Geometry("conv2d", (2, 2), (1, 1), (1, 1)), x.shape)
    False
    """
    if geometry.kind != "conv2d" or geometry.groups != 1 or len(x_shape) != 4:
        return False
    if geometry.stride != (1, 1) or geometry.dilation != (1, 1) or a.bits > 4 or b.bits > 4:
        return False
    height, width = (n + 2 * p - 2 for n, p in zip(x_shape[1:3], geometry.padding, strict=True))
    if min(geometry.padding) < 0 or height < 1 or width < 1 or core()[0] is None:
        return False
    outputs = b.shape[0] if gemm != "grad_weight" else a.shape[3]
    if gemm != "grad_weight" and b.shape[1:3] != (3, 3):
        return False
    if gemm == "grad_input" and max(geometry.padding) > 2:
        return False
    return _exact(gemm, a, b) and _pays(gemm, x_shape, outputs, (height, width))


def _exact(gemm: str, a: Codes, b: Codes) -> bool:
    module = _module()
    if gemm == "grad_weight":
        tiles: int = module.winograd_grad_weight_tiles(a.low, a.high, b.low, b.high)
        return tiles >= 2
    plan: int = module.winograd_correlation_plan(a.low, a.high, b.low, b.high, a.shape[3])
    return plan != 0


def _pays(gemm: str, x_shape: tuple[int, ...], outputs: int, out: tuple[int, int]) -> bool:
    """Few channels leave the transforms to dominate; odd, small results waste parts of tiles."""
    size = x_shape[1:3] if gemm == "grad_input" else out
    computed = 4 * prod((n + 1) // 2 for n in size)
    return min(x_shape[3], outputs) >= 12 and 2.25 * prod(size) >= 1.4 * computed


def output(
    x: Codes,
    w: Codes,
    padding: tuple[int, int],
    scale_x: Tensor | None,
    scale_w: Tensor | None,
    bias: Tensor | None = None,
) -> Tensor:
    """The layer's output: float32 [N, OH, OW, O], contiguous.

    x: [N, H, W, C]; w: [O, 3, 3, C]; scale_x: one number or [N]; scale_w: one number or [O];
    bias: float32 [O] or None.

    >>> from nybble.formats import get_format
    >>> codes = torch.full((32,), 0x11, dtype=torch.uint8)
    >>> x = Codes.of(codes, (1, 4, 4, 4), get_format("uint4"))
    >>> w = Codes.of(codes.repeat(2), (3, 3, 3, 4), get_format("uint4"))
    >>> output(x, w, (1, 1), None, torch.tensor([0.5]))[0, :, :, 0].tolist()[:2]
    [[8.0, 12.0, 12.0, 8.0], [12.0, 18.0, 18.0, 12.0]]
    """
    n, h, width, c = x.shape
    o = w.shape[0]
    if w.shape != (o, 3, 3, c):
        raise NybbleError(f"winograd: kernels {w.shape} do not belong to images {x.shape}")
    return _correlate(x, w, False, (n, h, width, c, o), padding, scale_x, scale_w, bias)


def grad_input(
    g: Codes,
    w: Codes,
    padding: tuple[int, int],
    x_shape: tuple[int, ...],
    scale_g: Tensor | None,
    scale_w: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    """The gradient of the layer's input: float32 [N, H, W, C], contiguous.

    g: [N, OH, OW, O]; w: [O, 3, 3, C]; padding (the layer's): at most 2; scale_g: one number or
    [N]; scale_w: one number or [C]; out: contiguous memory of the result's shape to write to.

    >>> from nybble.formats import get_format
    >>> codes = torch.full((32,), 0x11, dtype=torch.uint8)
    >>> g = Codes.of(codes, (1, 2, 2, 1), get_format("uint4"))
    >>> w = Codes.of(codes, (1, 3, 3, 1), get_format("uint4"))
    >>> grad_input(g, w, (0, 0), (1, 4, 4, 1), None, None)[0, :, :, 0].tolist()[0]
    [1.0, 2.0, 2.0, 1.0]
    """
    n, oh, ow, o = g.shape
    c = w.shape[3]
    ph, pw = padding
    if w.shape != (o, 3, 3, c) or tuple(x_shape) != (n, oh + 2 - 2 * ph, ow + 2 - 2 * pw, c):
        raise NybbleError(
            f"winograd: gradient {g.shape}, kernels {w.shape} and padding {padding} do not make an"
            f" input of {tuple(x_shape)}"
        )
    sizes, pads = (n, oh, ow, o, c), (2 - ph, 2 - pw)
    return _correlate(g, w, True, sizes, pads, scale_g, scale_w, None, out)


def grad_weight(
    g: Codes,
    x: Codes,
    padding: tuple[int, int],
    scale_g: Tensor | None,
    scale_x: Tensor | None,
    *,
    spill: int = _NO_SPILL,
) -> Tensor:
    """The gradient of the layer's kernels: float32 [O, 3, 3, C], contiguous.

    g: [N, OH, OW, O]; x: [N, H, W, C]; scale_g: one number or [O]; scale_x: one number or [C].
    spill: sums go to 64 bits at least every so many tiles; the bounds may ask for it sooner.

    >>> from nybble.formats import get_format
    >>> codes = torch.full((32,), 0x11, dtype=torch.uint8)
    >>> g = Codes.of(codes, (1, 4, 4, 1), get_format("uint4"))
    >>> grad_weight(g, g, (1, 1), None, None)[0, :, :, 0].tolist()
    [[9.0, 12.0, 9.0], [12.0, 16.0, 12.0], [9.0, 12.0, 9.0]]
    """
    n, h, width, c = x.shape
    o = g.shape[3]
    if g.shape[:3] != (n, h + 2 * padding[0] - 2, width + 2 * padding[1] - 2):
        raise NybbleError(
            f"winograd: gradient {g.shape} and padding {padding} do not belong to images {x.shape}"
        )
    out = result((o, 3, 3, c), lasting=True)
    scales_g, scales_x = _scale(scale_g, o, "scale_g"), _scale(scale_x, c, "scale_x")
    _module().winograd_grad_weight(
        *_operand(g, "winograd gradient"),
        *_operand(x, "winograd images"),
        *(n, h, width, c, o, *padding),
        *span(scales_g, torch.float32, "scale_g"),
        *span(scales_x, torch.float32, "scale_x"),
        *span(out, torch.float32, "out"),
        spill,
        threads(),
    )
    return out


def _correlate(
    image: Codes,
    kernels: Codes,
    turned: bool,
    sizes: tuple[int, int, int, int, int],
    padding: tuple[int, int],
    scale_image: Tensor | None,
    scale_kernels: Tensor | None,
    bias: Tensor | None,
    out: Tensor | None = None,
) -> Tensor:
    n, h, width, _, outputs = sizes
    ph, pw = padding
    if ph < 0 or pw < 0 or h + 2 * ph < 3 or width + 2 * pw < 3:
        raise NybbleError(f"winograd: images {image.shape} with padding {padding} are too small")
    shape = (n, h + 2 * ph - 2, width + 2 * pw - 2, outputs)
    out = result(shape) if out is None else out
    if tuple(out.shape) != shape:
        raise NybbleError(f"winograd: out is {tuple(out.shape)}, the result is {shape}")
    rows = _scale(scale_image, n, "scale of the images")
    columns = _scale(scale_kernels, outputs, "scale of the kernels")
    scale = (rows.view(-1, 1) * columns).expand(rows.numel(), outputs).contiguous()
    _module().winograd_correlate(
        *_operand(image, "winograd images"),
        *_operand(kernels, "winograd kernels"),
        turned,
        *sizes,
        *padding,
        *span(scale, torch.float32, "scale"),
        rows.numel() > 1,
        *vector(bias, outputs, "bias"),
        *span(out, torch.float32, "out"),
        threads(),
    )
    return out


def _operand(codes: Codes, what: str) -> tuple[int, ...]:
    if codes.bits > 4:
        raise NybbleError(f"{what}: 4-bit codes are needed, got {codes.bits} bits")
    packed, table, _, low, high = codes.operand
    return *packed, *table, low, high


_ONE = torch.ones(1, dtype=torch.float32)


def _scale(scale: Tensor | None, many: int, what: str) -> Tensor:
    if scale is None:
        return _ONE
    if scale.numel() not in (1, many) or scale.dtype is not torch.float32:
        raise NybbleError(f"{what}: 1 or {many} float32 numbers, got {scale.numel()} {scale.dtype}")
    return scale.reshape(-1).contiguous()


def _module() -> ModuleType:
    module, reason = core()
    if module is None:
        raise NybbleError(reason)
    return module
