"""The three Gemms of layers that are neither a matrix product nor a plain 2-d convolution.

    bmm                 a product for each index of the batch (`gemm_batch` of the module)
    conv_transpose2d    the mirror's Gemms in another order (ops/geometry.py)
    conv3d              `volume.py`: 2-d convolutions of codes with the depth among the channels
    conv_transpose3d    both

Every sum is the exact integer sum of the whole contraction, every result one rounding of it: the
bits of `ops/reference` with exact sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nybble.errors import NybbleError
from nybble.ops.exactness import finish_
from nybble.ops.geometry import Geometry
from nybble.ops.native import convolution, volume
from nybble.ops.native.buffers import require, span, threads, vector
from nybble.ops.native.codes import Codes, table_of
from nybble.ops.native.layout import reuse, torch_layout
from nybble.ops.native.operand import codes_of
from nybble.ops.native.pool import result
from nybble.quantizers import Quantizer
from nybble.quantizers.packing import BLOCK, unpack_codes

__all__ = ["Stored", "batched_gemm", "grad_input", "grad_weight", "output"]

_INT32 = 2**31 - 1


@dataclass(frozen=True)
class Stored:
    """An operand as it is kept: packed codes in memory order, what they mean, and its scale.

    zero: the zero point, one number or empty. scale: as the kernels take it, or None.
    """

    packed: Tensor
    slot: Quantizer
    zero: Tensor
    shape: tuple[int, ...]
    channels_last: bool
    scale: Tensor | None

    @property
    def zero_point(self) -> int:
        """As a number."""
        return int(self.zero.item()) if self.zero.numel() else 0

    def codes(self, geometry: Geometry) -> Codes:
        """The codes of a matrix, or of a 2-d convolution's operand, channels last."""
        kept = [self.packed, self.packed, self.zero, self.packed]
        return codes_of(kept, self.slot, self.shape, self.channels_last, geometry)

    def volume(self) -> volume.Volume:
        """The codes of a 3-d convolution's operand, one a byte."""
        count = 1
        for size in self.shape:
            count *= size
        flat = unpack_codes(self.packed, count, self.slot.format.bits)
        table, low, high = table_of(self.slot.format, self.zero_point)
        return volume.Volume(flat.view(self.shape), self.slot.format.bits, table, low, high)


def output(
    x: Stored, w: Stored, geometry: Geometry, shape: tuple[int, ...], bias: Tensor | None
) -> Tensor:
    """The forward Gemm, in torch's layout."""
    if geometry.kind == "bmm":
        return batched_gemm(x, w, trans_b=True)
    if geometry.kind == "conv3d":
        return volume.output(x.volume(), w.volume(), geometry, x.scale, w.scale, bias)
    y = _towards_input(x, w, _mirror(geometry), shape)
    return y if bias is None else finish_(y, None, None, bias.view(-1, *[1] * (len(shape) - 2)))


def grad_input(
    g: Stored,
    w: Stored,
    geometry: Geometry,
    x_shape: tuple[int, ...],
    memory: Tensor | None = None,
) -> Tensor:
    """The Gemm towards the layer below, in `memory` (the gradient's) where that is as large and
    the result comes in its order."""
    if geometry.kind == "bmm":
        return batched_gemm(g, w, out=reuse(memory, x_shape))
    if geometry.kind == "conv3d":
        operands = g.volume(), w.volume()
        return volume.grad_input(*operands, geometry, x_shape, g.scale, w.scale, memory)
    mirror = _mirror(geometry)
    if mirror.kind == "conv3d":
        return volume.output(g.volume(), w.volume(), mirror, g.scale, w.scale, None, memory)
    y = convolution.output(g.codes(mirror), w.codes(mirror), mirror, g.scale, w.scale)
    return torch_layout(y, g.channels_last or w.channels_last, memory)


def grad_weight(g: Stored, x: Stored, geometry: Geometry, w_shape: tuple[int, ...]) -> Tensor:
    """The Gemm towards the optimizer."""
    if geometry.kind == "bmm":
        return batched_gemm(g, x, trans_a=True)
    mirror = geometry.mirror
    if mirror is not None:
        g, x, geometry = x, g, mirror
    if geometry.kind == "conv3d":
        return volume.grad_weight(g.volume(), x.volume(), geometry, w_shape, g.scale, x.scale)
    o, c, h, width = w_shape
    dw = convolution.grad_weight(
        g.codes(geometry), x.codes(geometry), geometry, (o, h, width, c), g.scale, x.scale
    )
    return torch_layout(dw, g.channels_last or x.channels_last, lasting=True)


def batched_gemm(
    a: Stored,
    b: Stored,
    *,
    trans_a: bool = False,
    trans_b: bool = False,
    out: Tensor | None = None,
    limit: int = _INT32,
) -> Tensor:
    """float32 [B, M, N] of `op(a[i]) @ op(b[i])` for every i, times the product of both scales.

    out: contiguous float32 [B, M, N] to write to. limit: the largest sum in int32, for tests of
    the int64 sums.
    """
    (count, m, k), (_, other, n) = a.shape, b.shape
    m, k = (k, m) if trans_a else (m, k)
    other, n = (n, other) if trans_b else (other, n)
    if a.shape[0] != b.shape[0] or k != other:
        raise NybbleError(f"batched_gemm: shapes {a.shape} and {b.shape} do not fit")
    if out is None:
        out = result((count, m, n))
    elif out.shape != (count, m, n) or not out.is_contiguous():
        raise NybbleError(
            f"batched_gemm: out must be contiguous and {(count, m, n)}, got {tuple(out.shape)}"
        )
    # The operands' bytes must outlive the call.
    left, right = _matrices(a), _matrices(b)
    require().gemm_batch(
        count,
        m,
        n,
        k,
        _operand(left, trans_a),
        _operand(right, trans_b),
        (0, 0) if a.scale is None else vector(a.scale, 1, "scale_a"),
        (0, 0) if b.scale is None else vector(b.scale, 1, "scale_b"),
        span(out, torch.float32, "out"),
        threads(),
        limit,
    )
    return out


def _matrices(x: Stored) -> Codes:
    """Codes of which every matrix starts at a byte: as packed where it is whole blocks of codes,
    else one code a byte."""
    count, rows, columns = x.shape
    codes = Codes.of(x.packed, x.shape, x.slot.format, x.zero_point)
    if codes.bits == 8 or rows * columns % BLOCK == 0 or count <= 1:
        return codes
    flat = unpack_codes(x.packed, count * rows * columns, x.slot.format.bits)
    return Codes(flat, x.shape, volume.wide_table(codes.table), codes.low, codes.high, 8)


def _operand(x: Codes, transposed: bool) -> tuple[object, ...]:
    packed = span(x.packed, torch.uint8, "packed")
    return packed, span(x.table, torch.int16, "table"), x.bits, x.low, x.high, transposed


def _towards_input(g: Stored, w: Stored, mirror: Geometry, shape: tuple[int, ...]) -> Tensor:
    if mirror.kind == "conv3d":
        return volume.grad_input(g.volume(), w.volume(), mirror, shape, g.scale, w.scale)
    n, c, h, width = shape
    dx = convolution.grad_input(
        g.codes(mirror), w.codes(mirror), mirror, (n, h, width, c), g.scale, w.scale
    )
    return torch_layout(dx, g.channels_last or w.channels_last)


def _mirror(geometry: Geometry) -> Geometry:
    if geometry.mirror is None:
        raise NybbleError(f"{geometry.kind} is no transposed convolution")
    return geometry.mirror
