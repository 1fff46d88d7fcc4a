"""Transforms: what happens to an operand before it is quantised. Here, the block Hadamard.

Along the dimension that a Gemm sums, every block of b = 2^k elements is multiplied by

    R = S H_b / sqrt(b)          H_1 = (1),  H_2b = ((H_b, H_b), (H_b, -H_b)),  S = diag(+-1)

R is orthogonal, so a Gemm whose two operands are both transformed gives the same product, while the
energy of an outlier is spread over its block. Signs that are drawn anew at every call make the
rotated values random; a fixed S is the same for all layers and calls (NVIDIA, arXiv 2509.25149).

    order "consecutive"   block j holds elements j b ... j b + b - 1
    order "strided"       block j holds elements j, j + m, j + 2 m, ... with m = n div b blocks, so
                          that each block spans the whole line

A dimension that b does not divide ends with smaller blocks, by powers of two (n = 50, b = 16: three
blocks of 16 and one of 2), which keeps R orthogonal without padding. With `groups`, the dimension
is that many independent segments, which share their signs: those of a grouped convolution.

The order of operations is part of the definition: signs, then the butterflies (u + v, u - v) of
width 1, 2, 4, ... b / 2, one float32 operation each, then one product with fl(1 / sqrt(b)).

Not done here: other orthogonal matrices, sizes that are no power of two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from nybble.errors import UserError
from nybble.formats.hash_once import hash_once
from nybble.quantizers.random import RandomKey, random24

__all__ = ["Bits", "Hadamard", "fwht"]

Bits = Callable[[int, Sequence[int]], Tensor]
"""`bits(stream, shape)`: integers in [0, 2^24) of one stream of random bits of an operand."""

ELEMENTS, SCALES, SIGNS = range(3)
"""The streams: for rounding elements, for rounding scales, for signs and choices."""

STREAM = 8
"""The `operand` of a random key is the slot plus this times the stream."""

_FIXED = RandomKey(seed=0, rank=0, layer=0, call=0, operand=0xFFFF)


@hash_once
@dataclass(frozen=True)
class Hadamard:
    """The block Hadamard; see the module.

    block: a power of two. signs: "none", "fixed", or "random" (drawn at every call).

    >>> Hadamard(16).short
    'hadamard(16, random)'
    >>> x = torch.arange(8.0)
    >>> turned = Hadamard(4, "none").apply(x, 0)
    >>> turned
    tensor([ 3., -1., -2.,  0., 11., -1., -2.,  0.])
    >>> Hadamard(4, "none").inverse(turned, 0)
    tensor([0., 1., 2., 3., 4., 5., 6., 7.])
    """

    block: int = 16
    signs: Literal["none", "fixed", "random"] = "random"
    order: Literal["consecutive", "strided"] = "consecutive"

    def __post_init__(self) -> None:
        block = self.block
        if isinstance(block, bool) or not isinstance(block, int) or block < 1 or block & block - 1:
            raise UserError(f"Hadamard: block must be a power of two, got {block!r}")
        if self.signs not in ("none", "fixed", "random"):
            raise UserError(f"Hadamard: signs is none, fixed or random, got {self.signs!r}")
        if self.order not in ("consecutive", "strided"):
            raise UserError(f"Hadamard: order is consecutive or strided, got {self.order!r}")

    @property
    def short(self) -> str:
        """A short printable form."""
        tail = "" if self.order == "consecutive" else ", strided"
        return f"hadamard({self.block}, {self.signs}{tail})"

    @classmethod
    def parse(cls, text: str) -> Hadamard | None:
        """The transform whose `short` is `text`; None where there is none.

        >>> Hadamard.parse("hadamard(32, fixed)"), Hadamard.parse("stochastic")
        (Hadamard(block=32, signs='fixed', order='consecutive'), None)
        """
        found = re.fullmatch(r"hadamard\((\d+), (none|fixed|random)(, strided)?\)", text)
        if found is None:
            return None
        order = "strided" if found[3] else "consecutive"
        return cls(int(found[1]), found[2], order)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict; `from_dict` is its inverse."""
        return {"kind": "hadamard", **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Hadamard:
        """The transform of a `to_dict()`.

        >>> Hadamard.from_dict(Hadamard(32).to_dict()) == Hadamard(32)
        True
        """
        values = dict(data)
        if values.pop("kind", None) != "hadamard":
            raise UserError(f"unknown transform {data!r}: there is hadamard")
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"hadamard: {error}") from None

    def apply(self, x: Tensor, axis: int, bits: Bits | None = None, groups: int = 1) -> Tensor:
        """x R along `axis`: float32, the shape of x, no gradient. `bits`: for random signs."""
        return self._turn(x, axis, bits, groups, back=False)

    def inverse(self, x: Tensor, axis: int, bits: Bits | None = None, groups: int = 1) -> Tensor:
        """x R^T along `axis`, with the bits of the `apply` that it undoes."""
        return self._turn(x, axis, bits, groups, back=True)

    def sign_vector(self, size: int, bits: Bits | None, device: torch.device) -> Tensor | None:
        """The diagonal of S: +-1 in float32, one for each of `size` elements; None for "none"."""
        if self.signs == "none":
            return None
        if self.signs == "fixed":
            drawn = random24((self.block,), _FIXED, device)
            drawn = drawn.repeat(-(-size // self.block))[:size]
        elif bits is None:
            raise UserError(f"{self.short} needs random bits: signs='fixed' or 'none' needs none")
        else:
            drawn = bits(SIGNS, (size,))
        return 1.0 - 2.0 * (drawn >> 23).to(torch.float32)

    def _turn(self, x: Tensor, axis: int, bits: Bits | None, groups: int, back: bool) -> Tensor:
        axis = axis % x.dim()
        size = x.shape[axis] // groups
        if size * groups != x.shape[axis]:
            raise UserError(f"Hadamard: {groups} groups do not divide {x.shape[axis]} elements")
        signs = self.sign_vector(size, bits, x.device)
        x = x.detach().to(torch.float32)
        turned = torch.empty_like(x)  # in x's layout, as a convolution wants it
        lines, results = (t.unflatten(axis, (groups, size)) for t in (x, turned))
        start, axis = 0, axis + 1
        for block, count in _blocks(size, self.block):
            cut, place = ((block, count), 0) if self.order == "strided" else ((count, block), 1)
            given, found = (
                # [block, everything else]: the butterflies then read and write whole rows.
                t.narrow(axis, start, block * count).unflatten(axis, cut).movedim(axis + place, 0)
                for t in (lines, results)
            )
            factor: Tensor | None = None
            if signs is not None:
                part = signs[start : start + block * count].view(cut)
                part = part if self.order == "strided" else part.t()
                factor = part.reshape(block, *[1] * axis, count, *[1] * (lines.dim() - axis - 1))
            start += block * count
            work = torch.empty(given.shape, dtype=torch.float32, device=x.device)
            if factor is None or back:
                work.copy_(given)
            else:
                torch.mul(given, factor, out=work)
            work = _butterflies(work.view(block, -1)).view(given.shape)
            if factor is None or not back:
                torch.mul(work, _root(block), out=found)
            else:
                torch.mul(work, factor * _root(block), out=found)
        return turned


def _blocks(size: int, block: int) -> list[tuple[int, int]]:
    """(block size, how many) that cover a line, largest first.

    >>> _blocks(50, 16)
    [(16, 3), (2, 1)]
    """
    found = [(block, size // block)] if size >= block else []
    rest = size % block
    while block > 1:
        block //= 2
        if rest & block:
            found.append((block, 1))
    return found


def fwht(x: Tensor) -> Tensor:
    """H_b x / sqrt(b) for x of shape [b, lines], float32; see the module for the order.

    >>> fwht(torch.tensor([[1.0], [0.0]])).flatten()
    tensor([0.7071, 0.7071])
    """
    return _butterflies(x) * _root(x.shape[0])


def _butterflies(x: Tensor) -> Tensor:
    """H_b x."""
    block, width = x.shape[0], 1
    while width < block:
        pairs = x.reshape(block // (2 * width), 2, width, x.shape[1])
        u, v = pairs[:, 0], pairs[:, 1]
        found = torch.empty_like(pairs)
        torch.add(u, v, out=found[:, 0])
        torch.sub(u, v, out=found[:, 1])
        x = found.view(x.shape)
        width *= 2
    return x


@lru_cache(maxsize=32)
def _root(block: int) -> float:
    """1 / sqrt(block), as float32."""
    return float(torch.tensor(1.0 / math.sqrt(block), dtype=torch.float32))
