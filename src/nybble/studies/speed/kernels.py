"""Kernels against torch's float32: products, convolutions, quantising, and what a call costs.

Every row interleaves ours with each float32 form, `rounds` times, and the form with the lower
median is the baseline. A sample repeats its call until it takes a millisecond. Before it is timed,
a product is compared with float32's of the same numbers: a kernel that is wrong has no speed.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from nybble.errors import NybbleError, UserError
from nybble.ops.native import available
from nybble.studies.emulation import default_threads
from nybble.studies.speed import record
from nybble.studies.speed.forms import clock_of
from nybble.studies.speed.kernel_cases import SUBJECTS, Call, Case, cases
from nybble.studies.speed.targets import kernel_target
from nybble.studies.statistics import median_ratio
from nybble.studies.steptime import Sample, interleave

Progress = Callable[[str, int, int], None]
SAMPLE_SECONDS = 1e-3


@dataclass(frozen=True)
class KernelsConfig:
    """What to measure; `only`: subjects of `kernel_cases.SUBJECTS`, all if empty.

    >>> KernelsConfig(only=("gemm",), threads=(1,)).command()
    'nybble bench kernels --only gemm --threads 1'
    """

    only: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    rounds: int = 15

    def __post_init__(self) -> None:
        record.at_least("rounds", self.rounds)
        for name in self.only:
            if name not in SUBJECTS:
                raise UserError(f"--only {name}: choose from {', '.join(SUBJECTS)}.")
        for count in self.threads:
            if not 1 <= count <= 1024:
                raise UserError(f"threads must be between 1 and 1024, not {count}.")

    def command(self) -> str:
        """The command that repeats the measurement."""
        default = {field.name: field.default for field in fields(self)}
        return record.words("nybble bench kernels", asdict(self), default)


def measure_kernels(
    config: KernelsConfig, progress: Progress = lambda what, done, total: None
) -> dict[str, Any]:
    """Measure, and return the record; `speedup` maps threads to rows to numbers.

    Raises:
        UserError: no compiled module here.
        NybbleError: a kernel's result is not that of float32.
    """
    found = available()
    if not found:
        raise UserError(f"bench kernels: there are no native kernels to measure: {found.reason}.")
    builders = list(cases(config.only or SUBJECTS))
    before = torch.get_num_threads()
    measurements: list[dict[str, Any]] = []
    counts = config.threads or default_threads()
    try:
        for place, count in enumerate(counts):
            torch.set_num_threads(count)
            for done, build in enumerate(builders):
                case = build()
                now = place * len(builders) + done
                progress(f"{count} threads, {case.name}", now, len(builders) * len(counts))
                measurements.append({"threads": count, **measure_case(case, count, config.rounds)})
    finally:
        torch.set_num_threads(before)
    return record.make(
        "kernels",
        config.command(),
        {**asdict(config), "threads": list(counts), "only": list(config.only or SUBJECTS)},
        speedup={
            str(count): {m["name"]: m["speedup"] for m in measurements if m["threads"] == count}
            for count in counts
        },
        groups=groups(measurements),
        measurements=measurements,
    )


def groups(measurements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The least, the median and the largest speedup of each group and number of threads.

    >>> groups([{"threads": 1, "group": "g", "speedup": s} for s in (1.0, 2.0, 4.0)])
    [{'threads': 1, 'group': 'g', 'rows': 3, 'least': 1.0, 'median': 2.0, 'most': 4.0,
      'target': None}]
    """
    keys = dict.fromkeys((m["threads"], m["group"]) for m in measurements)
    found = []
    for threads, group in keys:
        own = [m["speedup"] for m in measurements if (m["threads"], m["group"]) == (threads, group)]
        target = kernel_target(group)
        found.append(
            {
                "threads": threads,
                "group": group,
                "rows": len(own),
                "least": min(own),
                "median": statistics.median(own),
                "most": max(own),
                "target": target.to_dict() if target else None,
            }
        )
    return found


def measure_case(case: Case, threads: int, rounds: int) -> dict[str, Any]:
    """Time one row."""
    calls = {"ours": case.ours, **case.float32}
    if case.compare:
        check(case)
    repeats = {name: repeats_for(call) for name, call in calls.items()}
    steps = {name: repeated(call, repeats[name]) for name, call in calls.items()}
    samples = {
        name: [Sample(s.wall / repeats[name], s.cpu / repeats[name]) for s in own]
        for name, own in interleave(steps, rounds, warmup=1).items()
    }
    clock = clock_of(threads)
    medians = {
        name: {c: statistics.median(float(getattr(s, c)) for s in own) for c in ("cpu", "wall")}
        for name, own in samples.items()
    }
    best = min(case.float32, key=lambda name: medians[name][clock])
    ratios = {
        c: median_ratio(
            [float(getattr(s, c)) for s in samples[best]],
            [float(getattr(s, c)) for s in samples["ours"]],
        ).to_dict()
        for c in ("cpu", "wall")
    }
    ours = medians["ours"][clock]
    return {
        "group": case.group,
        "name": case.name,
        "decides": clock,
        "speedup": ratios[clock]["median"],
        **ratios,
        "baseline": best,
        "float32_us": {name: 1e6 * medians[name][clock] for name in case.float32},
        "ours_us": 1e6 * ours,
        "gmacs": case.macs / ours / 1e9 if case.macs and ours else None,
    }


def repeats_for(call: Call) -> int:
    """How often a call is repeated for one sample."""
    call()
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    return min(max(1, math.ceil(SAMPLE_SECONDS / max(seconds, 1e-9))), 1000)


def repeated(call: Call, count: int) -> Call:
    """A function that calls `count` times."""

    def run() -> None:
        for _ in range(count):
            call()

    return run


def check(case: Case) -> None:
    """Compare our product with float32's, to float32's rounding.

    Raises:
        NybbleError: they differ.
    """
    ours: Tensor = case.ours()
    theirs: Tensor = next(iter(case.float32.values()))()
    scale = float(theirs.abs().max()) or 1.0
    if ours.shape != theirs.shape:
        raise NybbleError(f"{case.name}: shapes {tuple(ours.shape)} and {tuple(theirs.shape)}")
    worst = float((ours - theirs).abs().max()) / scale
    if not worst < 1e-4:
        raise NybbleError(f"{case.name}: the result differs from float32's by {worst:.1e} of it")
