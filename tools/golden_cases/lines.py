"""Family `lines` (csrc/lines): statistics and codes of folded matrices, the better of two scales,
sums of codes, the outer product, the control variate of images. Expected: the torch expressions of
their definitions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from golden_cases.values import Case, Value, generator
from nybble.formats import Stochastic, get_format
from nybble.ops.geometry import Geometry
from nybble.ops.native import rules
from nybble.ops.native.lines import best_rule
from nybble.ops.reference.taps import interval, sum_of_images, tap_sums
from nybble.quantizers import BestOfTwo, RandomKey, per_channel_sum, random24
from nybble.quantizers.packing import pack4

SHAPES = ((1, 1), (9, 64), (13, 130), (33, 7), (3, 1100), (5, 192))


def lines() -> Iterator[Case]:
    """Rows and columns that end inside a register, and rows longer than a lane of the tree."""
    make = generator(13)
    for rows, columns in SHAPES:
        x = torch.randn(rows, columns, generator=make) * torch.exp2(
            2.0 * torch.randn(rows, 1, generator=make)
        )
        across, along = (torch.rand(n, generator=make) + 0.01 for n in (rows, columns))
        z1, z2 = x * along, x * across[:, None]
        values: dict[str, Value] = {
            "x": x,
            "rows": rows,
            "columns": columns,
            "along": along,
            "across": across,
            "row_tops": z1.abs().amax(1),
            "column_tops": z2.abs().amax(0),
            "sums": per_channel_sum(z2, 1),
        }
        yield f"statistics {rows}x{columns}", values
        yield f"pack {rows}x{columns}", _pack(x, along, across, values)
        for name, rms in (("w20", 0.1362), ("int4_sym", 0.35), ("fp4_e2m1", 0.5)):
            fmt = get_format(name)
            fit = BestOfTwo("row", rms=rms).fit(x, fmt)
            yield (
                f"best {name} {rows}x{columns}",
                {
                    "x": x,
                    "rows": rows,
                    "columns": columns,
                    "rule": _bytes(best_rule(fmt, rms)),
                    "scale": fit.scale,
                    "inv": fit.inv,
                },
            )
    fmt = get_format("g31")
    codes = torch.randint(0, 16, (300, 71), generator=make).to(torch.uint8)
    table = fmt.integers(torch.arange(16, dtype=torch.uint8))
    yield (
        "sums of codes",
        {
            "rows": 300,
            "columns": 71,
            "codes": pack4(codes),
            "table": table.to(torch.int8),
            "sums": fmt.integers(codes).long().sum(0),
        },
    )
    out, e, mu = (torch.randn(n, generator=make) for n in ((9, 21), (9,), (21,)))
    added = out + e[:, None] * mu
    yield from _images(make)
    yield "outer", {"rows": 9, "columns": 21, "out": out, "e": e, "mu": mu, "added": added}


def _images(make: torch.Generator) -> Iterator[Case]:
    """Rounding errors of a plane, and their sums over a kernel's taps; channels first and last."""
    geometry = Geometry("conv2d", (2, 1), (1, 0), (1, 2))
    x = torch.randn(4, 5, 3, 6, generator=make)
    factors, scale = (torch.rand(n, generator=make) + 0.1 for n in (4, 5))
    sums = torch.randint(-99, 99, (5, 3, 6), generator=make)
    error = sum_of_images(x * factors.view(-1, 1, 1, 1)) - sums.float() * scale.view(-1, 1, 1)
    size, taps = (5, 8), (2, 2)
    found = tap_sums(error, geometry, (1, 1, *size), taps)
    ends = [
        [
            position
            for tap in range(taps[d])
            for position in interval(
                *(tap, size[d], (3, 6)[d], geometry.stride[d]),
                *(geometry.padding[d], geometry.dilation[d]),
            )
        ]
        for d in (0, 1)
    ]
    for last in (False, True):
        order = (lambda t: t.movedim(-3, -1)) if last else (lambda t: t)
        yield (
            f"images {'last' if last else 'first'}",
            {
                "images": 4,
                "channels": 5,
                "height": 3,
                "width": 6,
                "channels_last": int(last),
                "x": order(x).contiguous(),
                "factors": factors,
                "codes_sums": order(sums).contiguous(),
                "scale": scale,
                "down": ends[0],
                "across": ends[1],
                "error": order(error).contiguous(),
                "taps": found,
            },
        )


def _pack(x: Tensor, along: Tensor, across: Tensor, values: dict[str, Value]) -> dict[str, Value]:
    fmt = get_format("g31")
    keys = [RandomKey(seed=2**33 + 1, layer=3, call=9, operand=i) for i in (2, 3)]
    folded = (x * along, x * across[:, None])
    top = 1.05 * fmt.max_value  # every level occurs, and what lies beyond the last one
    inverses = [torch.full((n,), top) / folded[i].abs().amax(1 - i) for i, n in enumerate(x.shape)]
    scaled = (folded[0] * inverses[0][:, None], folded[1] * inverses[1])
    codes = [
        pack4(fmt.encode(y, Stochastic(), random24(y.shape, key)))
        for y, key in zip(scaled, keys, strict=True)
    ]
    kept = {key: values[key] for key in ("x", "rows", "columns", "along", "across")}
    return kept | {
        "rule": _bytes(rules.stochastic_rule(fmt, 0.0)),
        "row_inv": inverses[0],
        "column_inv": inverses[1],
        "stream_1": [keys[0].seed, 0, 3, 9, 2],
        "stream_2": [keys[1].seed, 0, 3, 9, 3],
        "codes_1": codes[0],
        "codes_2": codes[1],
    }


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
