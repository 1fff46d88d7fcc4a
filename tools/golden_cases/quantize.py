"""Family `quantize` (csrc/quantize): packing by every kind of rule, with masks, statistics,
bfloat16 and channels-last random bits; sums, moments, the clip's gradient, transposes. Expected:
the formats' own encoders, `two_phase_integers`, `tree_sum_last`, `random24`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from golden_cases.values import Case, Value, generator
from nybble.formats import (
    Format,
    Integer,
    LogFormat,
    LogNearest,
    Rounding,
    Stochastic,
    Table16,
    get_format,
    two_phase_integers,
)
from nybble.formats.breakpoints import breakpoints
from nybble.ops.native import rules
from nybble.quantizers import RandomKey, random24
from nybble.quantizers.packing import pack4, pack_bits, pack_codes
from nybble.quantizers.sums import tree_sum_last

EVEN = LogFormat(4, 4)
TABLE = Table16((0, 1, 2, 3, 5, 8, 13, 21, -1, -2, -3, -5, -8, -13, -21, -34))


def quantize() -> Iterator[Case]:
    """Every rule on numbers with break points, denormals and zeros; then the other kernels."""
    make = generator(5)
    for i, name in enumerate(("int4", "int4_sym", "uint4", "int3")):
        fmt = get_format(name)
        assert isinstance(fmt, Integer)
        x, inv = _numbers(150 + i, fmt, make), 0.37
        y = x * torch.tensor(inv)
        values: dict[str, Value] = {"low": fmt.low, "high": fmt.high, "bits": fmt.bits}
        values |= {"mask": pack_bits((fmt.low <= y) & (y <= fmt.high))}
        yield f"integer {name}", _case(x, inv, fmt, fmt.default_rounding) | values
    for first, second, rounding in (
        (EVEN, EVEN.odd(), LogNearest("1.6")),
        (EVEN, EVEN.odd(1), LogNearest("1.6", "half")),
        (LogFormat(2, 4), LogFormat(2, 4), LogNearest("1.848")),
    ):
        x, scale = _numbers(200, first, make), 2.0**3
        g1, g2 = two_phase_integers(x * scale, first, second, rounding)
        rule = rules.log_rule(first, second, rounding)
        assert rule is not None
        values = _case(x, scale, first, rounding) | {"rule": _bytes(rule)}
        values["codes"] = pack_codes(first.integers_to_codes(g1), 4)
        values["second"] = pack_codes(second.integers_to_codes(g2), 4)
        yield f"log {first.name} {second.name} {rounding.factor}", values
    for fmt in (get_format("fp4_e2m1"), TABLE, LogFormat(3, 4), get_format("int4_zeroless")):
        rounding = fmt.default_rounding
        rule = _bytes(rules.threshold_rule(fmt, rounding))
        x = _numbers(170, fmt, make)
        yield f"thresholds {fmt.name}", _case(x, 1.5, fmt, rounding) | {"rule": rule}
    half = _numbers(130, EVEN, make).to(torch.bfloat16)
    rule = _bytes(rules.threshold_rule(EVEN, EVEN.default_rounding))
    values = _case(half.float(), 1.0, EVEN, EVEN.default_rounding) | {"rule": rule}
    yield "thresholds bfloat16", values | {"bf16": half.view(torch.int16)}
    yield from _stochastic(make)
    yield from _others(make)


def _stochastic(make: torch.Generator) -> Iterator[Case]:
    key = RandomKey(seed=2**40 + 5, rank=3, layer=7, call=2**31 + 1, operand=4)
    stream = [key.seed, key.rank, key.layer, key.call, key.operand]
    yield "random24", {"stream": stream, "random": random24((1001,), key)}
    for fmt in (get_format("int4_sym"), get_format("uint4"), EVEN, get_format("fp4_e2m1"), TABLE):
        # [N, C, H, W] in channels-last memory: the random bits follow the order of C.
        x = _numbers(2 * 5 * 3 * 7, fmt, make).view(2, 5, 3, 7)
        y = x * torch.tensor(0.7)
        codes = fmt.encode(y, Stochastic(), random24(x.shape, key))
        values = _values(x.permute(0, 2, 3, 1).contiguous(), 0.7)
        values |= {"rule": _bytes(rules.stochastic_rule(fmt, 0.0)), "stream": stream}
        values |= {"channels": 5, "pixels": 21}
        yield (
            f"stochastic {fmt.name}",
            values | {"codes": pack4(codes.permute(0, 2, 3, 1).contiguous())},
        )


def _others(make: torch.Generator) -> Iterator[Case]:
    x = torch.randn(3, 777, generator=make) * 10.0
    x[1, 5] = -1e30
    yield "absmax", {"x": x, "top": x.abs().amax(1)}
    for batch, n in ((1, 1), (2, 1024), (1, 1025), (1, 4500), (3, 100)):
        x = torch.randn(batch, n, generator=make)
        values: dict[str, Value] = {"x": x, "sums": tree_sum_last(x)}
        values |= {"squares": tree_sum_last(x * x), "magnitudes": tree_sum_last(x.abs())}
        yield f"sums {batch}x{n}", values | {"top": x.abs().amax(1)}
    for n, rows, columns in ((2, 5, 21), (1, 64, 33), (3, 16, 16), (1, 1, 7)):
        codes = torch.randint(0, 16, (n, rows, columns), generator=make).to(torch.uint8)
        moved = pack4(codes.transpose(1, 2).contiguous())
        values = {"n": n, "rows": rows, "columns": columns, "codes": pack4(codes), "moved": moved}
        yield f"relayout {n}x{rows}x{columns}", values
    for two_sided in (False, True):
        dx = torch.randn(1500, generator=make)
        codes = torch.randint(0, 16, dx.shape, generator=make).to(torch.uint8)
        inside = torch.rand(dx.shape, generator=make) < 0.7
        ints = get_format("int4").integers(codes)
        side = torch.where(inside, 0.0, ints.clamp(-1.0, 1.0))
        above, below = side.clamp(min=0.0) * dx, side.clamp(max=0.0) * dx
        terms = torch.stack([above, below] if two_sided else [side * dx])
        yield (
            f"mask {'two-sided' if two_sided else 'one-sided'}",
            {
                "dx": dx,
                "mask": pack_bits(inside),
                "codes": pack4(codes),
                "sides": get_format("int4")
                .integers(torch.arange(16, dtype=torch.uint8))
                .clamp(-1.0, 1.0)
                .to(torch.int8),
                "two_sided": int(two_sided),
                "result": dx * inside.float(),
                "clips": tree_sum_last(terms),
            },
        )


def _case(x: Tensor, inv: float, fmt: Format, rounding: Rounding) -> dict[str, Value]:
    y = x * torch.tensor(inv)
    return _values(x, inv) | {"codes": pack_codes(fmt.encode(y, rounding), fmt.bits)}


def _values(x: Tensor, inv: float) -> dict[str, Value]:
    finite = bool((x * torch.tensor(inv)).isfinite().all())
    return {"x": x, "inv": inv, "top": x.abs().max().reshape(1), "finite": int(finite)}


def _numbers(n: int, fmt: Format, make: torch.Generator) -> Tensor:
    """Gaussian numbers over many octaves, a third of them break points, denormals and zeros."""
    x = torch.randn(n, generator=make) * torch.exp2(2.0 * torch.randn(n, generator=make))
    near = torch.from_numpy(breakpoints(fmt).neighbourhood())
    odd = torch.cat([near[near.isfinite()], torch.tensor([0.0, -0.0, 1e-45, -1e-39, 3.4e38, 0.5])])
    where = torch.rand(n, generator=make) < 0.3
    return torch.where(where, odd[torch.randint(len(odd), (n,), generator=make)], x)


def _bytes(rule: bytes) -> Tensor:
    return torch.frombuffer(bytearray(rule), dtype=torch.uint8)
