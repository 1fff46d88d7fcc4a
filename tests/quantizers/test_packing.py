"""Packing: every byte, every length around a block, and the oracle's layout."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.quantizers import oracle
from nybble.quantizers.packing import (
    pack4,
    pack_bits,
    pack_codes,
    packed_bytes,
    packed_bytes_bits,
    unpack4,
    unpack_bits,
    unpack_codes,
)

LENGTHS = [0, 1, 2, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 1000, 4096]


def codes_of(n: int, bits: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1 << bits, (n,), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("n", LENGTHS)
def test_pack4_equals_oracle(n: int) -> None:
    codes = codes_of(n)
    packed = pack4(codes)
    assert packed.dtype == torch.uint8
    assert bytes(packed.tolist()) == oracle.pack4(codes.tolist())
    assert torch.equal(unpack4(packed, n), codes)


def test_every_byte_in_every_place_survives_unpacking_and_packing() -> None:
    # Each of the 32 places of a block sees all 256 bytes.
    packed = torch.tensor(
        [(place + shift) % 256 for shift in range(256) for place in range(32)], dtype=torch.uint8
    )
    n = packed.numel() * 2
    codes = unpack4(packed, n)
    assert int(codes.max()) == 15
    assert torch.equal(pack4(codes), packed)


def test_every_pair_of_codes_in_every_place() -> None:
    for low, high in itertools.product(range(16), repeat=2):
        block = torch.zeros(64, dtype=torch.uint8)
        place = (low * 16 + high) % 32
        block[place], block[place + 32] = low, high
        packed = pack4(block)
        assert packed[place] == low | high << 4
        assert int((packed != 0).sum()) <= 1
        assert torch.equal(unpack4(packed, 64), block)


def test_the_last_block_is_filled_with_zeros() -> None:
    packed = pack4(torch.full((65,), 15, dtype=torch.uint8))
    assert packed.tolist() == [255] * 32 + [15] + [0] * 31


@pytest.mark.parametrize("offset", range(9))
def test_views_that_start_off_a_word(offset: int) -> None:
    codes = codes_of(300)[offset:]
    packed = pack4(codes)
    assert bytes(packed.tolist()) == oracle.pack4(codes.tolist())
    shifted = torch.cat([torch.zeros(offset, dtype=torch.uint8), packed])[offset:]
    assert torch.equal(unpack4(shifted, codes.numel()), codes)
    mask = codes > 7
    bits = pack_bits(mask)
    shifted = torch.cat([torch.zeros(offset, dtype=torch.uint8), bits])[offset:]
    assert torch.equal(unpack_bits(shifted, codes.numel()), mask)


def test_other_layouts_are_read_in_c_order_and_left_alone() -> None:
    codes = codes_of(12 * 10).view(12, 10)
    before = codes.clone()
    assert torch.equal(pack4(codes.T), pack4(codes.T.contiguous()))
    assert torch.equal(codes, before)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("n", [0, 1, 64, 65, 200])
def test_pack_codes_of_every_width(bits: int, n: int) -> None:
    codes = codes_of(n, bits)
    packed = pack_codes(codes, bits)
    assert packed.numel() == packed_bytes(n, bits) == (n if bits > 4 else -(-n // 64) * 32)
    assert torch.equal(unpack_codes(packed, n, bits), codes)


@pytest.mark.parametrize("bits", [9, 12, 16])
def test_wide_codes_take_two_bytes_low_byte_first(bits: int) -> None:
    codes = torch.tensor([0, 1, 255, 256, (1 << bits) - 1], dtype=torch.int32)
    packed = pack_codes(codes, bits)
    assert packed.tolist() == list(codes.numpy().astype("<u2").tobytes())
    assert packed.numel() == packed_bytes(5, bits)
    back = unpack_codes(packed, 5, bits)
    assert back.dtype == torch.int32
    assert torch.equal(back, codes)
    odd = torch.cat([torch.zeros(1, dtype=torch.uint8), packed])[1:]
    assert torch.equal(unpack_codes(odd, 5, bits), codes)


def test_every_byte_of_mask_bits_equals_numpy() -> None:
    packed = torch.arange(256, dtype=torch.uint8)
    bits = unpack_bits(packed, 2048)
    assert bits.dtype == torch.bool
    assert np.array_equal(bits.numpy(), np.unpackbits(packed.numpy(), bitorder="little"))
    assert torch.equal(pack_bits(bits), packed)


@given(st.lists(st.booleans(), max_size=200))
@settings(max_examples=60, deadline=None)
def test_mask_bits_of_any_length_equal_numpy(bits: list[bool]) -> None:
    mask = torch.tensor(bits, dtype=torch.bool)
    packed = pack_bits(mask)
    assert packed.numel() == packed_bytes_bits(len(bits))
    assert np.array_equal(packed.numpy(), np.packbits(mask.numpy(), bitorder="little"))
    assert torch.equal(unpack_bits(packed, len(bits)), mask)


@given(st.lists(st.integers(0, 15), max_size=300))
@settings(max_examples=60, deadline=None)
def test_codes_of_any_length_survive(codes: list[int]) -> None:
    tensor = torch.tensor(codes, dtype=torch.uint8)
    packed = pack4(tensor)
    assert bytes(packed.tolist()) == oracle.pack4(codes)
    assert torch.equal(unpack4(packed, len(codes)), tensor)


def test_mask_of_any_shape() -> None:
    mask = codes_of(30).view(5, 6) > 7
    assert torch.equal(unpack_bits(pack_bits(mask.T), 30).view(6, 5), mask.T)


@pytest.mark.parametrize(
    "call",
    [
        lambda: pack4(torch.zeros(3, dtype=torch.int64)),
        lambda: pack_bits(torch.zeros(3, dtype=torch.uint8)),
        lambda: unpack4(torch.zeros(32, dtype=torch.uint8), 65),
        lambda: unpack4(torch.zeros(32, dtype=torch.uint8), -1),
        lambda: unpack4(torch.zeros(32, dtype=torch.int8), 3),
        lambda: unpack_bits(torch.zeros(2, dtype=torch.uint8), 17),
        lambda: unpack_codes(torch.zeros(2, dtype=torch.uint8), 3, 8),
        lambda: pack_codes(torch.zeros(2, dtype=torch.uint8), 1),
        lambda: pack_codes(torch.zeros(2, dtype=torch.uint8), 17),
        lambda: pack_codes(torch.zeros(2, dtype=torch.uint8), 16),
        lambda: packed_bytes(1, 1),
    ],
)
def test_wrong_input_is_a_user_error(call: object) -> None:
    with pytest.raises(UserError):
        call()  # type: ignore[operator]
