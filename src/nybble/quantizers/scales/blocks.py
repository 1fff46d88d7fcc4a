"""Block scales: the maximum of every block, and the two published scale formats for them.

A block is `block` consecutive elements along one axis, or a tile, block x block elements of the
first two axes: a tiled weight and its transpose have the same values (NVIDIA, arXiv 2509.25149).
With M = max_value / headroom (1 but for stochastic rounding; see below):

MX (OCP Microscaling Formats 1.0, section 6.3), 32 elements and an E8M0 scale:

    floor      e = clamp(floor(log2 top) - emax, -126, 127)    emax = floor(log2 max_value), 2 for
               E2M1; read off the bits of top, no logarithm
    ceil       e = clamp(ceil(log2(top / max_value)), -126, 127), exactly: the least power of two
               that clips nothing (TetraJet, arXiv 2502.20853)
    scale      fl(2**e * fl(headroom))                         inv = fl(fl(1 / fl(headroom)) / 2**e)

By the floor rule the block's largest elements may lie above the format's range by up to 2 / 1.5 and
saturate. torchao 0.18 gives the same dequantised values, except that an infinite element makes a
block NaN here and saturates there, and that it quantises with 2**-126 and reads with 2**-127 where
the exponent would be below -126. An all-zero block has e = 0.

NV (NVIDIA, arXiv 2509.25149; torchao's `nvfp4_quantize` with `per_tensor_amax_to_scale`), 16
elements, an E4M3 scale and one float32 scale g for the tensor:

    g     = max(fl(max|x| / fl(limit * M)), 2**-126)              1 where max|x| == 0
    b     = E4M3(clamp(fl(fl(top / fl(M)) / g), 2**-6, 448))      rounded to nearest even
    scale = fl(g * b)
    inv   = fl(fl(1 / g) / b)                                     not fl(1 / scale): as torchao does

`limit` is what the largest block's E4M3 scale becomes: 448, or 256 where it must be able to grow
(Four Over Six, Quartet II). E4M3 rounding of b can put a block's maximum a little above max_value;
it then saturates. With `outer` elements (a multiple of block), there is a g for each of them along
the axis instead of one for the tensor: TetraJet-v2's 1x128 over 1x16 (arXiv 2510.27527).

Headroom. Stochastic rounding is unbiased only where nothing saturates. For NV the scales are taken
17/16 larger, the most that E4M3 rounds one down by (Four Over Six's code calls it
stochastic_unbiased); for MX, floor rule, values are taken 3/4 as large (Tseng et al., arXiv
2502.20586: 8 * 3/4 = 6) and the product is multiplied by 4/3 for each operand. Both are part of the
scale here: dequantised numbers need no correction.

Not done here: the rounding variant of the MX exponent.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.formats import get_format
from nybble.quantizers.scales.arithmetic import divide, scale_of, to_array, to_tensor
from nybble.quantizers.scales.fit import Fit
from nybble.quantizers.scales.gradscale import warm_start

if TYPE_CHECKING:
    from nybble.formats import Format

__all__ = [
    "E4M3_MAX",
    "block_layout",
    "block_max",
    "mx_fit",
    "mx_from_codes",
    "nv_codes",
    "nv_fit",
    "nv_from_codes",
    "nv_whole",
    "tile_max",
]

E4M3_MAX = 448.0
"""Largest value of FP8 E4M3."""
_E4M3_SMALLEST = 2.0**-6  # smallest normal: what torchao clamps to


def block_layout(
    name: str, x: Tensor, granularity: str, axis: int | None, block: int
) -> dict[str, Any]:
    """What a `Fit` is told about the blocks or tiles of `x`.

    >>> block_layout("AbsMax", torch.zeros(2, 64), "block", None, 32)
    {'granularity': 'block', 'axis': 1, 'blocks': 32}
    """
    needed = 2 if granularity == "tile" else 1
    if x.dim() < needed:
        raise UserError(f"{name}: granularity {granularity!r} needs at least {needed} dimension(s)")
    chosen = -1 if axis is None else axis
    if not -x.dim() <= chosen < x.dim():
        raise UserError(f"{name}: axis {chosen} of a tensor with {x.dim()} dimensions")
    place = None if granularity == "tile" else chosen % x.dim()
    return {"granularity": granularity, "axis": place, "blocks": block}


def block_max(x: Tensor, axis: int, block: int) -> Tensor:
    """max|x| of every block of `block` elements along `axis`; the last one may be shorter.

    >>> block_max(torch.tensor([1.0, -2.0, 3.0]), 0, 2)
    tensor([2., 3.])
    """
    size = x.shape[axis]
    count = -(-size // block)
    if x.numel() == 0:
        return x.new_zeros((*x.shape[:axis], count, *x.shape[axis + 1 :]))
    if count * block > size:
        missing = (*x.shape[:axis], count * block - size, *x.shape[axis + 1 :])
        x = torch.cat([x, x.new_zeros(missing)], axis)
    blocks = x.unflatten(axis, (count, block))
    return torch.maximum(blocks.amax(axis + 1), -blocks.amin(axis + 1))


def tile_max(x: Tensor, block: int) -> Tensor:
    """max|x| of every tile of block x block elements of the first two dimensions.

    >>> tile_max(torch.tensor([[1.0, -2.0, 3.0], [0.0, 4.0, 0.0]]), 2)
    tensor([[4., 3.]])
    """
    return block_max(block_max(x, 0, block), 1, block)


def mx_fit(
    top: Tensor,
    format: Format,
    info: dict[str, Any],
    exponent: Literal["floor", "ceil"] = "floor",
    headroom: float = 1.0,
) -> Fit:
    """E8M0 scales of block maxima `top`; `scale_codes` are E8M0 codes (exponent + 127, 255 NaN).

    >>> from nybble.formats import get_format
    >>> mx_fit(torch.tensor([6.0, 8.0, 0.0]), get_format("int4"), {}).scale
    tensor([1., 2., 1.])
    """
    if exponent == "ceil":
        # The reciprocal of the largest power of two that keeps top within the format.
        e = 127 - (warm_start(top, format.max_value).contiguous().view(torch.int32) >> 23)
    else:
        emax = math.floor(math.log2(format.max_value))
        e = (top.contiguous().view(torch.int32) >> 23) - 127 - emax
    e = torch.where(top > 0, e.clamp(-126, 127), 0)
    codes = torch.where(torch.isfinite(top), e + 127, 255).to(torch.uint8)
    factor = None
    if headroom != 1.0:
        factor = torch.full((), headroom, dtype=torch.float32, device=top.device)
    return mx_from_codes(codes, info, factor)


def mx_from_codes(codes: Tensor, info: dict[str, Any], factor: Tensor | None = None) -> Fit:
    """The fit of E8M0 codes: 2**(code - 127), NaN for 255, times a float32 factor if there is one.

    >>> mx_from_codes(torch.tensor([127, 255], dtype=torch.uint8), {}).scale
    tensor([1., nan])
    """
    # Code 0, which mx_fit never writes, would be 2^-127, half the bits of the smallest normal.
    bits = torch.where(codes == 0, 1 << 22, codes.to(torch.int32) << 23)
    scale = torch.where(codes == 255, float("nan"), bits.view(torch.float32))
    # 2^127 has a subnormal reciprocal, which is exact.
    inv = torch.reciprocal(scale)
    if factor is not None:
        scale, inv = scale * factor, inv * torch.reciprocal(factor)
    return Fit(scale, inv, scale_codes=codes, factor=factor, **info)


def nv_fit(
    top: Tensor,
    format: Format,
    info: dict[str, Any],
    limit: float = E4M3_MAX,
    headroom: float = 1.0,
) -> Fit:
    """E4M3 scales of block maxima `top`, and the tensor's float32 scale, or one for each
    `info["outer"]` elements.

    >>> from nybble.formats import get_format
    >>> fit = nv_fit(torch.tensor([2688.0, 6.0]), get_format("fp4_e2m1"), {})
    >>> fit.global_scale, fit.scale
    (tensor(1.), tensor([448.,   1.]))
    """
    whole = nv_whole(top, format, info, limit * (format.max_value / headroom))
    wanted = divide(top, format.max_value / headroom) / _over_blocks(whole, top.shape, info)
    # A NaN in one block makes `whole`, and with it the whole tensor, NaN.
    return nv_from_codes(nv_codes(wanted), whole, info)


def nv_whole(top: Tensor, format: Format, info: dict[str, Any], bound: float) -> Tensor:
    """The float32 scale that takes the largest of `top` to `bound`; shape `()`, or that of `top`
    with one number for each `info["outer"]` elements along the axis."""
    if format.max_value * E4M3_MAX > 2.0**20:
        raise UserError(f"NV block scales are for narrow formats, not for {format.name!r}")
    if info.get("outer") is not None:
        largest = block_max(top, info["axis"], info["outer"] // info["blocks"])
    else:
        largest = top.max() if top.numel() else top.new_zeros(())
    return to_tensor(scale_of(to_array(largest), bound))


def nv_codes(wanted: Tensor) -> Tensor:
    """E4M3 codes of block scales, nearest even, within [2**-6, 448].

    >>> nv_codes(torch.tensor([1.0, 0.0]))
    tensor([56,  8], dtype=torch.uint8)
    """
    return get_format("fp8_e4m3").encode(wanted.clamp(_E4M3_SMALLEST, E4M3_MAX))


def nv_from_codes(codes: Tensor, whole: Tensor, info: dict[str, Any]) -> Fit:
    """The fit of E4M3 codes and the tensor's scale (or its outer blocks').

    >>> nv_from_codes(torch.tensor([56], dtype=torch.uint8), torch.tensor(0.5), {}).scale
    tensor([0.5000])
    """
    block = get_format("fp8_e4m3").decode(codes)
    wide = _over_blocks(whole, block.shape, info)
    inv = torch.reciprocal(wide) / block
    return Fit(wide * block, inv, scale_codes=codes, global_scale=whole, **info)


def _over_blocks(whole: Tensor, shape: torch.Size, info: dict[str, Any]) -> Tensor:
    """Outer scales, repeated for the blocks within them."""
    if info.get("outer") is None:
        return whole
    axis = info["axis"]
    repeated = whole.repeat_interleave(info["outer"] // info["blocks"], dim=axis)
    return repeated.narrow(axis, 0, shape[axis])
