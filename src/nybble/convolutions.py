"""`conv2d` and `conv1d` of two QTensors, as torch.nn.functional's: part of the numeric library.

    y = nybble.conv2d(qx, qw, bias, stride=2, padding=1)     integer sums, then the scales

Shapes are torch's: input [N, C, H, W], weight [O, C / groups, kh, kw]. A scale per tensor stays
outside of the sum, and so does one per image of the input or per output channel of the weight; any
other scale is multiplied in first, and the convolution then runs on float32 values, as it does for
formats without an integer form. Padding is the value 0, exactly.

The native backend wants channels last: packed codes of the input and the weight are reordered on
every call (layers keep theirs in that order).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nybble.errors import NybbleError, UserError, suggest
from nybble.ops.dispatch import BACKENDS
from nybble.ops.exactness import finish_
from nybble.ops.geometry import Geometry
from nybble.ops.native import convolution, core
from nybble.ops.native.codes import Codes
from nybble.ops.reference import gemm
from nybble.quantizers import QTensor
from nybble.quantizers.packing import pack_codes

__all__ = ["conv1d", "conv2d"]

_Sizes = int | tuple[int, ...]


def conv2d(
    x: QTensor,
    w: QTensor,
    bias: Tensor | npt.NDArray[np.float32] | None = None,
    stride: _Sizes = 1,
    padding: _Sizes = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
    *,
    accumulate: str = "exact",
    backend: str = "auto",
) -> Tensor:
    """`torch.nn.functional.conv2d` for QTensors [N, C, H, W] and [O, C / groups, kh, kw].

    Returns float32 [N, O, OH, OW]. stride, padding, dilation: one number, or one a dimension.
    accumulate: `exact` (integers, checked) or `fast` (float32 sums).
    backend: `reference` (torch), `native` (packed codes on the CPU, exact only; what it cannot do
    is a UserError that says why) or `auto`: native where it can, since the bits are the same.

    >>> import nybble
    >>> from nybble.quantizers import AbsMax
    >>> q = nybble.Quantizer(nybble.get_format("int4_sym"), AbsMax())
    >>> image = nybble.quantize(torch.full((1, 2, 3, 3), 7.0), q)
    >>> weight = nybble.quantize(torch.full((4, 2, 3, 3), 7.0), q)
    >>> nybble.conv2d(image, weight, padding=1)[0, 0]
    tensor([[392., 588., 392.],
            [588., 882., 588.],
            [392., 588., 392.]])
    >>> nybble.conv2d(image, weight, torch.tensor([0.0, 1.0, 2.0, 3.0])).flatten()
    tensor([882., 883., 884., 885.])
    """
    sizes = [_pair(n, 2, what, "conv2d") for n, what in _named(stride, padding, dilation)]
    return _convolve(x, w, bias, sizes, groups, 2, accumulate, backend)


def conv1d(
    x: QTensor,
    w: QTensor,
    bias: Tensor | npt.NDArray[np.float32] | None = None,
    stride: _Sizes = 1,
    padding: _Sizes = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
    *,
    accumulate: str = "exact",
    backend: str = "auto",
) -> Tensor:
    """`torch.nn.functional.conv1d` for QTensors [N, C, L] and [O, C / groups, k]; see `conv2d`.

    >>> import nybble
    >>> from nybble.quantizers import AbsMax
    >>> q = nybble.Quantizer(nybble.get_format("int4_sym"), AbsMax())
    >>> line = nybble.quantize(torch.tensor([[[1.0, 2.0, 3.0, 7.0]]]), q)
    >>> kernel = nybble.quantize(torch.tensor([[[-7.0, 7.0]]]), q)
    >>> nybble.conv1d(line, kernel)
    tensor([[[ 7.,  7., 28.]]])
    """
    sizes = [_pair(n, 1, what, "conv1d") for n, what in _named(stride, padding, dilation)]
    return _convolve(x, w, bias, sizes, groups, 1, accumulate, backend)


@dataclass(frozen=True)
class _Operand:
    """What a convolution multiplies: four dimensions, whatever the QTensor has.

    scale: a number, or one an index of dimension 0; None where values hold it already.
    """

    q: QTensor
    shape: tuple[int, ...]
    scale: Tensor | None

    @classmethod
    def of(cls, q: QTensor) -> _Operand:
        shape = (*q.shape[:2], *[1] * (4 - len(q.shape)), *q.shape[2:])
        if q.format.unit is None:
            return cls(q, shape, None)
        scale = q.scale if q.format.unit == 1.0 else q.scale * q.format.unit
        if scale.numel() == 1:
            return cls(q, shape, scale.reshape(()))
        free = q.fit.granularity not in ("block", "tile") and scale.dim() == len(q.shape)
        if free and scale.numel() == scale.shape[0]:
            return cls(q, shape, scale.reshape(-1))
        return cls(q, shape, None)

    def values(self) -> Tensor:
        """Integers, or values where the scale cannot stay outside."""
        values = self.q.dequantize() if self.scale is None else self.q.integers()
        return values.reshape(self.shape)

    @property
    def limit(self) -> int | None:
        if self.scale is None:
            return None
        return (self.q.format.max_integer or 0) * (1 if self.q.zero_point is None else 2)

    def along(self, dim: int) -> Tensor | None:
        """The scale, to be multiplied with a result of which it follows dimension `dim`."""
        if self.scale is None or self.scale.dim() == 0:
            return self.scale
        shape = [1, 1, 1, 1]
        shape[dim] = -1
        return self.scale.reshape(shape)

    def codes(self) -> Codes:
        """Packed codes, channels last. Those of a file or a caller may be any of the format's."""
        n, c, h, w = self.shape
        last = self.q.codes().reshape(self.shape).permute(0, 2, 3, 1).contiguous()
        zero = 0 if self.q.zero_point is None else int(self.q.zero_point)
        packed = pack_codes(last, self.q.format.bits)
        return Codes.of(packed, (n, h, w, c), self.q.format, zero, encoded=False)


def _convolve(
    x: QTensor,
    w: QTensor,
    bias: Tensor | npt.NDArray[np.float32] | None,
    sizes: list[tuple[int, int]],
    groups: int,
    dims: int,
    accumulate: str,
    backend: str,
) -> Tensor:
    who = f"conv{dims}d"
    if accumulate not in ("exact", "fast"):
        raise UserError(f"{who}: accumulate={accumulate!r} is not known: use 'exact' or 'fast'")
    if backend not in ("auto", *BACKENDS):
        raise UserError(
            f"{who}: unknown backend {backend!r}: use auto, reference or native."
            f"{suggest(str(backend), BACKENDS)}"
        )
    if isinstance(bias, np.ndarray):
        bias = torch.from_numpy(bias)
    _check(who, x, w, bias, groups, dims)
    qx, qw = _Operand.of(x), _Operand.of(w)
    geometry = Geometry("conv2d", sizes[0], sizes[1], sizes[2], groups)
    out = geometry.output_shape(qx.shape, qw.shape)
    if min(out[2:]) < 1:
        raise UserError(
            f"{who}: a kernel of {tuple(w.shape[2:])} with dilation {sizes[2][-dims:]} is larger"
            f" than the input of {tuple(x.shape[2:])} with padding {sizes[1][-dims:]}"
        )
    y: Tensor | None = None
    if backend != "reference":
        reason = _why_not(qx, qw, bias, accumulate)
        if reason is None:
            try:
                a, b = qx.codes(), qw.codes()
                y = convolution.output(a, b, geometry, qx.scale, qw.scale, bias)
                y = y.permute(0, 3, 1, 2)
            except NybbleError as error:
                reason = str(error)
        if reason is not None and backend == "native":
            raise UserError(f"{who}: backend 'native' cannot do this: {reason}")
    if y is None:
        acc = gemm.output(
            qx.values(),
            qw.values(),
            geometry,
            max_x=qx.limit,
            max_weight=qw.limit,
            accumulate=accumulate,
        )
        y = finish_(acc, qx.along(0), qw.along(1), None if bias is None else bias.view(-1, 1, 1))
    return y if dims == 2 else y.squeeze(2)


def _why_not(x: _Operand, w: _Operand, bias: Tensor | None, accumulate: str) -> str | None:
    if accumulate != "exact":
        return "it accumulates exactly, not in float32"
    module, reason = core()
    if module is None:
        return reason
    for name, operand in (("x", x), ("w", w)):
        q = operand.q
        if q.device.type != "cpu":
            return f"{name} is on {q.device}, not on the CPU"
        if q.format.unit is None or q.format.bits > 8:
            return f"{name} is {q.format.name}, which has no table of integers"
        if operand.scale is None:
            return f"the scale of {name} ({q.fit.granularity}) varies within the sum"
        if q.zero_point is not None and not bool(torch.isfinite(q.zero_point)):
            return f"the zero point of {name} is not finite"
    if x.scale is not None and x.scale.numel() > 1:
        return "x has a scale for each image"
    if bias is not None and not bias.is_cpu:
        return f"the bias is on {bias.device}, not on the CPU"
    if torch.compiler.is_compiling():
        return "torch.compile cannot look into it"
    return None


def _check(who: str, x: QTensor, w: QTensor, bias: Tensor | None, groups: int, dims: int) -> None:
    for name, q in (("x", x), ("w", w)):
        if not isinstance(q, QTensor):
            raise UserError(
                f"{who}: {name} is {type(q).__name__}, not a QTensor: quantize it first with"
                " nybble.quantize(x, quantizer)"
            )
        if len(q.shape) != dims + 2:
            raise UserError(
                f"{who}: {name} has shape {tuple(q.shape)}; it needs {dims + 2} dimensions"
            )
    if groups < 1 or w.shape[0] % groups or x.shape[1] != w.shape[1] * groups:
        raise UserError(
            f"{who}: a weight {tuple(w.shape)} in {groups} groups does not fit an input"
            f" {tuple(x.shape)}: the weight is [O, C / groups, ...], O a multiple of the groups"
        )
    if 0 in w.shape[1:]:
        raise UserError(f"{who}: the weight {tuple(w.shape)} is empty")
    if bias is not None and (bias.dtype is not torch.float32 or bias.shape != (w.shape[0],)):
        raise UserError(
            f"{who}: the bias is {bias.dtype} {tuple(bias.shape)}; it needs float32 ({w.shape[0]},)"
        )


def _named(*sizes: _Sizes) -> list[tuple[_Sizes, str]]:
    return list(zip(sizes, ("stride", "padding", "dilation"), strict=True))


def _pair(n: _Sizes, dims: int, what: str, who: str) -> tuple[int, int]:
    """(for H, for W); a 1-d convolution has H = 1."""
    least = 0 if what == "padding" else 1
    sizes = (n,) * dims if isinstance(n, int) else tuple(n) if isinstance(n, (tuple, list)) else ()
    if len(sizes) != dims or any(not isinstance(i, int) or i < least for i in sizes):
        raise UserError(
            f"{who}: {what}={n!r} is not {'a number' if dims == 1 else 'one or two numbers'} of at"
            f" least {least}"
        )
    return (sizes[0], sizes[-1]) if dims == 2 else (least, sizes[0])
