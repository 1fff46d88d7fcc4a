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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nybble.errors import NybbleError, UserError
from nybble.recipes import get_recipe
from nybble.studies.speed import record
from nybble.studies.speed.targets import memory_targets

if TYPE_CHECKING:
    from nybble.studies.speed.workload import Workload

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
    task: str | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        from nybble.studies.speed.workload import check_name

        if self.task is None:
            check_name(self.model)
            if self.data is not None:
                raise UserError("--data is for the model of a task; add --task.")
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
    forms = forms_of(config)
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


def forms_of(config: MemoryConfig) -> list[str]:
    """The eager forms of float32 to try; the last is that of the 4-bit model as well."""
    from nybble.studies.speed.forms import CHANNELS_LAST, CONTIGUOUS

    small = replace(config, batch=min(config.batch, 2))
    images = workload_of(asdict(small), small.batch).has_images
    return [CONTIGUOUS, CHANNELS_LAST] if images else [CONTIGUOUS]


def workload_of(job: Mapping[str, Any], batch: int) -> Workload:
    """The workload of a `MemoryConfig` as a dict, at some batch."""
    from nybble.studies.speed.workload import make_workload, task_workload

    if job["task"] is None:
        return make_workload(job["model"], batch, job["size"], job["channels"])
    return task_workload(job["task"], job["model"], job["data"], batch)


def in_a_process(
    config: MemoryConfig, side: str, form: str, peak_only: bool = False
) -> dict[str, Any]:
    """Run `memory_child` in a fresh interpreter, in this folder, and return what it found;
    `peak_only`: nothing is measured after the steps.

    Raises:
        UserError: what the user has to mend, as the child said it.
        NybbleError: the child ended otherwise.
    """
    job = json.dumps({**asdict(config), "side": side, "form": form, "peak_only": peak_only})
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
