"""Self-tests that run on the user's machine in about a second: `nybble doctor` prints them.

They repeat, on this CPU and with this torch, what the exactness of everything else rests on. Each
is a function that returns what it checked, in words, or raises `SelfTestError` with what it found.

    arithmetic          float32 division and square root round correctly, subnormals are kept
    formats             every code of every format survives decode -> encode; 4 bits are 16 codes
    radix-4 rounding    |x| >= 0.625 * 4^n goes up, one unit in the last place below does not
    packing             all 256 bytes survive unpack -> pack, in torch and in every compiled set
    random bits         Philox4x32-10 gives the published numbers; seed 0 is as good as any other
    stochastic rounding its mean is the number itself, for seeds 0, 1 and 2^64 - 1
    sums                a fixed-order sum has the same bits on one thread and on several
    gemm                an exact Gemm equals the sum of products in Python's integers

Not done here: accuracy and speed; `pytest` tests far more of the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from nybble.errors import NybbleError
from nybble.formats import (
    FORMATS,
    FP4_RADIX2,
    FP4_RADIX4,
    FP4_RADIX4_ODD,
    INT4,
    Format,
    Stochastic,
)
from nybble.ops import native
from nybble.ops.geometry import Geometry
from nybble.ops.reference import gemm
from nybble.quantizers.packing import pack4, pack_bits, unpack4, unpack_bits
from nybble.quantizers.random import RandomKey, philox4x32, random24
from nybble.quantizers.sums import tree_sum

# Deviations in units of the standard error. With about a thousand means, 5 is left by chance once
# in two thousand runs; the bits are fixed by the seeds, so a machine that passes always passes.
SIGMAS = 5.0


class SelfTestError(NybbleError):
    """A self-test found something wrong; the message says what."""


@dataclass(frozen=True)
class SelfTest:
    """The outcome of one self-test."""

    name: str
    ok: bool
    detail: str
    seconds: float


def run_self_tests() -> Iterator[SelfTest]:
    """Run every self-test, giving each outcome as soon as it is known.

    >>> [test.name for test in run_self_tests() if not test.ok]
    []
    """
    for name, check in CHECKS.items():
        start = time.perf_counter()
        try:
            detail, ok = check(), True
        except Exception as error:  # whatever breaks, the others must still be reported
            detail, ok = f"{type(error).__name__}: {error}", False
        yield SelfTest(name, ok, detail, time.perf_counter() - start)


def _require(condition: object, message: str) -> None:
    if not condition:
        raise SelfTestError(message)


def check_arithmetic() -> str:
    """float32 division and square root are correctly rounded and nothing is flushed to zero.

    The square root is numpy's, which the scales use: torch's own is one unit in the last place off
    for a fifth of all numbers on CPUs where it calls a vector mathematics library.
    """
    words = random24((2, 4096), RandomKey(seed=7)).double() + 1.0
    a, b = words[0].float(), words[1].float()
    root = torch.from_numpy(np.sqrt(a.numpy()))
    true_root = torch.tensor([math.sqrt(x) for x in a.tolist()], dtype=torch.float64)
    # The double result, rounded once more to float32, is the correctly rounded one: 53 bits are
    # more than twice 24 plus 2 (Figueroa, 1995).
    for name, got, want in (
        ("division", a / b, (a.double() / b.double()).float()),
        ("square root", root, true_root.float()),
    ):
        _require(torch.equal(got, want), f"{name} is not correctly rounded")
    tiny = torch.full((64,), 2.0**-140)
    _require(bool((tiny * 2.0 == 2.0**-139).all()), "subnormal float32 numbers are flushed to zero")
    return f"{a.numel()} divisions and square roots correctly rounded, subnormals kept"


def check_formats() -> str:
    """decode -> encode changes no value that a format can encode, and b bits are 2^b codes."""
    for name, fmt in FORMATS.items():
        values = fmt.values()
        _require(len(values) == 2**fmt.bits, f"{name} has {len(values)} codes")
        once = fmt.decode(torch.arange(len(values), dtype=torch.int32).to(fmt.code_dtype))
        # Left out: NaN, infinities, and codes never emitted, like -8 of the symmetric INT4.
        once = once[once.abs() <= fmt.max_value]
        same = fmt.decode(fmt.encode(once))
        _require(torch.equal(once, same), f"{name} does not survive decode -> encode")
    return f"{len(FORMATS)} formats, every code"


def check_radix4() -> str:
    """The threshold of each level of FP4_RADIX4 is 0.625 * 4^n, ties included."""
    for n in range(-3, 4):
        threshold = torch.tensor(0.625 * 4.0**n)
        below = torch.nextafter(threshold, torch.tensor(0.0))
        lower = 0.0 if n == -3 else 4.0 ** (n - 1)
        for x, want in ((threshold, 4.0**n), (below, lower), (-threshold, -(4.0**n))):
            got = float(FP4_RADIX4.round(x))
            _require(got == want, f"{float(x)!r} becomes {got!r} and should become {want!r}")
    return "7 thresholds, at them and one unit in the last place below"


def check_packing() -> str:
    """pack(unpack(b)) == b for all bytes; the compiled sets unpack the same codes."""
    every = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    codes = unpack4(every, 512)
    _require(torch.equal(pack4(codes), every), "pack4(unpack4(b)) differs from b")
    _require(int(codes.max()) == 15 and len(codes.unique()) == 16, "unpacked codes are not 0..15")
    _require(
        torch.equal(pack_bits(unpack_bits(every, 2048)), every),
        "pack_bits(unpack_bits(b)) differs from b",
    )
    core, _ = native.core()
    sets = core.isas() if core is not None else ()
    for name in sets:
        compiled = core.unpack4(bytes(every.tolist()), name) if core is not None else b""
        _require(compiled == bytes(codes.tolist()), f"compiled unpack4 ({name}) differs from torch")
    return f"all 256 bytes; torch{''.join(f', {name}' for name in sets)}"


def check_random() -> str:
    """The published vectors of Philox4x32-10, and no seed with constant bits."""
    vectors = {  # counter and key all 0, and all 1 (Random123's known answers)
        0: (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        2**32 - 1: (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    }
    for word, want in vectors.items():
        counter = [torch.full((1,), word, dtype=torch.int64)] * 4
        got = tuple(int(w) for w in philox4x32(counter, (word, word)))
        _require(got == want, f"Philox of {word:#x} gives {[hex(w) for w in got]}")
    n = 1 << 16
    for seed in (0, 1):
        u = random24((n,), RandomKey(seed=seed)).double() * 2.0**-24
        z = abs(float(u.mean()) - 0.5) * math.sqrt(12 * n)
        _require(z < SIGMAS, f"seed {seed}: the mean of {n} numbers is {z:.1f} sigma from 1/2")
    return "2 published vectors; means of seeds 0 and 1"


def check_stochastic() -> str:
    """The mean of many stochastic roundings of x is x, for every seed."""
    worst, points = 0.0, 0
    for fmt in (INT4, FP4_RADIX4, FP4_RADIX4_ODD, FP4_RADIX2):
        for seed in (0, 1, 2**64 - 1):
            z = _bias(fmt, RandomKey(seed=seed))
            worst, points = max(worst, float(z.abs().max())), points + z.numel()
            _require(worst < SIGMAS, f"{fmt.name}, seed {seed}: a mean is {worst:.1f} sigma off")
    return f"largest deviation {worst:.1f} sigma over {points} means"


def _bias(fmt: Format, key: RandomKey, points: int = 64, draws: int = 4096) -> torch.Tensor:
    """Deviation of the mean of `draws` roundings, in standard errors, at `points` numbers."""
    # From within the underflow region to just below the last level, both signs.
    magnitude = torch.logspace(-5, -0.01, points // 2, base=4.0, dtype=torch.float64)
    x = (torch.cat([magnitude, -magnitude]) * fmt.max_value).float()
    grid = torch.tensor(sorted(set(fmt.values())), dtype=torch.float64)
    at = torch.searchsorted(grid, x.double(), right=True).clamp(1, len(grid) - 1)
    low, high = grid[at - 1], grid[at]
    p = (x.double() - low) / (high - low)
    error = (high - low) * (p * (1 - p) / draws).sqrt()
    random = random24((points, draws), key)
    mean = fmt.round(x[:, None].expand(points, draws), Stochastic(), random).double().mean(1)
    exact = error == 0  # x is a level of the format: it must stay, always
    _require(bool((mean == x)[exact].all()), f"{fmt.name}: a level is not rounded to itself")
    return ((mean - x) / error)[~exact]


def check_sums() -> str:
    """tree_sum gives the same 32 bits on one thread and on several."""
    x = random24((300_001,), RandomKey(seed=3)).float() * 2.0**-24 - 0.25
    threads = torch.get_num_threads()
    try:
        sums = []
        for n in (1, 2, max(2, threads)):
            torch.set_num_threads(n)
            sums.append(float(tree_sum(x)))
    finally:
        torch.set_num_threads(threads)
    _require(len(set(sums)) == 1, f"sums on 1, 2 and {max(2, threads)} threads differ: {sums}")
    return f"300001 numbers on 1, 2 and {max(2, threads)} threads"


def check_gemm() -> str:
    """An exact INT4 x FP4 Gemm equals the sum of products of Python's integers."""
    rows, inner, columns = 5, 67, 4
    key = RandomKey(seed=11)
    a = INT4.integers((random24((rows, inner), key) % 16).to(torch.uint8))
    b = FP4_RADIX4.integers((random24((columns, inner), RandomKey(seed=12)) % 16).to(torch.uint8))
    got = gemm.output(
        a,
        b,
        Geometry("linear"),
        max_x=INT4.max_integer,
        max_weight=FP4_RADIX4.max_integer,
        accumulate="exact",
    )
    for i in range(rows):
        for j in range(columns):
            want = sum(int(x) * int(y) for x, y in zip(a[i], b[j], strict=True))
            _require(float(got[i, j]) == want, f"element {i},{j} is {float(got[i, j])}, not {want}")
    return f"{rows} x {inner} x {columns}, exact"


CHECKS: dict[str, Callable[[], str]] = {
    "arithmetic": check_arithmetic,
    "formats": check_formats,
    "radix-4 rounding": check_radix4,
    "packing": check_packing,
    "random bits": check_random,
    "stochastic rounding": check_stochastic,
    "sums": check_sums,
    "gemm": check_gemm,
}
