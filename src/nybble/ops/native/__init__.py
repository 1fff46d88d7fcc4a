"""The compiled backend: what of it is here, and why not if it is not.

`nybble._core` (csrc/) is optional: without a C++ compiler nybble installs as pure Python and every
Gemm runs on the `reference` backend. `probe` tells what the compiled module found on this machine,
`available` whether it can compute Gemms. Neither raises, and neither falls back in silence: the
reason is text that `nybble doctor` and `nybble.summary` print.

Not done here: other devices than the CPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType

__all__ = ["Availability", "Probe", "active_isa", "available", "core", "probe"]


@dataclass(frozen=True)
class Probe:
    """What the compiled module reports.

    `isa` is the instruction set in use ("avx512vnni", "avx2", "generic"), None without the module;
    `isas` are all that can run here, best first; `threads` is what OpenMP would use, 1 without it.
    """

    compiled: bool
    reason: str
    isa: str | None = None
    isas: tuple[str, ...] = ()
    cpu: Mapping[str, bool] = field(default_factory=dict)
    openmp: bool = False
    threads: int = 1
    version: str | None = None


@dataclass(frozen=True)
class Availability:
    """Whether native Gemms can run, and why (not). It is true or false like a bool."""

    ok: bool
    reason: str

    def __bool__(self) -> bool:
        return self.ok


@lru_cache(maxsize=1)
def core() -> tuple[ModuleType | None, str]:
    """Return `nybble._core` and "", or None and the reason why it cannot be imported.

    torch is imported first: both use OpenMP through the same library name (libgomp.so.1), so the
    module shares torch's threads and obeys `torch.set_num_threads`.
    """
    import torch  # noqa: F401

    try:
        return importlib.import_module("nybble._core"), ""
    except ModuleNotFoundError as error:
        if error.name != "nybble._core":
            raise
        return None, "nybble was installed without its compiled module (no C++ compiler was found)"
    except ImportError as error:
        return None, f"the compiled module cannot be loaded: {error}"


def probe() -> Probe:
    """Ask the compiled module what this machine has.

    >>> found = probe()
    >>> found.compiled or "compiler" in found.reason or "loaded" in found.reason
    True
    """
    module, reason = core()
    if module is None:
        return Probe(compiled=False, reason=reason)
    return Probe(
        compiled=True,
        reason=f"compiled module {module.version()}, instruction set {module.active_isa()}",
        isa=module.active_isa(),
        isas=module.isas(),
        cpu=module.cpu_features(),
        openmp=module.has_openmp(),
        threads=module.max_threads(),
        version=module.version(),
    )


def available() -> Availability:
    """Tell whether Gemms can run on the native backend here, with the reason.

    >>> found = available()
    >>> bool(found) == probe().compiled
    True
    """
    module, reason = core()
    if module is None:
        return Availability(False, reason)
    return Availability(True, f"instruction set {module.active_isa()}")


def active_isa() -> str:
    """The instruction set whose kernels run, "none" without the compiled module.

    >>> active_isa() in ("avx512vnni", "avx2", "neon", "dotprod", "generic", "none")
    True
    """
    module, _ = core()
    return "none" if module is None else str(module.active_isa())
