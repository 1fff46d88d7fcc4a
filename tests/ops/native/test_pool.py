"""The pool: no two live tensors share memory, freed memory is used again, any thread may free."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
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


def is_plain() -> bool:
    """Whether every block is one of malloc's, as in a build with sanitizers."""
    if CORE is None:
        return True
    pool.result((MB,))
    return nybble.empty_cache() == 0


pooled = pytest.mark.skipif(is_plain(), reason="a build with sanitizers has no pool")


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


@pooled
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


@pooled
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


@pooled
def test_free_pieces_are_joined_by_moving_their_pages() -> None:
    """Between blocks that stay, no free piece is large enough; together they are."""
    gc.collect()
    nybble.empty_cache()
    pieces = [pool.result((MB,)).fill_(float(i)) for i in range(16)]
    kept = pieces[::2]
    pieces.clear()  # eight holes of 4 MB
    before = pool.pool_use()
    whole = pool.result((8 * MB,)).fill_(-1.0)
    after = pool.pool_use()
    if sys.platform == "linux":
        assert after["moved"] - before["moved"] == 32 * MB
        assert after["mapped"] == before["mapped"]
    assert all(bool((x == 2.0 * i).all()) for i, x in enumerate(kept))
    assert bool((whole == -1.0).all())
    # A part of what was moved, and moved again.
    del whole
    quarters = [pool.result((2 * MB,)).fill_(5.0) for _ in range(4)]
    del quarters[1], quarters[2]
    again = pool.result((4 * MB - 1024,)).fill_(6.0)
    assert bool((again == 6.0).all()) and all(bool((x == 5.0).all()) for x in quarters)
    assert all(bool((x == 2.0 * i).all()) for i, x in enumerate(kept))


@pooled
def test_hollow_takes_the_memory_and_leaves_the_tensor() -> None:
    gc.collect()
    nybble.empty_cache()
    x = pool.result((4 * MB,)).fill_(1.0)
    before = pool.pool_use()
    pool.hollow_(x)
    pool.hollow_(x)  # once is enough
    if sys.platform == "linux":
        assert pool.pool_use()["taken"] == before["taken"] - 16 * MB
        assert bool((x == 0.0).all())
    y = pool.result((4 * MB,)).fill_(2.0)
    assert pool.pool_use()["mapped"] == before["mapped"]
    x.fill_(3.0)  # nobody does that, but it must not hurt
    assert bool((y == 2.0).all())
    del x
    assert bool((y == 2.0).all())
    taken = pool.pool_use()["taken"]
    del y
    assert pool.pool_use()["taken"] == taken - 16 * MB
    assert nybble.empty_cache() >= 16 * MB


def test_hollow_leaves_what_is_no_block() -> None:
    own = torch.ones(MB)
    pool.hollow_(own)
    block = pool.result((2 * MB,)).fill_(1.0)
    pool.hollow_(block[1:])
    assert bool((own == 1.0).all()) and bool((block == 1.0).all())


def test_random_use_with_little_memory() -> None:
    """Joining and hollowing, in any order, change no tensor that is alive."""
    random_ = random.Random(1)
    live: list[tuple[Tensor, int]] = []
    for step in range(600):
        kind = random_.random()
        if live and kind < 0.45:
            x, value = live.pop(random_.randrange(len(live)))
            assert bool((x == value).all())
            if kind < 0.1:
                pool.hollow_(x)
            del x
        else:
            size = random_.choice([MB // 8, MB // 3, MB, 3 * MB + 77])
            x = pool.result((size,)) if kind < 0.8 else pool.kept(size)
            live.append((x.fill_(step % 100), step % 100))
        if step % 150 == 149:
            nybble.empty_cache()
    assert all(bool((x == value).all()) for x, value in live)


CAPPED = """
import resource
import torch
from nybble.ops.native import pool

MB = 1 << 20
warm = torch.zeros(1)
pieces = [pool.result((MB,)).fill_(float(i)) for i in range(8)]
kept = pieces[::2]
pieces.clear()
data = next(int(line.split()[1]) for line in open("/proc/self/status") if "VmData" in line)
hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
resource.setrlimit(resource.RLIMIT_DATA, ((data << 10) + 6 * MB, hard))
whole = pool.result((3 * MB,)).fill_(-1.0)  # 12 MB, out of holes of 4
try:
    pool.result((16 * MB,))
except MemoryError:
    pass
else:
    raise SystemExit("64 MB were found")
pool.hollow_(whole)  # the old addresses count, so at most a part of it can be moved
again = pool.result((MB // 2,)).fill_(-2.0)
resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
assert all(bool((x == 2.0 * i).all()) for i, x in enumerate(kept))
assert bool((again == -2.0).all())
print("held")
"""


@pooled
@pytest.mark.skipif(sys.platform != "linux", reason="a limit on data is Linux's")
def test_joining_needs_no_memory_of_its_own() -> None:
    """Under a limit: what is moved does not count twice, and a request that cannot be met is an
    error that leaves the pool whole."""
    done = subprocess.run([sys.executable, "-c", CAPPED], capture_output=True, text=True)
    assert done.stdout == "held\n", done.stderr
