"""Family `lines` (csrc/lines): statistics and codes of folded matrices, the better of two scales,
sums of codes, the outer product. Expected: the torch expressions of their definitions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from golden_cases.values import Case, Value, generator
from nybble.formats import Stochastic, get_format
from nybble.ops.native import rules
from nybble.ops.native.lines import best_rule
from nybble.quantizers import BestOfTwo, RandomKey, per_channel_sum, random24
from nybble.quantizers.packing import pack4

SHAPES = ((1, 1), (9, 64), (13, 130), (33, 7), (3, 1100))


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
        w20 = get_format("w20")
        fit = BestOfTwo("row", rms=0.1362).fit(x, w20)
        yield (
            f"best {rows}x{columns}",
            {
                "x": x,
                "rows": rows,
                "columns": columns,
                "rule": _bytes(best_rule(w20, 0.1362)),
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
    yield "outer", {"rows": 9, "columns": 21, "out": out, "e": e, "mu": mu, "added": added}


def _pack(x: Tensor, along: Tensor, across: Tensor, values: dict[str, Value]) -> dict[str, Value]:
    fmt = get_format("g31")
    keys = [RandomKey(seed=2**33 + 1, layer=3, call=9, operand=i) for i in (2, 3)]
    folded = (x * along, x * across[:, None])
    inverses = [torch.full((n,), 1.7) / folded[i].abs().amax(1 - i) for i, n in enumerate(x.shape)]
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
