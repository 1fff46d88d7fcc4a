"""The allocator setting: done where glibc is, and without effect on results."""

from __future__ import annotations

import platform
import subprocess
import sys

from nybble.training.allocator import keep_freed_memory

FAULTS = """
import resource, sys, torch
from nybble.training.allocator import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    tensors = [torch.ones(1_600_000) for _ in range(6)]
    return sum(float(t[0]) for t in tensors)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    run = subprocess.run(
        [sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


def test_it_says_whether_it_was_done():
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_freed_memory_is_used_again_without_page_faults():
    if platform.libc_ver()[0] != "glibc":
        return
    kept, default = page_faults("keep"), page_faults("default")
    assert kept * 4 < default, (kept, default)
