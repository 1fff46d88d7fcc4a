"""Counter-based random bits: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as
1, 2, 3", SC 2011; the Random123 library), in torch integer operations on any device.

The 24 random bits of an element are a pure function of (seed, rank, layer, call, operand, element
index): the same for every thread count, backend and recomputation. For element `i` (flat C index):

    key     = (seed mod 2**32, seed div 2**32)
    counter = (b mod 2**32, operand * 2**16 + b div 2**32, call, rank * 2**16 + layer)   b = i div 4
    bits(i) = word[i mod 4] >> 8          where word[0..3] = philox4x32_10(counter, key)

The map from (seed, rank, layer, call, operand, b) to (key, counter) is one to one, so no two
elements share a word. `u = bits * 2**-24` is uniform on [0, 1) and exact in float32. Seed 0 is an
ordinary key: Philox needs no warm-up.

One round, with M0 = 0xD2511F53 and M1 = 0xCD9E8D57:

    (c0, c1, c2, c3) -> (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))

ten times, the key growing by (0x9E3779B9, 0xBB67AE85) between rounds.

Not done here: Gaussian numbers, and cryptographic strength.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nybble.errors import UserError

__all__ = ["RandomKey", "philox4x32", "random24"]

_M0 = 0xD2511F53
_M1 = 0xCD9E8D57
_W0 = 0x9E3779B9
_W1 = 0xBB67AE85
_MASK = 0xFFFFFFFF
_ROUNDS = 10
_CHUNK = 1 << 13  # counters at a time: eight buffers of 64 KB stay in the L2 cache


@dataclass(frozen=True)
class RandomKey:
    """What the random bits of a tensor depend on, besides the element index.

    seed: 64 bits; rank: process of a distributed run, 16 bits; layer: index of the layer, 16 bits;
    call: the layer's counter of training forwards, 32 bits; operand: quantizer slot, 16 bits.

    >>> RandomKey(seed=0, layer=3).counter(0)
    (0, 0, 0, 3)
    """

    seed: int = 0
    rank: int = 0
    layer: int = 0
    call: int = 0
    operand: int = 0

    def __post_init__(self) -> None:
        limits = {"seed": 64, "rank": 16, "layer": 16, "call": 32, "operand": 16}
        for name, bits in limits.items():
            value = getattr(self, name)
            if not 0 <= value < 1 << bits:
                raise UserError(
                    f"RandomKey: {name} must be in [0, 2**{bits}), got {value}; "
                    "take it modulo that range"
                )

    @property
    def key(self) -> tuple[int, int]:
        """The two key words."""
        return self.seed & _MASK, self.seed >> 32

    def counter(self, block: int) -> tuple[int, int, int, int]:
        """The four counter words of `block` = element index div 4."""
        return (
            block & _MASK,
            self.operand << 16 | block >> 32,
            self.call,
            self.rank << 16 | self.layer,
        )


def philox4x32(
    counter: Sequence[Tensor], key: tuple[int, int], rounds: int = _ROUNDS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32 of four int64 tensors of equal shape, each in [0, 2**32); int64 words back.

    >>> zero = torch.zeros(1, dtype=torch.int64)
    >>> [hex(int(word)) for word in philox4x32([zero] * 4, (0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = _rounds(counter, key, rounds)
    return c0, c1 & _MASK, c2, c3 & _MASK


def random24(shape: Sequence[int], key: RandomKey, device: torch.device | str = "cpu") -> Tensor:
    """Uniform integers in [0, 2**24), int32, one for each element of `shape`.

    >>> random24((2, 3), RandomKey(seed=0)).tolist()
    [[6694888, 14772677, 12343212], [10158299, 16311500, 6074880]]
    """
    n = math.prod(shape)
    place = torch.device(device)
    flat = _random24_numpy(n, key) if place.type == "cpu" else _random24_torch(n, key, place)
    return flat.view(tuple(shape))


def _random24_torch(n: int, key: RandomKey, device: torch.device) -> Tensor:
    """The bits by torch operators, on any device; int32 `[n]`."""
    blocks = -(-n // 4)
    out = torch.empty(blocks, 4, dtype=torch.int32, device=device)
    for start in range(0, blocks, _CHUNK):
        stop = min(start + _CHUNK, blocks)
        block = torch.arange(start, stop, dtype=torch.int64, device=device)
        _, operand, call, place = key.counter(0)
        # The constant words stay one element long: the first round broadcasts them.
        counter = [
            block & _MASK,
            (block >> 32) + operand,
            torch.tensor([call], dtype=torch.int64, device=device),
            torch.tensor([place], dtype=torch.int64, device=device),
        ]
        for j, word in enumerate(_rounds(counter, key.key, _ROUNDS)):
            out[start:stop, j] = word.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF)
    return out.view(-1)[:n]


def _random24_numpy(n: int, key: RandomKey) -> Tensor:
    """The same bits in numpy, twice as fast on the CPU: less overhead, and every result is written
    into one of eight buffers that stay in the cache."""
    blocks = -(-n // 4)
    out = np.empty((blocks, 4), dtype=np.int32)
    size = min(blocks, _CHUNK)
    buffers = [np.empty(size, dtype=np.uint64) for _ in range(8)]
    for start in range(0, blocks, _CHUNK):
        m = min(_CHUNK, blocks - start)
        c0, c1, c2, c3, p0, p1, a, b = (buffer[:m] for buffer in buffers)
        _, operand, call, place = key.counter(0)
        block = np.arange(start, start + m, dtype=np.uint64)
        np.bitwise_and(block, _MASK, out=c0)
        np.add(np.right_shift(block, 32, out=c1), operand, out=c1)
        c2.fill(call)
        c3.fill(place)
        k0, k1 = key.key
        for _ in range(_ROUNDS):
            np.multiply(c0, _M0, out=p0)
            np.multiply(c2, _M1, out=p1)
            for product, other, k, word in ((p1, c1, k0, a), (p0, c3, k1, b)):
                np.right_shift(product, 32, out=word)
                np.bitwise_xor(word, other, out=word)
                np.bitwise_xor(word, k, out=word)
                np.bitwise_and(word, _MASK, out=word)
            c0, c1, c2, c3, p0, p1, a, b = a, p1, b, p0, c1, c3, c0, c2
            k0 = (k0 + _W0) & _MASK
            k1 = (k1 + _W1) & _MASK
        for j, word in enumerate((c0, c1, c2, c3)):
            np.right_shift(word, 8, out=word)
            np.bitwise_and(word, 0xFFFFFF, out=word)
            out[start : start + m, j] = word
    return torch.from_numpy(out).view(-1)[:n]


def _rounds(
    counter: Sequence[Tensor], key: tuple[int, int], rounds: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rounds, with dirt above bit 31 of words 1 and 3.

    Those words enter a round by xor alone, so their upper halves may stay dirty until the mask of
    the word they are xored into. An int64 product wraps modulo 2**64; its 64 bits are right, and
    the arithmetic shift's sign bits fall to the same mask.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        p0 = c0 * _M0
        p1 = c2 * _M1
        # Not in place: in the first round a word may be one broadcast element.
        c0 = ((p1 >> 32) ^ (c1 ^ k0)).bitwise_and_(_MASK)
        c2 = ((p0 >> 32) ^ (c3 ^ k1)).bitwise_and_(_MASK)
        c1, c3 = p1, p0
        k0 = (k0 + _W0) & _MASK
        k1 = (k1 + _W1) & _MASK
    return c0, c1, c2, c3
