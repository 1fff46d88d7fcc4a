"""The pool: no two live tensors share memory, freed memory is used again, any thread may free."""

from __future__ import annotations

import gc
import random
import threading
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import nybble
from nybble.ops import native
from nybble.ops.native import pool

CORE, MISSING = native.core()
pytestmark = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")
MB = 1 << 20


def draw(random_: random.Random) -> Tensor:
    """A tensor of one of the three kinds, between 0.3 and 3 MB."""
    count = random_.randrange(3 * MB // 10, 3 * MB)
    kind = random_.randrange(3)
    return pool.kept(count) if kind == 0 else pool.result((count // 4,), lasting=kind == 1)


def test_live_tensors_do_not_overlap_and_keep_their_content() -> None:
    random_ = random.Random(0)
    live: list[tuple[Tensor, int]] = []
    for step in range(400):
        if live and random_.random() < 0.48:
            x, value = live.pop(random_.randrange(len(live)))
            assert bool((x == value).all())
            del x
        else:
            x = draw(random_)
            assert x.data_ptr() % 64 == 0
            live.append((x.fill_(step % 200), step % 200))
    spans = sorted((x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()) for x, _ in live)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert all(bool((x == value).all()) for x, value in live)


def test_freed_memory_is_used_again_and_given_back() -> None:
    gc.collect()
    nybble.empty_cache()
    before = pool.pool_use()
    first = pool.result((MB,))
    assert pool.pool_use()["taken"] == before["taken"] + 4 * MB
    mapped = pool.pool_use()["mapped"]
    del first
    for _ in range(100):
        pool.result((MB,)).fill_(1.0)
    assert pool.pool_use()["mapped"] == mapped
    assert nybble.empty_cache() >= 4 * MB
    assert pool.pool_use()["mapped"] < mapped
    assert pool.pool_use()["taken"] == before["taken"]


def test_neighbours_are_joined() -> None:
    """Four pieces that were taken one by one make room for one that is as large as all."""
    gc.collect()
    nybble.empty_cache()
    pieces = [pool.result((MB,)) for _ in range(4)]
    mapped = pool.pool_use()["mapped"]
    for i in (2, 0, 3, 1):
        pieces[i] = torch.empty(0)
    whole = pool.result((4 * MB,))
    assert pool.pool_use()["mapped"] == mapped
    assert whole.numel() == 4 * MB


def test_layouts() -> None:
    x = torch.zeros(8, 64, 32, 32).to(memory_format=torch.channels_last)
    y = pool.result_like(x)
    assert y.stride() == x.stride() and y.shape == x.shape and not y._is_view()
    z = pool.result((8, 64, 32, 32))
    assert z.is_contiguous() and z.dtype is torch.float32
    small = pool.result((3,))
    assert small.shape == (3,)


def test_threads_take_and_free() -> None:
    errors: list[str] = []

    def work(seed: int) -> None:
        random_ = random.Random(seed)
        for step in range(100):
            x = draw(random_).fill_(seed)
            if not bool((x == seed).all()):
                errors.append(f"thread {seed}, step {step}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_wrong_requests_end_in_an_error() -> None:
    assert CORE is not None
    for shape, strides, dtype in (
        ([0], [1], "float32"),
        ([4], [-1], "float32"),
        ([4], [1, 1], "float32"),
        ([4], [1], "float64"),
        ([2**62, 2**62], [1, 1], "uint8"),
    ):
        with pytest.raises(ValueError, match="take"):
            CORE.take(shape, strides, dtype, "kept")
    with pytest.raises((MemoryError, ValueError)):
        CORE.take([2**45], [1], "uint8", "kept")
