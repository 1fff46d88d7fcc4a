"""Training under a memory cap, in a process of its own: what a small device would have room for.

    python -m nybble.studies.capped '{"kind": "train", "limit": 67108864, "config": {...}}'
    python -m nybble.studies.capped '{"kind": "largest", "limit": ..., "config": {...}}'

The child first takes one small step and drops it, so that everything is imported and compiled.
Then it lets the system refuse it more than `limit` further bytes of data (RLIMIT_DATA, Linux: heap
and private mappings, touched or not). So the cap is on what training takes beside the program:
weights, gradients, optimizer, activations, scratch, and in `train` the data set. One thread; freed
memory goes back to the system at once (glibc's thresholds are fixed). Float32 and 4 bits are
treated alike.

    train      a whole run as `nybble train` does it; the answer has its record
    largest    two training steps of a batch size, each size in a fork of its own, by doubling and
               halving: the largest batch that fits, to an eighth

The peak is the resident memory's high-water mark above the mark before the cap.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nybble.errors import NybbleError, UserError
from nybble.studies.speed.memory_child import high_water
from nybble.training.config import TrainConfig
from nybble.training.inputs import call
from nybble.training.loop import train
from nybble.training.optimizers import build_optimizer
from nybble.training.prepare import begin, build_model
from nybble.training.seeds import derive, seed_globals
from nybble.training.tasks import make_task

MOST = 1 << 16
"""The largest batch that is tried."""
OUT_OF_MEMORY = 3
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def run_capped(kind: str, config: TrainConfig, limit: int) -> dict[str, Any]:
    """Do the job in a child under a cap of `limit` bytes.

    train: "fits" (False: memory ran out), "peak_bytes", "minutes", "record". largest: "largest",
    the batch (0: not even one).

    Raises:
        UserError: what the user has to mend, or a system without such limits.
    """
    if not sys.platform.startswith("linux"):
        raise UserError("A cap on memory needs Linux (RLIMIT_DATA); leave --limit out.")
    job = json.dumps({"kind": kind, "limit": limit, "config": config.to_dict()})
    command = [sys.executable, "-m", "nybble.studies.capped", job]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path.cwd(), env={**os.environ, **GIVE_BACK}
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        tail = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NybbleError(
            f"The process under the cap ended with status {done.returncode}: {tail}"
        ) from None
    if "error" in answer:
        raise UserError(answer["error"])
    return answer


def ran_out(error: BaseException) -> bool:
    """Whether the error says that there was no memory left, torch's own wording included."""
    if isinstance(error, MemoryError):
        return True
    # oneDNN does not say why it could not; under a cap it is the cap.
    words = (
        "not enough memory",
        "can't allocate memory",
        "bad_alloc",
        "failed to allocate",
        "could not create a primitive",
        "could not execute a primitive",
    )
    return any(word in str(error) for word in words)


def cap_data(limit: int) -> None:
    """Allow this process `limit` more bytes of data than it has now."""
    import resource

    gc.collect()
    status = Path("/proc/self/status").read_text()
    now = next(int(s.split()[1]) * 1024 for s in status.splitlines() if s.startswith("VmData:"))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (now + limit, hard))


def search(fits: Callable[[int], bool], most: int = MOST) -> int:
    """The largest size that fits, to an eighth, if every smaller one fits as well; 0: none.

    >>> search(lambda size: size <= 77), search(lambda size: False)
    (72, 0)
    """
    low, high = 0, 1
    while high <= most and fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


class Steps:
    """Training steps of a configuration on batches of any size."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = whole = config.resolved()
        self.task = make_task(whole)
        self.inputs, self.target = self.task.batch(0, 0)
        if not isinstance(self.inputs, Tensor) or not isinstance(self.target, Tensor):
            raise UserError(f"The task {whole.task} has no batches of one size.")

    def take(self, size: int, steps: int) -> None:
        """Build model and optimizer, and take `steps` steps with `size` items."""
        seed_globals(derive(self.config.seed, "init"))
        model, _ = build_model(self.config, self.task)
        begin(model, self.config)
        optimizer = build_optimizer(model, self.config)
        chosen = torch.arange(size) % len(self.inputs)
        inputs, target = self.inputs[chosen], self.target[chosen]
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            self.task.loss(call(model.train(), inputs), target).backward()
            optimizer.step()

    def warm_up(self) -> None:
        """A small step, of which nothing stays."""
        self.take(2, 1)
        release()

    def fits(self, size: int, limit: int) -> bool:
        """Whether two steps of `size` items fit into `limit` bytes; in a fork of this process.

        This process must not have run a backward pass: autograd refuses to go on after a fork.
        """
        child = os.fork()
        if child == 0:
            status = 1
            try:
                self.warm_up()
                cap_data(limit)
                self.take(size, 2)
                status = 0
            except BaseException as error:
                status = OUT_OF_MEMORY if ran_out(error) else 1
                if status == 1:
                    traceback.print_exc()
            finally:
                os._exit(status)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if ended not in (0, OUT_OF_MEMORY):
            raise NybbleError(f"A step of {size} items ended with status {ended}.")
        return ended == 0


def release() -> None:
    """Give freed memory back to the system."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def work(job: dict[str, Any]) -> dict[str, Any]:
    """One job, in this process."""
    torch.set_num_threads(1)
    config = replace(TrainConfig.from_dict(job["config"]), threads=1, quiet=True)
    steps, limit = Steps(config), int(job["limit"])  # the data set is loaded before the cap
    if job["kind"] == "largest":
        return {"fits": True, "largest": search(lambda size: steps.fits(size, limit))}
    steps.warm_up()
    answer: dict[str, Any] = {"fits": True}
    before, started = high_water(), time.perf_counter()
    try:
        cap_data(limit)
        answer["record"] = train(config)
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        answer = {"fits": False, "reason": str(error).strip().splitlines()[0]}
    answer["peak_bytes"] = high_water() - before
    answer["minutes"] = (time.perf_counter() - started) / 60
    return answer


def main() -> None:
    """Answer the job given as the argument; bad input is answered in one line as well."""
    try:
        found = work(json.loads(sys.argv[1]))
    except UserError as error:
        found = {"error": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
