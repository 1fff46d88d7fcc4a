"""QTensor: packed codes with their scale, format and shape; what is kept, sent and saved.

File: one safetensors file (never a pickle) with

    codes          uint8, packed as in packing.py
    scale          float32, or for MX and NV blocks
    scale_codes    uint8, for NV with global_scale float32 and for MX with headroom with factor
                   float32 (the float32 scales follow from them)
    zero_point     float32, affine scales only

and the metadata entry `nybble` = JSON with the version (1), the format, the shape, the layout of
the scale and the SHA-256 of all of it. A file that is truncated, altered or inconsistent is refused
with its name. Writing goes to a temporary file that is synced and renamed.

Not done here: several tensors in a file (models have their own), and gradients.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.formats import Format
from nybble.quantizers.packing import pack_codes, packed_bytes, unpack_codes
from nybble.quantizers.scales.fit import Fit

__all__ = ["VERSION", "QTensor"]

VERSION = 1


@dataclass(frozen=True, eq=False)
class QTensor:
    """A quantised tensor.

    packed: uint8, flat; the codes of the elements in C order.
    format: their format. shape: the logical shape. fit: scale, zero point and their layout.
    """

    packed: Tensor
    format: Format
    shape: tuple[int, ...]
    fit: Fit
    version: int = VERSION

    def __post_init__(self) -> None:
        n = math.prod(self.shape)
        want = packed_bytes(n, self.format.bits)
        if self.packed.dtype is not torch.uint8 or self.packed.numel() != want:
            raise UserError(
                f"QTensor: {n} codes of {self.format.name} take {want} uint8 bytes, got "
                f"{self.packed.numel()} of {self.packed.dtype}"
            )

    @classmethod
    def pack(cls, codes: Tensor, format: Format, fit: Fit) -> QTensor:
        """Pack codes (as `format.encode` gives them, any shape)."""
        return cls(pack_codes(codes, format.bits), format, tuple(codes.shape), fit)

    @property
    def scale(self) -> Tensor:
        """float32 scale; its layout is `fit`'s."""
        return self.fit.scale

    @property
    def zero_point(self) -> Tensor | None:
        """float32 zero point of an affine scale, or None."""
        return self.fit.zero_point

    def codes(self) -> Tensor:
        """The codes, in the logical shape: uint8 up to 8 bits, int32 above."""
        n = math.prod(self.shape)
        return unpack_codes(self.packed, n, self.format.bits).view(self.shape)

    def integers(self) -> Tensor:
        """float32 integers: value / unit, minus the zero point where there is one.

        Raises UserError where the format has no unit (FP16, FP8, ...).
        """
        integers = self.format.integers(self.codes())
        return integers if self.zero_point is None else integers - self.zero_point

    def dequantize(self) -> Tensor:
        """float32 `fl(value * scale)`, in the logical shape."""
        return self.fit.dequantize(self.format.decode(self.codes()))

    def numpy(self) -> npt.NDArray[np.float32]:
        """`dequantize()` as a numpy array."""
        return self.dequantize().cpu().numpy()

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, scales and zero point in their stored form."""
        return sum(t.numel() * t.element_size() for t in self.stored().values())

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.packed.device

    def to(self, device: torch.device | str) -> QTensor:
        """This tensor on another device."""
        return QTensor(
            self.packed.to(device), self.format, self.shape, self.fit.to(device), self.version
        )

    def __repr__(self) -> str:
        return (
            f"QTensor(shape={self.shape}, format={self.format.name}, "
            f"scale={self.fit.granularity}, nbytes={self.nbytes})"
        )

    def stored(self) -> dict[str, Tensor]:
        """The tensors that represent this one; see the module."""
        fit = self.fit
        tensors = {"codes": self.packed}
        if fit.scale_codes is None:
            tensors["scale"] = fit.scale
        else:
            tensors["scale_codes"] = fit.scale_codes
        if fit.global_scale is not None:
            tensors["global_scale"] = fit.global_scale
        if fit.factor is not None:
            tensors["factor"] = fit.factor
        if fit.zero_point is not None:
            tensors["zero_point"] = fit.zero_point
        return tensors

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to `path`; see the module. Raises UserError when that is not possible."""
        from nybble.quantizers.storage import save

        save(self, Path(path))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> QTensor:
        """Read and check a file written by `save`. Raises UserError, naming the file."""
        from nybble.quantizers.storage import load

        return load(Path(path))
