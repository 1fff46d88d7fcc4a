"""Family `blocks` (csrc/blocks): maxima, rounding and scales of blocks, and the Hadamard. Expected:
`block_max`, the reference's `round_operand`, `times_blocks`, `Hadamard`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from golden_cases.values import Case, Value, generator
from nybble.formats import Stochastic, get_format
from nybble.ops.native.blocks import grid_of, nearest_levels, stochastic_levels
from nybble.ops.reference.operand import round_operand
from nybble.quantizers import AbsMax, Hadamard, Quantizer, RandomKey, random24
from nybble.quantizers.scales.blocks import block_max
from nybble.quantizers.scales.fit import times_blocks

SHAPES = (
    ((5, 48), 1, 16),  # blocks of neighbours, whole
    ((3, 37), 1, 16),  # and with a rest
    ((40, 9), 0, 16),  # along columns
    ((2, 20, 3, 5), 1, 16),  # channels of an image
    ((4100,), 0, 3000),  # longer than what is drawn at a time
)
FORMATS = ("fp4_e2m1", "int4_sym", "fp4_radix4", "g31")


def blocks() -> Iterator[Case]:
    """Every kind of grid, to nearest and at random, then turns with and without signs."""
    make = generator(11)
    key = RandomKey(seed=2**40 + 5, rank=3, layer=7, call=2**31 + 1, operand=4)
    for place, (shape, axis, block) in enumerate(SHAPES):
        fmt = get_format(FORMATS[place % len(FORMATS)])
        x = _numbers(shape, make)
        fit = AbsMax("block", axis=axis, block=block).fit(x, fmt)
        y, dims = fit.scaled(x), grid_of(x.shape, fit.inv.shape, block)
        slot = Quantizer(fmt, AbsMax())
        multiplier = fit.scale * fmt.require_unit()
        nearest = round_operand(y.clone(), fmt, slot, None, fit).tensor
        drawn = fmt.round_to_integers(y, Stochastic(), random24(x.shape, key))
        yield (
            f"grid {'x'.join(map(str, shape))} axis {axis} {fmt.name}",
            {
                "x": x,
                "sizes": [size for size, _ in dims],
                "blocks": [shared for _, shared in dims],
                "inv": fit.inv,
                "tops": block_max(x, axis, block).abs(),
                "rule": _bytes(nearest_levels(fmt, fmt.default_rounding)),
                "nearest": nearest,
                "drawing": _bytes(stochastic_levels(fmt)),
                "stream": [key.seed, key.rank, key.layer, key.call, key.operand],
                "drawn": drawn,
                "scale": multiplier,
                "values": times_blocks(nearest, multiplier, block),
            },
        )
    orders: tuple[Literal["consecutive", "strided"], ...] = ("consecutive", "strided")
    for shape, axis, block, groups, order in (
        ((3, 50), 1, 16, 1, orders[0]),
        ((9, 32), 1, 16, 2, orders[0]),
        ((50, 11), 0, 16, 1, orders[0]),
        ((130, 3), 0, 128, 1, orders[0]),
        ((11, 150), 1, 8, 1, orders[1]),
        ((9, 64), 1, 16, 2, orders[1]),
        ((3, 50), 1, 64, 1, orders[1]),
        ((50, 11), 0, 16, 1, orders[1]),
        ((260, 3), 0, 128, 1, orders[1]),
    ):
        x = torch.randn(shape, generator=make)
        outer = 1 if axis == 0 else shape[0]
        inner = shape[1] if axis == 0 else 1
        size = shape[axis] // groups
        turn = Hadamard(block, "random", order)
        signs = turn.sign_vector(size, _bits, x.device)
        assert signs is not None
        values: dict[str, Value] = {
            "x": x,
            "dims": [outer, groups, size, inner, block, int(order == "strided")],
            "signs": signs,
            "turned": turn.apply(x, axis, _bits, groups),
            "back": turn.inverse(x, axis, _bits, groups),
            "plain": Hadamard(block, "none", order).apply(x, axis, None, groups),
        }
        yield f"{order} hadamard {block} of {shape[0]}x{shape[1]} axis {axis}", values


def _bits(stream: int, shape: object) -> Tensor:
    assert isinstance(shape, tuple)
    return random24(shape, RandomKey(seed=9, operand=stream))


def _numbers(shape: tuple[int, ...], make: torch.Generator) -> Tensor:
    x = torch.randn(shape, generator=make) * torch.exp2(2.0 * torch.randn(shape, generator=make))
    x[torch.rand(shape, generator=make) < 0.1] = -0.0
    return x


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
