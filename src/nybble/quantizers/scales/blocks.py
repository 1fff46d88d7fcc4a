"""Block scales: the maximum of every block, and the two published scale formats for them.

MX (OCP Microscaling Formats 1.0, section 6.3, the floor rule), 32 elements and an E8M0 scale:

    exponent = clamp(floor(log2 top) - emax, -126, 127)    emax = floor(log2 max_value), 2 for E2M1
    scale    = 2**exponent (read off the bits of top, no logarithm)

The block's largest elements may lie above the format's range by up to 2 / 1.5 and saturate.
torchao 0.18 gives the same dequantised values, except that an infinite element makes a block NaN
here and saturates there, and that it quantises with 2**-126 and reads with 2**-127 where the
exponent would be below -126. An all-zero block has scale 1.

NV (NVIDIA, arXiv 2509.25149; torchao's `nvfp4_quantize` with `per_tensor_amax_to_scale`), 16
elements, an E4M3 scale and one float32 scale g for the tensor:

    g     = max(fl(max|x| / (448 * max_value)), 2**-126)          1 where max|x| == 0
    b     = E4M3(clamp(fl(fl(top / max_value) / g), 2**-6, 448))  rounded to nearest even
    scale = fl(g * b)
    inv   = fl(fl(1 / g) / b)                                     not fl(1 / scale): as torchao does

E4M3 rounding of b can put a block's maximum a little above max_value; it then saturates.

Not done here: the ceiling and rounding variants of the MX exponent; NV with 2-D blocks, with four
over six, or with a stochastic scale.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.formats import get_format
from nybble.quantizers.scales.arithmetic import divide, scale_of, to_array, to_tensor
from nybble.quantizers.scales.fit import Fit

if TYPE_CHECKING:
    from nybble.formats import Format

__all__ = ["block_max", "mx_fit", "mx_from_codes", "nv_fit", "nv_from_codes"]

_E4M3_MAX = 448.0
_E4M3_SMALLEST = 2.0**-6  # smallest normal: what torchao clamps to


def block_max(x: Tensor, axis: int, block: int) -> Tensor:
    """max|x| of every block of `block` elements along `axis`; the last one may be shorter.

    >>> block_max(torch.tensor([1.0, -2.0, 3.0]), 0, 2)
    tensor([2., 3.])
    """
    size = x.shape[axis]
    count = -(-size // block)
    magnitude = x.abs().movedim(axis, -1)
    if count * block > size:
        magnitude = torch.nn.functional.pad(magnitude, (0, count * block - size))
    if magnitude.numel() == 0:
        return magnitude.new_zeros((*magnitude.shape[:-1], count)).movedim(-1, axis)
    blocks = magnitude.reshape(*magnitude.shape[:-1], count, block)
    return blocks.amax(-1).movedim(-1, axis)


def mx_fit(top: Tensor, format: Format, info: dict[str, Any]) -> Fit:
    """E8M0 scales of block maxima `top`; `scale_codes` are E8M0 codes (exponent + 127, 255 NaN).

    >>> from nybble.formats import get_format
    >>> mx_fit(torch.tensor([6.0, 8.0, 0.0]), get_format("int4"), {}).scale
    tensor([1., 2., 1.])
    """
    emax = math.floor(math.log2(format.max_value))
    exponent = (top.contiguous().view(torch.int32) >> 23) - 127 - emax
    exponent = torch.where(top > 0, exponent.clamp(-126, 127), 0)
    codes = torch.where(torch.isfinite(top), exponent + 127, 255).to(torch.uint8)
    return mx_from_codes(codes, info)


def mx_from_codes(codes: Tensor, info: dict[str, Any]) -> Fit:
    """The fit of E8M0 codes: 2**(code - 127), NaN for 255.

    >>> mx_from_codes(torch.tensor([127, 255], dtype=torch.uint8), {}).scale
    tensor([1., nan])
    """
    # Code 0, which mx_fit never writes, would be 2^-127, half the bits of the smallest normal.
    bits = torch.where(codes == 0, 1 << 22, codes.to(torch.int32) << 23)
    scale = torch.where(codes == 255, float("nan"), bits.view(torch.float32))
    # 2^127 has a subnormal reciprocal, which is exact.
    return Fit(scale, torch.reciprocal(scale), scale_codes=codes, **info)


def nv_fit(top: Tensor, format: Format, info: dict[str, Any]) -> Fit:
    """E4M3 scales of block maxima `top`, and the tensor's float32 scale.

    >>> from nybble.formats import get_format
    >>> fit = nv_fit(torch.tensor([2688.0, 6.0]), get_format("fp4_e2m1"), {})
    >>> fit.global_scale, fit.scale
    (tensor(1.), tensor([448.,   1.]))
    """
    if format.max_value * _E4M3_MAX > 2.0**20:
        raise UserError(f"NV block scales are for narrow formats, not for {format.name!r}")
    largest = top.max() if top.numel() else top.new_zeros(())
    whole = to_tensor(scale_of(to_array(largest), _E4M3_MAX * format.max_value))
    wanted = divide(top, format.max_value) / whole
    codes = get_format("fp8_e4m3").encode(wanted.clamp(_E4M3_SMALLEST, _E4M3_MAX))
    # A NaN in one block makes `whole`, and with it the whole tensor, NaN.
    return nv_from_codes(codes, whole, info)


def nv_from_codes(codes: Tensor, whole: Tensor, info: dict[str, Any]) -> Fit:
    """The fit of E4M3 codes and the tensor's scale.

    >>> nv_from_codes(torch.tensor([56], dtype=torch.uint8), torch.tensor(0.5), {}).scale
    tensor([0.5000])
    """
    block = get_format("fp8_e4m3").decode(codes)
    inv = torch.reciprocal(whole) / block
    return Fit(whole * block, inv, scale_codes=codes, global_scale=whole, **info)
