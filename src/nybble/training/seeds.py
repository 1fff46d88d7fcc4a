"""Seeds as pure functions of (seed, purpose, position).

    derive(seed, purpose, *position) = the first 63 bits of
                                       SHA-256("nybble/<seed>/<purpose>/<position>/...")

Every random choice of a run (initial weights, batch order, augmentation, the step's own generator)
is drawn from a generator seeded this way, so nothing depends on how many numbers something else
drew before it: a resumed run draws what the uninterrupted one drew, and every recipe sees the same
batches. No generator state needs to be saved.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, purpose: str, *position: int) -> int:
    """Return a 63-bit seed for `purpose` at `position`.

    >>> derive(0, "order", 3) == derive(0, "order", 3)
    True
    >>> derive(0, "order", 3) == derive(1, "order", 3)
    False
    """
    text = "/".join(["nybble", str(seed), purpose, *map(str, position)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """Return a CPU generator seeded with `derive(seed, purpose, *position)`."""
    return torch.Generator().manual_seed(derive(seed, purpose, *position))


def seed_globals(seed: int) -> None:
    """Seed the global generators of torch, NumPy and Python (for dropout in a user's model)."""
    torch.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


@contextmanager
def globals_restored() -> Iterator[None]:
    """Give the caller its global generators back as they were."""
    state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(state[0])
        np.random.set_state(state[1])
        random.setstate(state[2])
