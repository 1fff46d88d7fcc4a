"""What a layer keeps of an operand with block scales gives the operand back, bit for bit."""

from __future__ import annotations

import pytest
import torch

from nybble.formats import Stochastic, get_format
from nybble.ops.reference.composite_operand import Streams, quantize, restore, store
from nybble.ops.reference.operand import Draw
from nybble.ops.reference.places import Place
from nybble.quantizers import (
    AbsMax,
    BestOfTwo,
    Eden,
    FourOverSix,
    Quantizer,
    Quest,
    RowLeastSquares,
    ScaleConfig,
)

SCALES = [
    AbsMax("block", block=16),
    AbsMax.mx(exponent="ceil"),
    AbsMax.mx(headroom=4 / 3),
    AbsMax.nv(headroom=17 / 16),
    AbsMax.nv(outer=64),
    AbsMax("tile", block=16, scale_format="fp8_e4m3"),
    AbsMax("free"),
    Quest(),
    FourOverSix(),
    Eden(),
    BestOfTwo("free", rms=0.4),
    RowLeastSquares("free", rms=0.4),
]


@pytest.mark.parametrize("scale", SCALES, ids=lambda s: s.short)
@pytest.mark.parametrize("shape", [(3, 64), (20, 90), (2, 16)])
@pytest.mark.parametrize("contraction", [0, 1])
def test_a_kept_operand_is_the_operand(
    scale: ScaleConfig, shape: tuple[int, int], contraction: int
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x *= torch.exp(torch.randn(shape, generator=torch.Generator().manual_seed(2)))
    rounding = Stochastic() if isinstance(scale, AbsMax) else None
    slot = Quantizer(get_format("fp4_e2m1"), scale, rounding)
    place = Place("output", contraction, 1 - contraction)
    found, fit = quantize(x, slot, place, Streams(Draw(seed=1, layer=2, call=3), 0))
    back = restore(store(found, slot, fit), slot, None, shape)
    assert found.multiplier is not None
    assert back.multiplier is not None
    assert torch.equal(back.tensor, found.tensor)
    assert torch.equal(back.multiplier.expand(shape), found.multiplier.expand(shape))
    error = (found.tensor * found.multiplier - x).square().sum() / x.square().sum()
    assert float(error) < 0.3
