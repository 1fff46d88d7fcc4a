"""The oracle of the quantizers: plain Python, one number at a time, written from the definitions.

Numbers are Python floats that hold float32 values. Every operation is done exactly, on fractions,
and rounded to float32 once by `f32`; only the square root goes through double precision, where the
second rounding is innocuous (Figueroa, 1995: 53 >= 2 * 24 + 2). The torch code is not called:
formats come from their own oracle, and nothing is shared with the scales. Slow by design; tests
compare with it bit for bit.

Not done here: per-channel and per-row loops (tests call the oracle for each of them), and the
search of PACT's initial clip.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from nybble.formats import Format, Rounding
from nybble.formats.oracle import decode, encode
from nybble.quantizers.random import RandomKey

__all__ = [
    "OracleFit",
    "absmax",
    "add",
    "bits",
    "div",
    "f32",
    "gradscale_update",
    "minmax",
    "mul",
    "mx_block",
    "nv_blocks",
    "pack4",
    "pact",
    "philox",
    "quantize",
    "random24",
    "sawb",
    "sqrt",
    "tree_sum",
    "warm_start",
]

_MIN_SCALE = 2.0**-126
_NAN = float("nan")
_INF = float("inf")


# ---- float32 ------------------------------------------------------------------------------------


def f32(x: float | Fraction) -> float:
    """The float32 nearest to `x`, ties to even; overflow gives infinity.

    >>> f32(0.1)
    0.10000000149011612
    """
    if isinstance(x, float) and (math.isnan(x) or math.isinf(x)):
        return x
    exact = Fraction(x)
    if exact == 0:
        return float(x)
    size = abs(exact)
    # Exponent of the leading bit, found exactly.
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    ulp = Fraction(2) ** max(exponent - 23, -149)
    steps = round(size / ulp)  # Python rounds ties to even
    value = steps * ulp
    if value >= Fraction(2) ** 128:
        return math.copysign(_INF, exact)
    return math.copysign(float(value), exact)


def bits(x: float) -> int:
    """The 32 bits of a float32 value."""
    return int(struct.unpack("<I", struct.pack("<f", x))[0])


def _finite(*numbers: float) -> bool:
    return all(math.isfinite(x) for x in numbers)


def add(a: float, b: float) -> float:
    """fl(a + b)."""
    if not _finite(a, b) or a == 0 or b == 0:
        return f32(a + b)
    exact = Fraction(a) + Fraction(b)
    return f32(exact) if exact else 0.0


def mul(a: float, b: float) -> float:
    """fl(a * b)."""
    if not _finite(a, b) or a == 0 or b == 0:
        return f32(a * b)
    size = f32(Fraction(abs(a)) * Fraction(abs(b)))
    return size if (a > 0) == (b > 0) else -size


def div(a: float, b: float) -> float:
    """fl(a / b)."""
    if math.isnan(a) or math.isnan(b) or (math.isinf(a) and math.isinf(b)) or a == b == 0:
        return _NAN
    sign = math.copysign(1.0, a) * math.copysign(1.0, b)
    if b == 0 or math.isinf(a):
        return sign * _INF
    if a == 0 or math.isinf(b):
        return sign * 0.0
    return sign * f32(Fraction(abs(a)) / Fraction(abs(b)))


def sqrt(a: float) -> float:
    """fl(sqrt(a)), a >= 0."""
    return f32(math.sqrt(a)) if a >= 0 else _NAN


# ---- sums, packing, random bits -----------------------------------------------------------------


def tree_sum(numbers: Sequence[float]) -> float:
    """The fixed-order sum of sums.py, step by step."""
    if not numbers:
        return 0.0
    padded = [*numbers, *[0.0] * (-len(numbers) % 1024)]
    rows = [list(padded[i : i + 1024]) for i in range(0, len(padded), 1024)]
    while len(rows) > 1:
        paired = [
            [add(a, b) for a, b in zip(rows[i], rows[i + 1], strict=True)]
            for i in range(0, len(rows) - 1, 2)
        ]
        if len(rows) % 2:
            paired.append(rows[-1])
        rows = paired
    lanes = rows[0]
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [add(lanes[i], lanes[i + half]) for i in range(half)]
    return add(lanes[0], 0.0)


def pack4(codes: Sequence[int]) -> bytes:
    """The 64-blocks of packing.py."""
    padded = [*codes, *[0] * (-len(codes) % 64)]
    packed = bytearray()
    for start in range(0, len(padded), 64):
        block = padded[start : start + 64]
        packed.extend(block[i] | block[i + 32] << 4 for i in range(32))
    return bytes(packed)


def philox(
    counter: Sequence[int], key: Sequence[int], rounds: int = 10
) -> tuple[int, int, int, int]:
    """Philox4x32 on Python integers.

    >>> [hex(word) for word in philox((0, 0, 0, 0), (0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        high0, low0 = divmod(0xD2511F53 * c0, 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 1 << 32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = (k0 + 0x9E3779B9) % (1 << 32)
        k1 = (k1 + 0xBB67AE85) % (1 << 32)
    return c0, c1, c2, c3


def random24(index: int, key: RandomKey) -> int:
    """The 24 bits of element `index`."""
    block = index // 4
    counter = (
        block % (1 << 32),
        key.operand * (1 << 16) + block // (1 << 32),
        key.call,
        key.rank * (1 << 16) + key.layer,
    )
    words = philox(counter, (key.seed % (1 << 32), key.seed // (1 << 32)))
    return words[index % 4] // 256


# ---- scales -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OracleFit:
    """Scale, what x is multiplied by, and the zero point (None: not affine)."""

    scale: float
    inv: float
    zero: float | None = None


def _scale(bound: float, levels: float) -> float:
    if not _finite(bound):
        return _NAN
    if bound == 0:
        return 1.0
    return max(div(bound, levels), _MIN_SCALE)


def _fit(scale: float) -> OracleFit:
    return OracleFit(scale, div(1.0, scale))


def _largest(numbers: Sequence[float]) -> float:
    if any(math.isnan(x) for x in numbers):
        return _NAN
    return max((abs(x) for x in numbers), default=0.0)


def absmax(numbers: Sequence[float], max_value: float) -> OracleFit:
    """AbsMax over one group."""
    return _fit(_scale(_largest(numbers), max_value))


def sawb(numbers: Sequence[float], c1: float, c2: float, levels: float) -> tuple[float, OracleFit]:
    """(alpha, fit) of SAWB."""
    if not numbers:
        return 0.0, _fit(1.0)
    n = float(len(numbers))
    m2 = div(tree_sum([mul(x, x) for x in numbers]), f32(n))
    m1 = div(tree_sum([abs(x) for x in numbers]), f32(n))
    raw = add(mul(f32(c1), sqrt(m2)), -mul(f32(c2), m1))
    if not raw >= m1:
        raw = add(m1, m1)
    top = _largest(numbers)
    alpha = top if top <= raw else raw
    return alpha, _fit(_scale(alpha, levels))


def pact(alpha: float, levels: float) -> OracleFit:
    """PACT, unsigned or symmetric."""
    return _fit(_scale(alpha if math.isnan(alpha) else max(alpha, _MIN_SCALE), levels))


def minmax(numbers: Sequence[float], qmin: int, qmax: int) -> OracleFit:
    """MinMax on the codes qmin..qmax."""
    if any(math.isnan(x) for x in numbers):
        return OracleFit(_NAN, _NAN, 0.0)
    low, high = min([*numbers, 0.0]), max([*numbers, 0.0])
    scale = _scale(add(high, -low), float(qmax - qmin))
    if math.isnan(scale):
        return OracleFit(scale, scale, 0.0)
    zero = add(float(qmin), -div(low, scale))
    return OracleFit(scale, div(1.0, scale), float(min(max(round(zero), qmin), qmax)))


def mx_block(
    numbers: Sequence[float], max_value: float, exponent: str = "floor", headroom: float = 1.0
) -> OracleFit:
    """The E8M0 scale of one MX block."""
    top = _largest(numbers)
    if not _finite(top):
        return OracleFit(_NAN, _NAN)
    if top == 0:
        power = 0
    elif exponent == "ceil":
        steps = range(-126, 128)
        power = next(e for e in steps if top <= Fraction(max_value) * Fraction(2) ** e)
    else:
        emax = math.frexp(max_value)[1] - 1
        power = min(max(math.frexp(top)[1] - 1 - emax, -126), 127)
    factor = f32(headroom)
    return OracleFit(mul(2.0**power, factor), mul(2.0**-power, div(1.0, factor)))


def nv_blocks(
    blocks: Sequence[Sequence[float]],
    max_value: float,
    e4m3: Format,
    limit: float = 448.0,
    headroom: float = 1.0,
) -> list[OracleFit]:
    """The scales of all blocks of a tensor (or of what shares a global scale) under NV."""
    tops = [_largest(block) for block in blocks]
    reach = max_value / headroom
    whole = _scale(_largest(tops), f32(limit * reach))
    fits = []
    for top in tops:
        if math.isnan(whole):
            fits.append(OracleFit(_NAN, _NAN))
            continue
        wanted = div(div(top, f32(reach)), whole)
        block = decode(encode(min(max(wanted, 2.0**-6), 448.0), e4m3), e4m3)
        fits.append(OracleFit(mul(whole, block), div(div(1.0, whole), block)))
    return fits


def warm_start(statistic: float, max_value: float) -> float:
    """The power of two of GradScale's start, found by trying them all; 1 for no statistic."""
    if not (_finite(statistic) and statistic > 0):
        return 1.0
    exact, top = Fraction(statistic), Fraction(max_value)
    for exponent in range(-126, 127):
        if top / 2 < exact * Fraction(2) ** exponent <= top:
            return 2.0**exponent
    return 2.0**126 if exact * Fraction(2) ** 126 <= top else 2.0**-126


def gradscale_update(scale: float, scaled_max: float, max_value: float) -> float:
    """The x2, / 2, keep rule."""
    if not _finite(scaled_max) or scaled_max == 0:
        return scale
    if scaled_max > max_value:
        return max(scale / 2, 2.0**-126)
    if scaled_max <= max_value / 2:
        return min(scale * 2, 2.0**126)
    return scale


# ---- the composition ----------------------------------------------------------------------------


def quantize(
    numbers: Sequence[float],
    format: Format,
    fit: OracleFit,
    rounding: Rounding | None = None,
    random: Callable[[int], int] | None = None,
) -> tuple[list[int], list[float]]:
    """(codes, dequantised numbers) of one group; `random` gives the 24 bits of an index."""
    codes, back = [], []
    for i, x in enumerate(numbers):
        y = mul(x, fit.inv)
        if fit.zero is not None:
            y = add(y, fit.zero)
        code = encode(y, format, rounding, None if random is None else random(i))
        value = decode(code, format)
        if fit.zero is not None:
            value = value - fit.zero
        codes.append(code)
        back.append(mul(value, fit.scale))
    return codes, back
