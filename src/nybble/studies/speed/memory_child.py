"""The process that `bench memory` starts: one side, a few steps, its memory as one JSON line.

    python -m nybble.studies.speed.memory_child '{"side": "float32", "form": "contiguous", ...}'

The peak is the kernel's high-water mark of this process's resident memory, VmHWM. The figure of
getrusage is taken where there is no /proc, and only there: Linux hands a parent's mark on to the
programs that it starts.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler import profile

from nybble.convert import loss_scale
from nybble.errors import UserError
from nybble.ops.native.pool import pool_use
from nybble.studies.speed.forms import CHANNELS_LAST, backends_of, float32_model, four_bit_model
from nybble.studies.speed.memory import workload_of
from nybble.studies.speed.profile import be_quiet
from nybble.studies.speed.workload import EXAMPLE_HINT, TooFewError, Workload, at_batch
from nybble.studies.steptime import loss_step
from nybble.training.allocator import keep_freed_memory
from nybble.training.saved import measure_saved_bytes


def high_water() -> int:
    """The largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Peak first, before anything else has been allocated; then what is kept for backward."""
    if job["allocator"] == "keep":
        keep_freed_memory()
    torch.set_num_threads(job["threads"])
    import_late_modules()
    gc.collect()
    imported = high_water()
    workload = workload_of(job, job["batch"])
    model, batch = _side(job, workload)
    step = loss_step(model, lambda: batch.run(model), loss_scale(model))
    seconds = []
    for _ in range(job["steps"]):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    peak = high_water()
    if job["peak_only"]:
        return {"peak_bytes": peak - imported, "whole_bytes": peak}
    saved = saved_bytes(batch, model)
    return {
        "input": batch.input,
        "imported_bytes": imported,
        "peak_bytes": peak - imported,
        "saved_bytes": saved,
        "activation_bytes": _activation_bytes(job, batch, model, saved),
        "alive_bytes": alive_bytes(batch, model),
        "backend": backends_of(model),
        "step_cpu_seconds": seconds,
    }


def import_late_modules() -> None:
    """Import what torch imports only when the first optimizer is made (its compiler, 100 MB): the
    peak is counted from after all imports."""
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)


def _side(job: dict[str, Any], workload: Workload) -> tuple[nn.Module, Workload]:
    if job["side"] == "ours":
        return four_bit_model(workload, job["recipe"], job["backend"], job["activations"])
    return float32_model(workload, job["form"])


def saved_bytes(workload: Workload, model: nn.Module) -> int:
    """Bytes that autograd keeps of one forward pass, parameters and buffers not counted."""
    with measure_saved_bytes(model) as saved:
        loss = workload.run(model)
    total = saved.release()
    del loss
    return total


def _activation_bytes(
    job: dict[str, Any], workload: Workload, model: nn.Module, whole: int
) -> int | None:
    """The part of the kept bytes that grows with the batch, times the batch."""
    half = int(job["batch"]) // 2
    if not half:
        return None
    if job["task"] is not None or ":" not in job["model"]:
        smaller: Workload | None = workload_of(job, half)
        if smaller is not None and job["form"] == CHANNELS_LAST:
            smaller = smaller.channels_last()
        size = int(job["batch"])
    else:
        sizes = {x.shape[0] for x in workload.tensors if x.dim()}
        size = max(sizes, default=0)
        half = size // 2
        smaller = at_batch(workload, half) if half else None
    if smaller is None:
        return None
    try:
        part = saved_bytes(smaller, model)
    except Exception:  # a loss with labels of its own
        return None
    return round((whole - part) * size / (size - half))


def alive_bytes(workload: Workload, model: nn.Module) -> int:
    """Bytes of torch's allocator and of the pool that a forward pass leaves alive."""
    be_quiet()
    gc.collect()
    before = pool_use()["taken"]
    with profile(use_kineto=False, profile_memory=True) as profiler:
        loss = workload.run(model)
    pooled = pool_use()["taken"] - before
    del loss
    return pooled + sum(
        int(event.self_cpu_memory_usage) for event in profiler.function_events or ()
    )


def main() -> None:
    """Answer one job, given as the argument; bad input is answered in one line as well."""
    job = json.loads(sys.argv[1])
    try:
        found = measure(job)
    except TooFewError as error:
        found = {"too_few": True} if job.get("peak_only") else {"error": str(error)}
    except UserError as error:
        found = {"error": str(error)}
    except Exception as error:
        if ":" not in job["model"]:
            raise
        what = f"The model '{job['model']}' fails on its input"
        found = {"error": f"{what}: {type(error).__name__}: {error}{EXAMPLE_HINT}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
