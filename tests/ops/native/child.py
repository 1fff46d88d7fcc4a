"""Runs a module of hostile calls as a child, so that a crash is a failed test and not the end of
all tests; a hang ends after `seconds`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def run_child(module: str, *arguments: str, seconds: float = 300.0) -> str:
    """Standard output of `python -m tests.ops.native.MODULE ARGUMENTS`; fails where it fails."""
    command = [sys.executable, "-X", "faulthandler", "-m", f"tests.ops.native.{module}"]
    try:
        done = subprocess.run(
            [*command, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as hang:
        raise AssertionError(f"{module} {arguments} hangs: {hang.stdout!r}") from None
    assert done.returncode == 0, (
        f"{module} {arguments} ended with {done.returncode}:\n{done.stdout[-2000:]}"
        f"\n{done.stderr[-4000:]}"
    )
    return done.stdout
