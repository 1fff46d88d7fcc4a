"""Keep freed memory in the process: glibc's defaults cost a CPU training step half its time.

glibc gives memory back to the kernel as soon as a few megabytes lie free at the top of the heap,
and maps large blocks afresh. A training step frees and asks for the same activations hundreds of
times a second, so it spends its time in page faults (a convolution's grad_input of 6 MB: 12 ns an
element with the defaults, 4 ns without, measured on one Zen 3 thread). `mallopt` raises both
thresholds for this process; float32 and 4-bit runs gain alike. The price is that the process keeps
its peak memory until it ends.

Only the command line calls it: a library does not change its host's allocator. Elsewhere than with
glibc (musl, macOS, Windows) it does nothing, and says so.
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TRIM = 2**31 - 1  # bytes free at the top of the heap before it shrinks: never
_MMAP = 32 * 2**20  # the largest value that glibc accepts


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for this process; returns whether that was done.

    >>> keep_freed_memory() in (True, False)
    True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_TRIM_THRESHOLD, _TRIM) and libc.mallopt(_M_MMAP_THRESHOLD, _MMAP))
