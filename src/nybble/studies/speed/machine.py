"""What this machine gains from 4 bits, in about a minute: `nybble doctor --speed`.

float32 and bfloat16 products of torch, ours beside them, a convolution in its three directions,
and a small ResNet-18 step; at torch's own number of threads. On a CPU that multiplies bfloat16
fast, or where torch's float32 has AVX-512, the honest answer may be: little.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from nybble.ops import native
from nybble.studies.speed.forms import best_float32, clock_of, float32_side, four_bit_side
from nybble.studies.speed.kernel_cases import conv_case, gemm_case
from nybble.studies.speed.kernels import measure_case
from nybble.studies.speed.peer_models import bf16
from nybble.studies.speed.workload import make_workload
from nybble.studies.statistics import median_ratio
from nybble.studies.steptime import interleave, loss_step

GEMM = (1024, 1024, 1024)
CONV = (8, 64, 64, 32, 3, 1)
STEP_MODEL, STEP_BATCH = "resnet18", 4
LITTLE, MUCH = 1.1, 1.5
BUSY = 0.5


def measure_machine(
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    rounds: int = 7,
) -> dict[str, Any]:
    """Measure, and return figures and the lines that say what they mean (JSON values)."""
    threads = torch.get_num_threads()
    found: dict[str, Any] = {"threads": threads, "clock": clock_of(threads), "load": load()}
    progress("products of torch", 0, 5)
    found["torch"] = {"float32": gmacs(torch.float32), "bfloat16": gmacs(torch.bfloat16)}
    found["torch"]["instructions"] = torch.backends.cpu.get_cpu_capability()
    kernels: dict[str, float] = {}
    if native.available():
        progress("our products", 1, 5)
        for name, which, fmt in (
            ("forward", "output", "int4_sym"),
            ("backward, radix-4", "grad_input", "fp4_radix4"),
            ("backward, radix-2", "grad_input", "fp4_radix2"),
        ):
            case = gemm_case(GEMM, which, "gemm", fmt)
            kernels[name] = measure_case(case, threads, rounds)["speedup"]
        progress("our convolutions", 2, 5)
        for which in ("output", "grad_input", "grad_weight"):
            case = conv_case(CONV, which, "conv")
            kernels[f"3x3 convolution, {which}"] = measure_case(case, threads, rounds)["speedup"]
    found["kernels"] = kernels
    progress("a training step", 3, 5)
    found["step"] = measure_small_step(threads, rounds, found["torch"])
    probe = native.probe()
    found["native"] = {"available": bool(native.available()), "isa": probe.isa}
    found["says"] = says(found)
    return found


def load() -> float | None:
    """Processes that want a core, for each core, in the last minute; None where it is not told.

    >>> found = load()
    >>> found is None or found >= 0
    True
    """
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):
        return None


def gmacs(dtype: torch.dtype, seconds: float = 2.0) -> float:
    """Billions of multiply-adds a second of torch's product of two matrices of 1024 x 1024, by
    the best of up to ten, no more than about `seconds`."""
    a, b = (torch.randn(GEMM[0], GEMM[2]).to(dtype) for _ in range(2))
    torch.mm(a, b)
    best, end = float("inf"), time.perf_counter() + seconds
    for _ in range(10):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return GEMM[0] * GEMM[1] * GEMM[2] / best / 1e9


def measure_small_step(threads: int, rounds: int, speed: Mapping[str, float]) -> dict[str, Any]:
    """float32's step over ours, and bfloat16's where its products are not far slower."""
    workload = make_workload(STEP_MODEL, STEP_BATCH)
    clock = clock_of(threads)
    float32 = best_float32(workload, clock, compile_too=False, tries=2)
    ours = four_bit_side(workload, "sun2020", "auto", "4bit")
    steps = {"float32": float32.step, "ours": ours.step}
    if speed["bfloat16"] > 0.5 * speed["float32"]:
        side = float32_side(workload, float32.form.partition(",")[0])
        batch = workload.channels_last() if "channels" in float32.form else workload
        model = bf16(side.model)
        steps["bfloat16"] = loss_step(model, lambda: batch.run(model))
    samples = interleave(steps, rounds, warmup=2)
    times = {name: [float(getattr(s, clock)) for s in own] for name, own in samples.items()}
    return {
        "model": STEP_MODEL,
        "batch": STEP_BATCH,
        "form": float32.form,
        "ms": {name: 1000 * statistics.median(own) for name, own in times.items()},
        "speedup": median_ratio(times["float32"], times["ours"]).median,
        "speedup_to_bfloat16": median_ratio(times["bfloat16"], times["ours"]).median
        if "bfloat16" in times
        else None,
    }


def says(found: Mapping[str, Any]) -> list[str]:
    """The figures in words.

    >>> speed = {"float32": 40.0, "bfloat16": 2.0, "instructions": "AVX2"}
    >>> step = {"speedup": 2.04, "speedup_to_bfloat16": None}
    >>> native = {"available": True, "isa": "avx2"}
    >>> print("\\n".join(says({"torch": speed, "step": step, "native": native})))
    A 4-bit training step (sun2020) runs 2.0 times as fast as float32 here.
    bfloat16 is no faster than float32 on this CPU, so it is no alternative for time.
    """
    step, speed, own = found["step"], found["torch"], found["native"]
    if (found.get("load") or 0.0) > BUSY:
        return [
            f"The machine was busy ({found['load']:.1f} processes a core) before this began, so "
            "the figures say little: measure again when it is idle."
        ]
    gain = step["speedup"]
    lines = []
    if not own["available"]:
        lines.append("There are no native kernels here: 4-bit training is emulated, and slower.")
    if gain >= MUCH:
        lines.append(
            f"A 4-bit training step (sun2020) runs {gain:.1f} times as fast as float32 here."
        )
    elif gain >= LITTLE:
        lines.append(f"4 bits gain some time here: {gain:.2f} times the speed of float32's step.")
    elif gain > 1 / LITTLE:
        lines.append("4 bits gain little or no time here; they save memory.")
    else:
        lines.append(f"A 4-bit step is slower than float32's here: {1 / gain:.1f} times its time.")
    ratio = speed["bfloat16"] / speed["float32"]
    against = step["speedup_to_bfloat16"]
    if against is None or ratio <= LITTLE:
        lines.append(
            "bfloat16 is no faster than float32 on this CPU, so it is no alternative for time."
        )
    else:
        word = "little" if against < LITTLE else f"{against:.2f} times its speed"
        lines.append(
            f"This CPU multiplies bfloat16 {ratio:.1f} times as fast as float32; against autocast "
            f"in bfloat16 a 4-bit step gains: {word}."
        )
    if "512" in speed["instructions"] and own["isa"] == "avx2":
        lines.append(
            "torch's float32 has AVX-512 here and nybble's kernels use AVX2: expect little."
        )
    return lines
