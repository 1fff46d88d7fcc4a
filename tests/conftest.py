"""Settings for every test: repeatable, and one thread each, so that two workers share two cores.

`NYBBLE_ISA=generic` runs every test on the kernels of that instruction set. Only tests read it: the
library takes the best set that the CPU has.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for child processes

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Begun in the background (nohup, &), where shells ignore Ctrl-C, and so would the children
    # that the tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


WANTED = os.environ.get("NYBBLE_ISA", "")


def pytest_configure(config: pytest.Config) -> None:
    if WANTED:
        from nybble.ops import native

        module, reason = native.core()
        if module is None:
            raise pytest.UsageError(f"NYBBLE_ISA={WANTED}: {reason}")
        module.use_isa(WANTED)


@pytest.fixture(autouse=True)
def chosen_for_one_test() -> Iterator[None]:
    """An instruction set or a number of threads that a test chooses does not stay for the next."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    yield
    torch = sys.modules.get("torch")
    if torch and threads and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    native = sys.modules.get("nybble.ops.native")
    module = native.core()[0] if native else None
    if module is not None:
        module.use_isa(WANTED)
