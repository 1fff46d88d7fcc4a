"""Packing of codes and mask bits into bytes.

Codes of 2 to 4 bits: two to a byte, in blocks of 64 codes (flat C order). Byte `i` of a block holds
code `i` in its low half and code `i + 32` in its high half:

    byte[32 * b + i] = code[64 * b + i] | code[64 * b + i + 32] << 4        0 <= i < 32

The last block is filled up with code 0, so `n` codes take `32 * ceil(n / 64)` bytes. This is the
order a SIMD kernel wants: one 32-byte load, one mask and one shift give 64 codes in order.
Codes of 5 to 8 bits: one to a byte, unchanged. Codes of 9 to 16 bits: two bytes, low byte first.
Bits: eight to a byte, lowest bit first, `ceil(n / 8)` bytes, filled up with 0 (the order of
`numpy.packbits(..., bitorder="little")`).

The torch code below works on eight bytes at a time through int64 views, so it assumes a
little-endian machine (every machine torch ships for); it is checked once on import.
Measured on one Zen 3 thread, 2**20 elements, ns an element: pack4 0.11, unpack4 0.22,
pack_bits 0.14, unpack_bits 0.11.

Not done here: bit-tight packing of 2 and 3 bit codes (they take half a byte like 4 bit codes).
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from nybble.errors import NybbleError, UserError

__all__ = [
    "BLOCK",
    "pack4",
    "pack_bits",
    "pack_codes",
    "packed_bytes",
    "packed_bytes_bits",
    "unpack4",
    "unpack_bits",
    "unpack_codes",
]

if sys.byteorder != "little":  # pragma: no cover - no such machine among torch's wheels
    raise NybbleError("nybble packs codes through 64-bit words and needs a little-endian machine")

BLOCK = 64
"""Codes in a packing block; a block takes `BLOCK // 2` bytes."""

_LOW_NIBBLES = 0x0F0F0F0F0F0F0F0F
# Bytes b0..b7 (each 0 or 1) times this constant leave b0 | b1 << 1 | ... | b7 << 7 in the top byte:
# the partial products that reach byte 7 land on eight different bits, and no carry arrives there.
_GATHER_BITS = 0x0102040810204080


def packed_bytes(n: int, bits: int) -> int:
    """Bytes that `n` codes of `bits` bits take.

    >>> packed_bytes(1, 4), packed_bytes(64, 4), packed_bytes(65, 3), packed_bytes(10, 8)
    (32, 32, 64, 10)
    """
    _check_bits(bits)
    if bits > 4:
        return n if bits <= 8 else 2 * n
    return (n + BLOCK - 1) // BLOCK * (BLOCK // 2)


def packed_bytes_bits(n: int) -> int:
    """Bytes that `n` mask bits take.

    >>> packed_bytes_bits(0), packed_bytes_bits(9)
    (0, 2)
    """
    return (n + 7) // 8


def pack4(codes: Tensor) -> Tensor:
    """Pack codes 0..15 two to a byte.

    `codes`: uint8, any shape, read in flat C order; values above 15 are not checked (that would
    cost a pass) and spoil their neighbour. Returns uint8 `[32 * ceil(n / 64)]`.
    Raises UserError when `codes` is not uint8.

    >>> packed = pack4(torch.tensor([1, 2, 3], dtype=torch.uint8))
    >>> packed.shape, packed[:3].tolist()
    (torch.Size([32]), [1, 2, 3])
    """
    flat = _flat_bytes(codes, "pack4")
    n = flat.numel()
    out = torch.empty(packed_bytes(n, 4), dtype=torch.uint8, device=flat.device)
    whole = n // BLOCK
    if whole:
        words = _words(flat[: whole * BLOCK]).view(whole, 8)
        # The high nibbles of every byte are 0, so a shift of the 64-bit word crosses no byte.
        high = words[:, 4:] << 4
        torch.bitwise_or(
            words[:, :4],
            high,
            out=out[: whole * (BLOCK // 2)].view(torch.int64).view(whole, 4),
        )
    if n > whole * BLOCK:
        tail = torch.zeros(BLOCK, dtype=torch.uint8, device=flat.device)
        tail[: n - whole * BLOCK] = flat[whole * BLOCK :]
        torch.bitwise_or(tail[:32], tail[32:] << 4, out=out[whole * (BLOCK // 2) :])
    return out


def unpack4(packed: Tensor, n: int) -> Tensor:
    """The `n` codes of `pack4`: uint8 `[n]`, each 0..15.

    Raises UserError when `packed` is not uint8 or its length does not belong to `n`.

    >>> unpack4(pack4(torch.arange(5, dtype=torch.uint8)), 5).tolist()
    [0, 1, 2, 3, 4]
    """
    flat = _flat_bytes(packed, "unpack4")
    _check_length("unpack4", flat.numel(), packed_bytes(n, 4), n)
    blocks = flat.numel() // (BLOCK // 2)
    words = _words(flat).view(blocks, 4)
    out = torch.empty(blocks, 2, 4, dtype=torch.int64, device=flat.device)
    torch.bitwise_and(words, _LOW_NIBBLES, out=out[:, 0])
    # int64 shifts arithmetically: the sign bits that enter from above are masked away.
    torch.bitwise_right_shift(words, 4, out=out[:, 1])
    out[:, 1].bitwise_and_(_LOW_NIBBLES)
    return out.view(-1).view(torch.uint8)[:n]


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack codes of a format of `bits` bits, as its `encode` gives them: uint8 up to 8 bits, int32
    above. Flat uint8: `pack4` up to 4 bits, one byte a code up to 8, two bytes up to 16.

    >>> pack_codes(torch.tensor([[200, 3]], dtype=torch.uint8), 8).tolist()
    [200, 3]
    >>> pack_codes(torch.tensor([0x1234, 0xFFFF], dtype=torch.int32), 16).tolist()
    [52, 18, 255, 255]
    """
    _check_bits(bits)
    if bits <= 8:
        return pack4(codes) if bits <= 4 else _flat_bytes(codes, "pack_codes")
    if codes.dtype is not torch.int32:
        raise UserError(f"pack_codes: codes of {bits} bits are int32, got {codes.dtype}")
    return codes.contiguous().view(-1).to(torch.int16).view(torch.uint8)


def unpack_codes(packed: Tensor, n: int, bits: int) -> Tensor:
    """The `n` codes of `pack_codes`: `[n]`, uint8 up to 8 bits, int32 above.

    >>> unpack_codes(torch.tensor([200, 3], dtype=torch.uint8), 2, 8).tolist()
    [200, 3]
    """
    _check_bits(bits)
    if bits <= 4:
        return unpack4(packed, n)
    flat = _flat_bytes(packed, "unpack_codes")
    _check_length("unpack_codes", flat.numel(), packed_bytes(n, bits), n)
    if bits <= 8:
        return flat
    if flat.storage_offset() % 2:
        flat = flat.clone()
    return flat.view(torch.int16).to(torch.int32).bitwise_and_(0xFFFF)


def pack_bits(mask: Tensor) -> Tensor:
    """Pack a boolean tensor (any shape, flat C order) eight to a byte, lowest bit first.

    Returns uint8 `[ceil(n / 8)]`. Raises UserError when `mask` is not boolean.

    >>> pack_bits(torch.tensor([True, False, True])).tolist()
    [5]
    """
    if mask.dtype is not torch.bool:
        raise UserError(f"pack_bits: expected a boolean tensor, got {mask.dtype}; compare first")
    flat = mask.contiguous().view(-1)
    n = flat.numel()
    if n % 8:
        padded = torch.zeros(packed_bytes_bits(n) * 8, dtype=torch.bool, device=flat.device)
        padded[:n] = flat
        flat = padded
    # The wanted byte is the top one of each product (little-endian: index 7).
    products = _words(flat) * _GATHER_BITS
    return products.view(torch.uint8).view(-1, 8)[:, 7].contiguous()


def unpack_bits(packed: Tensor, n: int) -> Tensor:
    """The `n` bits of `pack_bits`: boolean `[n]`.

    >>> unpack_bits(torch.tensor([5], dtype=torch.uint8), 3).tolist()
    [True, False, True]
    """
    flat = _flat_bytes(packed, "unpack_bits")
    _check_length("unpack_bits", flat.numel(), packed_bytes_bits(n), n)
    table = _bit_table(flat.device)
    words = torch.index_select(table, 0, flat.to(torch.int32))
    return words.view(torch.bool)[:n]


_BIT_TABLES: dict[torch.device, Tensor] = {}


def _bit_table(device: torch.device) -> Tensor:
    """256 words: byte `b` spread to eight bytes of 0 or 1, lowest bit first."""
    table = _BIT_TABLES.get(device)
    if table is None:
        bits = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
        table = bits.to(torch.uint8).contiguous().view(torch.int64).view(-1).to(device)
        _BIT_TABLES[device] = table
    return table


def _flat_bytes(codes: Tensor, who: str) -> Tensor:
    if codes.dtype is not torch.uint8:
        raise UserError(f"{who}: expected uint8 codes, got {codes.dtype}; use .to(torch.uint8)")
    return codes.contiguous().view(-1)


def _words(flat: Tensor) -> Tensor:
    """int64 view of a flat one-byte tensor; copies when the storage does not start on a word."""
    if flat.storage_offset() % 8:
        flat = flat.clone()
    return flat.view(torch.int64)


def _check_bits(bits: int) -> None:
    if not 2 <= bits <= 16:
        raise UserError(f"packing: codes have 2 to 16 bits, got {bits}")


def _check_length(who: str, got: int, want: int, n: int) -> None:
    if n < 0 or got != want:
        raise UserError(f"{who}: {n} elements take {want} bytes, got {got}; pass the packed length")
