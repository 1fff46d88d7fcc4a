"""The oracle of the block and row scales that came after 2020: plain Python, number by number.

It continues oracle.py, with its float32 operations, and is written from the formulas in the
docstrings of scales/*.py; nothing is shared with the torch code. A group is a sequence of floats,
and a function gives the `OracleFit` of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from nybble.formats import Format, Stochastic, get_format
from nybble.formats.oracle import decode, encode
from nybble.quantizers.oracle import (
    OracleFit,
    absmax,
    add,
    div,
    f32,
    mul,
    nv_blocks,
    quantize,
    sqrt,
    tree_sum,
)

__all__ = [
    "best_of_two",
    "eden",
    "four_over_six",
    "keep_probabilities",
    "lsq_gradient",
    "mean_square",
    "quest",
    "row_least_squares",
]

Block = Sequence[float]


def mean_square(numbers: Block) -> float:
    """fl(tree_sum(x * x) / n); 0 for no numbers."""
    if not numbers:
        return 0.0
    return div(tree_sum([mul(x, x) for x in numbers]), f32(float(len(numbers))))


def errors(numbers: Block, format: Format, fit: OracleFit) -> list[float]:
    """What nearest rounding leaves of each number."""
    _, back = quantize(numbers, format, fit)
    return [add(b, -x) for b, x in zip(back, numbers, strict=True)]


def squared_error(numbers: Block, format: Format, fit: OracleFit) -> float:
    """Sum of squared errors of nearest rounding, in the order of sums.py."""
    return tree_sum([mul(d, d) for d in errors(numbers, format, fit)])


def largest(numbers: Block, format: Format) -> OracleFit:
    """AbsMax over one group, except that zeros stay (almost) zeros on a format without a zero."""
    if any(numbers) or 0.0 in format.values():
        return absmax(numbers, format.max_value)
    return OracleFit(2.0**-126, 2.0**126) if numbers else OracleFit(1.0, 1.0)


def best_of_two(numbers: Block, format: Format, unit: float) -> OracleFit:
    """BestOfTwo over one group."""
    top = largest(numbers, format)
    size = sqrt(mean_square(numbers))
    scale = 1.0 if size == 0 else mul(f32(unit), size)
    other = OracleFit(scale, div(1.0, scale))
    if squared_error(numbers, format, other) < squared_error(numbers, format, top):
        return other
    return top


def quest(numbers: Block, levels: float, clip: float, exponent: str) -> OracleFit:
    """Quest over one block."""
    m2 = mean_square(numbers)
    if m2 == 0:
        return OracleFit(1.0, 1.0)
    r = mul(f32(clip / levels), sqrt(m2))
    if not r < float("inf"):
        return OracleFit(float("nan"), float("nan"))
    # 2^(e - 1/2) <= r < 2^(e + 1/2), squared so that it is exact; without the halves for "floor".
    half = 1 if exponent == "nearest" else 0
    square, two = Fraction(r) ** 2, Fraction(2)
    e = next(e for e in range(-126, 128) if square < two ** (2 * e + 2 - half))
    return OracleFit(2.0**e, 2.0**-e)


def four_over_six(blocks: Sequence[Block], format: Format, error: str) -> list[OracleFit]:
    """Four Over Six over all blocks of a tensor."""
    e4m3 = get_format("fp8_e4m3")
    tops = [max((abs(x) for x in block), default=0.0) for block in blocks]
    largest = max(tops, default=0.0)
    whole = 1.0 if largest == 0 else max(div(largest, 1536.0), 2.0**-126)
    found = []
    for block, top in zip(blocks, tops, strict=True):
        wanted = div(div(top, 6.0), whole)
        tried = []
        for size in (wanted, mul(wanted, 1.5)):
            b = decode(encode(min(max(size, 2.0**-6), 448.0), e4m3), e4m3)
            fit = OracleFit(mul(whole, b), div(div(1.0, whole), b))
            left = errors(block, format, fit)
            sums = {
                "mse": tree_sum([mul(d, d) for d in left]),
                "mae": tree_sum([abs(d) for d in left]),
                "absmax": max((abs(d) for d in left), default=0.0),
            }
            tried.append((fit, sums[error]))
        (six, error6), (four, error4) = tried
        found.append(four if error4 < error6 else six)
    return found


def correction(numbers: Block, back: Block) -> float:
    """EDEN's factor: <x, x> / <x, y>, 1 where that divides by 0."""
    products = tree_sum([mul(x, y) for x, y in zip(numbers, back, strict=True)])
    return 1.0 if products == 0 else div(tree_sum([mul(x, x) for x in numbers]), products)


def eden(
    groups: Sequence[Sequence[Block]], format: Format, random: Callable[[int], int]
) -> list[tuple[list[int], float]]:
    """(codes, scale) of every block of MS-EDEN; a group is the blocks that share a correction, and
    `random` gives the 24 bits of a block."""
    e4m3 = get_format("fp8_e4m3")
    blocks = [block for group in groups for block in group]
    headroom = 17 / 16 * 0.93
    fits = nv_blocks(blocks, format.max_value, e4m3, 255.99, headroom)
    largest = max((abs(x) for block in blocks for x in block), default=0.0)
    bound = f32(255.99 * (format.max_value / headroom))
    whole = 1.0 if largest == 0 else max(div(largest, bound), 2.0**-126)
    found: list[tuple[list[int], float]] = []
    for group in groups:
        start = len(found)
        rounded = [quantize(b, format, fits[start + i]) for i, b in enumerate(group)]
        unit = 2.0 ** -math.frexp(whole)[1]  # of about the scale, lest squares overflow
        c = correction(
            [mul(x, unit) for b in group for x in b],
            [mul(y, unit) for _, back in rounded for y in back],
        )
        for i, (codes, _) in enumerate(rounded):
            fit = fits[start + i]
            # The E4M3 number of the fit: the only one that gives this scale.
            b = next(v for v in e4m3.values() if v > 0 and mul(whole, v) == fit.scale)
            code = encode(mul(b, c), e4m3, Stochastic(), random(start + i))
            found.append((codes, mul(whole, decode(code, e4m3))))
    return found


def row_least_squares(numbers: Block, format: Format, unit: float) -> OracleFit:
    """RowLeastSquares over one group."""
    m2 = mean_square(numbers)
    if not 0 < m2 < float("inf"):
        return largest(numbers, format)
    scale = mul(f32(unit), sqrt(m2))
    fit = OracleFit(scale, div(1.0, scale))
    _, back = quantize(numbers, format, fit)
    return OracleFit(mul(scale, correction(numbers, back)), fit.inv)


def lsq_gradient(
    numbers: Block, step: float, grads: Block, format: Format, low: float, high: float
) -> tuple[list[float], float]:
    """(dx, dstep) of LSQ."""
    fit = OracleFit(max(step, 2.0**-126), div(1.0, max(step, 2.0**-126)))
    dx, terms = [], []
    for x, g in zip(numbers, grads, strict=True):
        v = mul(x, fit.inv)
        if low < v < high:
            dx.append(g)
            terms.append(add(decode(encode(v, format), format), -v))
        else:
            dx.append(0.0)
            terms.append(low if v <= low else high)
    products = [mul(g, t) for g, t in zip(grads, terms, strict=True)]
    return dx, mul(tree_sum(products), f32((len(numbers) * high) ** -0.5))


def keep_probabilities(scores: Block, budget: float) -> list[Fraction]:
    """min(1, t * score) with the sum `budget`, exactly, by trying how many are clipped."""
    exact = [Fraction(s) for s in scores]
    order = sorted(exact, reverse=True)
    for clipped in range(len(order)):
        rest = sum(order[clipped:])
        if rest == 0:
            break
        t = (Fraction(budget) - clipped) / rest
        if t > 0 and t * order[clipped] <= 1:
            return [min(Fraction(1), t * s) for s in exact]
    return [Fraction(s > 0) for s in exact]
