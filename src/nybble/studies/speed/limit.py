"""The largest batch that trains within a limit of memory, float32 against 4 bits.

A batch fits when the largest resident memory of a process that imports everything, builds the
model and takes `steps` steps stays within the limit: the whole process counts, as it does for a
container. The steps are forward and backward, without an optimizer.
Every batch is tried in a fresh process (`memory_child.py`). Memory is nearly linear in the batch,
so the next batch is where the line through the two nearest measurements meets the limit, kept
inside what is known to fit and not to fit; the search ends when the two are neighbours, or less
than 1/64 apart. float32 is searched in each of its eager forms, and the one with the larger batch
counts.

Nothing is limited by force: a batch that does not fit is run, at most `STRIDE` times as large as
one that did.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from nybble.errors import UserError
from nybble.studies.speed import record
from nybble.studies.speed.memory import (
    FLOAT32,
    OURS,
    MemoryConfig,
    forms_of,
    in_a_process,
)

STRIDE = 4
MOST = 2**20
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class LimitConfig:
    """What to search: the limit in bytes, and everything of `MemoryConfig` but the batch."""

    limit: int
    memory: MemoryConfig

    def command(self) -> str:
        """The command that repeats the search."""
        default = {field.name: field.default for field in fields(MemoryConfig)}
        given = {k: v for k, v in asdict(self.memory).items() if k != "batch"}
        return record.words("nybble bench memory", {"limit": self.limit, **given}, default)


def parse_bytes(text: str) -> int:
    """ "512M" -> bytes; K, M and G are powers of 1024, a B or iB behind them changes nothing.

    >>> parse_bytes("512M"), parse_bytes("1.5GiB"), parse_bytes("4194304")
    (536870912, 1610612736, 4194304)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?\s*", text, re.IGNORECASE)
    value = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    if not 1 << 20 <= value < 2**62:
        raise UserError(
            f"--limit must be a size of at least 1M, for example 512M or 2G, not '{text}'."
        )
    return int(value)


def largest_batches(
    config: LimitConfig, progress: Callable[[str, int, int], None] = lambda what, done, total: None
) -> dict[str, Any]:
    """Search, and return the record; `batch` maps each side to its largest batch (0: none fits),
    `ratio` is ours over float32's.

    Raises:
        UserError: names that are unknown, a model that cannot be built or run.
    """
    forms = forms_of(config.memory)
    sides = [(FLOAT32, form) for form in forms] + [(OURS, forms[-1])]
    found = []
    for done, (side, form) in enumerate(sides):

        def peak(batch: int, side: str = side, form: str = form, done: int = done) -> int | None:
            progress(f"{side}, {form}, batch {batch}", done, len(sides))
            job = replace(config.memory, batch=batch)
            found = in_a_process(job, side, form, peak_only=True)
            return found.get("whole_bytes")

        found.append({"side": side, "form": form, **search(peak, config.limit)})
    float32 = max(found[:-1], key=lambda one: int(one["batch"]))
    ours = found[-1]
    return record.make(
        "limit",
        config.command(),
        {"limit": config.limit, **asdict(config.memory), "batch": None},
        batch={FLOAT32: float32["batch"], OURS: ours["batch"]},
        ratio=ours["batch"] / float32["batch"] if float32["batch"] else None,
        measurements=found,
    )


def search(peak: Callable[[int], int | None], limit: int, most: int = MOST) -> dict[str, Any]:
    """The largest batch for which `peak(batch)` is at most `limit`: {"batch", "tried"}, with every
    (batch, bytes) that was tried; batch 0 where not even one example fits. None instead of bytes:
    the data has fewer examples.

    >>> search(lambda batch: 100 + 7 * batch, limit=500)["batch"]
    57
    """
    tried: dict[int, int | None] = {}
    fits, too_large = 0, 0
    batch = 1
    while True:
        tried[batch] = peak(batch)
        used = tried[batch]
        if used is not None and used <= limit:
            fits = batch
        else:
            too_large = batch
        if fits == most or (too_large and too_large - fits <= max(1, fits // 64)):
            break
        batch = _next(tried, limit, fits, too_large, most)
    return {"batch": fits, "tried": [[size, tried[size]] for size in sorted(tried)]}


def _next(tried: dict[int, int | None], limit: int, fits: int, too_large: int, most: int) -> int:
    """The batch to try, strictly between what fits and what does not."""
    if not fits:
        return max(1, too_large // 2)
    lower = max((size for size in tried if size < fits), default=None)
    a, b = (fits, too_large) if too_large else (lower or fits, fits)
    low, high = tried[a], tried[b]
    if low is None or high is None:  # between what the data has and has not: halve
        return (fits + too_large) // 2
    slope = (high - low) / (b - a) if b > a else 0.0
    guess = round(a + (limit - low) / slope) if slope > 0 else fits * STRIDE
    if not too_large:
        return min(max(guess, fits + 1), fits * STRIDE, most)
    # A line between measurements far apart is a poor guide near their ends.
    margin = max(1, (too_large - fits) // 16)
    return min(max(guess, fits + margin), too_large - margin)
