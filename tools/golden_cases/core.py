"""Families `decode` (csrc/core/decode.hpp) and `micro` (csrc/gemm/micro.hpp)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from golden_cases.values import FILLS, Case, generator, integers
from nybble.quantizers.packing import unpack4

ROWS, COLUMNS = 6, 16
RANGES = ((0, 64), (0, 1), (5, 20), (31, 2), (32, 32), (40, 100), (63, 130), (96, 287), (320, 0))


def decode() -> Iterator[Case]:
    """Ranges that start and end inside of halves of blocks; tables with every extreme."""
    make = generator(1)
    every = torch.arange(256, dtype=torch.uint8)
    yield "unpack", {"packed": every, "codes": unpack4(every, 512)}
    byte_table = torch.tensor(
        [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, 127, -127, -128, 64], dtype=torch.int8
    )
    word_table = torch.tensor(
        [0, 1, 4, 16, 64, 256, 1024, 4096, 0, -1, 255, 256, 32767, -32767, -32768, -4096],
        dtype=torch.int16,
    )
    for start, count in RANGES:
        blocks = (start + count + 63) // 64
        packed = torch.randint(0, 256, (32 * blocks,), generator=make).to(torch.uint8)
        codes = unpack4(packed, 64 * blocks)[start : start + count].long()
        yield (
            f"{start}+{count}",
            {
                "packed": packed,
                "start": start,
                "count": count,
                "byte_table": byte_table,
                "bytes": byte_table[codes],
                "word_table": word_table,
                "words": word_table[codes],
            },
        )


def micro() -> Iterator[Case]:
    """Panels of bytes and words at every extreme, with the longest `flush` that is allowed."""
    make = generator(2)
    for a_low, a_high, b_low, b_high, kind in (
        (0, 15, -8, 7, "u8s8"),
        (0, 255, -64, 63, "u8s8"),
        (0, 24, -128, 127, "u8s8"),
        (-8, 7, 0, 15, "s8u8"),
        (-64, 63, 0, 255, "s8u8"),
        (-8, 7, -4096, 4096, "s16"),
        (-32767, 32767, -64, 64, "s16"),
    ):
        group = 2 if kind == "s16" else 4
        unsigned, signed = (a_high, -b_low) if kind == "u8s8" else (b_high, -a_low)
        longest = 1 if kind == "s16" else 32767 // (2 * unsigned * signed)
        for fill, groups in zip(FILLS, (37, 5, 5, 140), strict=True):
            groups = min(groups, 2**31 // (4 * max(a_high, -a_low) * max(b_high, -b_low)))
            a = integers((groups, ROWS, group), a_low, a_high, fill, make)
            b = integers((groups, COLUMNS, group), b_low, b_high, fill, make)
            start = integers((ROWS, COLUMNS), -1000, 1000, "random", make)
            acc = start + torch.einsum("gri,gci->rc", a, b)
            assert int(acc.abs().max()) < 2**31
            yield (
                f"{kind} {fill} {a_low}..{a_high} x {b_low}..{b_high}",
                {
                    "groups": groups,
                    "flush": min(longest, 64) if fill == "random" else longest,
                    "a": _narrow(a, kind, "us8"),
                    "b": _narrow(b, kind, "su8"),
                    "start": start.to(torch.int32),
                    "acc": acc.to(torch.int32),
                },
            )


def _narrow(x: Tensor, kind: str, letters: str) -> Tensor:
    if kind == "s16":
        return x.to(torch.int16)
    first = letters[0] if kind == "u8s8" else letters[1]
    return x.to(torch.uint8 if first == "u" else torch.int8)
