"""Scale 1: the format's values are the numbers themselves. For FP16, BF16 and other formats whose
range is wide enough, and for data that is scaled already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nybble.quantizers.scales.fit import Fit, ScaleConfig
from nybble.quantizers.scales.sawb import Ste

if TYPE_CHECKING:
    from nybble.formats import Format

__all__ = ["Unit"]


@dataclass(frozen=True)
class Unit(ScaleConfig):
    """Scale 1, whatever the data. ste: "clip" stops the gradient of what is beyond the format's
    largest value in a layer, "pass" lets it through.

    NaN in x reaches the format, which has a code for it (FP16) or encodes it as 0 (4-bit formats);
    `nybble.quantize` turns the latter into a NaN scale.
    """

    ste: Ste = "pass"

    def fit(self, x: Tensor, format: Format) -> Fit:
        one = torch.ones((), dtype=torch.float32, device=x.device)
        return Fit(scale=one, inv=one)

    @property
    def short(self) -> str:
        return "unit" if self.ste == "pass" else "unit(clip)"
