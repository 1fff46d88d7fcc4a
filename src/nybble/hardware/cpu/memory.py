"""malloc told to keep what it was given back, so that pages do not decide what is measured.

By default glibc returns freed memory at the top of its heap, and every block above a threshold that
moves with what the process has freed before; the next step then faults its pages in again, at about
half a nanosecond a byte. The same step of one network took 180 or 260 ms, by what had run before it
in the process. Probes and steps are both measured with memory kept; a step that is run otherwise
takes its faults in addition (of the networks checked here none to a tenth of float32's time; the
native side has a pool of its own).

Not done here: other systems and other libraries of C, where nothing is changed and that is said.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["keep_memory"]

_TRIM_THRESHOLD: Final = -1
_MMAP_MAX: Final = -4
_NEVER: Final = 2**31 - 1


def keep_memory() -> str:
    """Ask malloc to keep freed memory, for the rest of the process; "" or why it could not be."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return "this system's malloc has no mallopt, so pages may have been taken anew in each step"
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    if mallopt(_TRIM_THRESHOLD, _NEVER) and mallopt(_MMAP_MAX, 0):
        return ""
    return "malloc did not take its options, so pages may have been taken anew in each step"
