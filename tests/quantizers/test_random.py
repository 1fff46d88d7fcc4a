"""Philox: Random123's vectors, the oracle, and the promises made about keys."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.quantizers import RandomKey, oracle, random24
from nybble.quantizers import random as module
from nybble.quantizers.random import philox4x32

ONES = 0xFFFFFFFF
# kat_vectors of the Random123 distribution, philox4x32 with 10 rounds.
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def by_torch(n: int, key: RandomKey) -> torch.Tensor:
    """The path of other devices, on this one."""
    return module._random24_torch(n, key, torch.device("cpu"))


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
def test_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    tensors = [torch.tensor([word], dtype=torch.int64) for word in counter]
    assert tuple(int(word) for word in philox4x32(tensors, key)) == words
    assert oracle.philox(counter, key) == words


words = st.integers(0, ONES)


@given(st.tuples(words, words, words, words), st.tuples(words, words), st.integers(0, 12))
@settings(max_examples=150, deadline=None)
def test_philox_equals_oracle(
    counter: tuple[int, int, int, int], key: tuple[int, int], rounds: int
) -> None:
    tensors = [torch.tensor([word], dtype=torch.int64) for word in counter]
    result = tuple(int(word) for word in philox4x32(tensors, key, rounds))
    assert result == oracle.philox(counter, key, rounds)


KEYS = [
    RandomKey(),
    RandomKey(seed=1),
    RandomKey(seed=2**64 - 1, rank=65535, layer=65535, call=ONES, operand=65535),
    RandomKey(seed=0x123456789ABCDEF0, rank=3, layer=17, call=123456, operand=5),
]


@pytest.mark.parametrize("key", KEYS)
def test_random24_equals_oracle(key: RandomKey) -> None:
    for n in (0, 1, 2, 3, 4, 5, 63, 500):
        expected = [oracle.random24(i, key) for i in range(n)]
        result = random24((n,), key)
        assert result.dtype == torch.int32
        assert result.tolist() == expected
        assert by_torch(n, key).tolist() == expected


@pytest.mark.parametrize("key", KEYS)
def test_both_paths_agree_beyond_a_chunk(key: RandomKey) -> None:
    n = 4 * module._CHUNK * 2 + 7
    result = random24((n,), key)
    assert torch.equal(result, by_torch(n, key))
    for i in (4 * module._CHUNK - 1, 4 * module._CHUNK, n - 1):
        assert int(result[i]) == oracle.random24(i, key)


def test_block_indices_beyond_32_bits_enter_the_second_word() -> None:
    key = RandomKey(operand=7)
    index = 5 << 34
    assert key.counter(index // 4) == (0, (7 << 16) + 5, 0, 0)
    assert oracle.random24(index, key) != oracle.random24(0, key)


def test_an_element_depends_on_its_flat_index_only() -> None:
    key = RandomKey(seed=3, layer=2)
    flat = random24((2 * 3 * 35,), key)
    assert torch.equal(random24((2, 3, 35), key).view(-1), flat)
    assert torch.equal(random24((100,), key), flat[:100])
    assert random24((), key).shape == ()
    assert int(random24((), key)) == int(flat[0])
    assert random24((3, 0), key).shape == (3, 0)


@pytest.mark.parametrize("field", ["seed", "rank", "layer", "call", "operand"])
def test_every_field_of_the_key_changes_the_bits(field: str) -> None:
    first = random24((64,), RandomKey())
    second = random24((64,), RandomKey(**{field: 1}))
    assert not torch.equal(first, second)
    # Not a shifted stream either.
    assert len(set(first.tolist()) & set(second.tolist())) <= 2


def test_fields_do_not_collide() -> None:
    counters = {
        (key.key, key.counter(block))
        for key in (
            RandomKey(),
            RandomKey(rank=1),
            RandomKey(layer=1),
            RandomKey(call=1),
            RandomKey(operand=1),
            RandomKey(seed=1),
            RandomKey(seed=1 << 32),
        )
        for block in (0, 1, 1 << 32)
    }
    assert len(counters) == 7 * 3


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_bits_are_uniform(seed: int) -> None:
    n = 1 << 18
    bits = random24((n,), RandomKey(seed=seed))
    assert int(bits.min()) >= 0
    assert int(bits.max()) < 1 << 24
    u = bits.double() * 2.0**-24
    # 5 standard deviations of the mean of n uniforms.
    assert abs(float(u.mean()) - 0.5) < 5 * math.sqrt(1 / 12 / n)
    counts = torch.bincount(bits >> 16, minlength=256).double()
    chi2 = float(((counts - n / 256) ** 2 / (n / 256)).sum())
    # Chi-square with 255 degrees of freedom: 255 +- 6 standard deviations.
    assert abs(chi2 - 255) < 6 * math.sqrt(2 * 255)
    # Neighbours are not correlated.
    v = u - 0.5
    assert abs(float((v[1:] * v[:-1]).mean())) < 6 / 12 / math.sqrt(n)


@pytest.mark.parametrize(
    "values",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"rank": 65536},
        {"layer": -1},
        {"call": 2**32},
        {"operand": 65536},
    ],
)
def test_keys_out_of_range_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        RandomKey(**values)
