"""What a training step holds in memory: bytes kept for backward, and the peak of a process.

    kept for backward   what autograd saves between forward and backward (`training/saved.py`),
                        without weights and their codes: these do not grow with the batch b, so

                            activations(b) = (kept(b) - kept(b / 2)) * 2

                        and beside it `alive`: bytes of torch's allocator that are alive after a
                        forward and were not before, which nothing can hide from
    peak                a fresh process imports everything, notes its high-water mark, builds the
                        model, takes `steps` steps and notes it again; the difference

Both sides run in processes of their own with the same allocator settings. float32 runs in each of
its eager forms, and the one with the lower peak counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nybble.errors import NybbleError, UserError
from nybble.recipes import get_recipe
from nybble.studies.speed import record
from nybble.studies.speed.targets import memory_targets

ALLOCATORS = ("default", "keep")
"""`default`: the C library's own; `keep`: `training/allocator.py`, which the command line sets."""

FLOAT32, OURS = "float32", "ours"


@dataclass(frozen=True)
class MemoryConfig:
    """What to measure.

    >>> MemoryConfig().command()
    'nybble bench memory'
    """

    model: str = "resnet18"
    batch: int = 128
    recipe: str = "sun2020"
    backend: str = "auto"
    activations: str = "4bit"
    threads: int = 1
    steps: int = 3
    size: int = 32
    channels: int = 3
    allocator: str = "default"

    def __post_init__(self) -> None:
        from nybble.studies.speed.workload import check_name

        check_name(self.model)
        get_recipe(self.recipe)
        for name in ("batch", "steps", "size", "channels", "threads"):
            record.at_least(name, getattr(self, name))
        if self.allocator not in ALLOCATORS:
            raise UserError(f"--allocator {self.allocator}: choose {' or '.join(ALLOCATORS)}.")

    def command(self) -> str:
        """The command that repeats the measurement."""
        default = {field.name: field.default for field in fields(self)}
        return record.words("nybble bench memory", asdict(self), default)


def measure_memory(
    config: MemoryConfig, progress: Callable[[str, int, int], None] = lambda what, done, total: None
) -> dict[str, Any]:
    """Measure, and return the record; `ratio` maps `saved` and `peak` to float32's over ours.

    Raises:
        UserError: names that are unknown, a model that cannot be built or run.
    """
    from nybble.studies.speed.forms import CHANNELS_LAST, CONTIGUOUS
    from nybble.studies.speed.workload import make_workload

    images = make_workload(config.model, config.batch, config.size, config.channels).has_images
    forms = [CONTIGUOUS, CHANNELS_LAST] if images else [CONTIGUOUS]
    own = forms[-1]
    jobs = [(FLOAT32, form) for form in forms] + [(OURS, own)]
    found = []
    for done, (side, form) in enumerate(jobs):
        progress(f"{side}, {form}", done, len(jobs))
        found.append({"side": side, "form": form, **in_a_process(config, side, form)})
    float32 = min(found[:-1], key=lambda one: one["peak_bytes"])
    ours = found[-1]
    saved, peak = memory_targets(asdict(config))
    return record.make(
        "memory",
        config.command(),
        {**asdict(config), "input": ours["input"]},
        ratio={
            "saved": _ratio(float32, ours, "activation_bytes")
            or _ratio(float32, ours, "saved_bytes"),
            "peak": _ratio(float32, ours, "peak_bytes"),
        },
        targets={
            "saved": saved.to_dict() if saved else None,
            "peak": peak.to_dict() if peak else None,
        },
        float32=float32,
        ours=ours,
        measurements=found,
    )


def _ratio(float32: dict[str, Any], ours: dict[str, Any], name: str) -> float | None:
    a, b = float32[name], ours[name]
    return a / b if a is not None and b else None


def in_a_process(config: MemoryConfig, side: str, form: str) -> dict[str, Any]:
    """Run `memory_child` in a fresh interpreter, in this folder, and return what it found.

    Raises:
        UserError: what the user has to mend, as the child said it.
        NybbleError: the child ended otherwise.
    """
    job = json.dumps({**asdict(config), "side": side, "form": form})
    command = [sys.executable, "-m", "nybble.studies.speed.memory_child", job]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path.cwd())
    lines = done.stdout.splitlines()
    try:
        answer: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        what = f"The process that measured {side} ({form})"
        if done.returncode < 0:
            raise UserError(
                f"{what} was ended by signal {-done.returncode}: for want of memory? Take "
                "a smaller --batch."
            ) from None
        tail = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NybbleError(f"{what} ended with status {done.returncode}: {tail}") from None
    if "error" in answer:
        raise UserError(answer["error"])
    return answer
