"""What the compiler made of the files of one instruction set: nothing that another CPU would run.

Two things would, however well the kernels are dispatched: a constructor of a global, which runs
when the module is loaded, and an inline function, of which the linker keeps one copy for all files
(it may be the one with AVX-512 in it).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
OBJECTS = sorted(ROOT.glob("build/cp*/CMakeFiles/_core.dir/csrc/**/*.cpp.o"))
SETS = ("_avx2", "_avx512vnni", "_neon", "_dotprod")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not OBJECTS or shutil.which("nm") is None,
    reason="no objects of a build here, or no nm that names symbols as Linux's does",
)


def of_a_set(path: Path) -> bool:
    return path.name.removesuffix(".cpp.o").endswith(SETS)


def shared_or_early(path: Path) -> list[str]:
    """The symbols of an object that are constructors, or shared with other objects."""
    found = subprocess.run(["nm", str(path)], check=True, capture_output=True, text=True).stdout
    symbols = [line.split()[-2:] for line in found.splitlines() if len(line.split()) == 3]
    return [name for kind, name in symbols if kind in "WVu" or name.startswith("_GLOBAL__sub_I")]


def test_no_other_cpu_runs_a_sets_code() -> None:
    paths = [path for path in OBJECTS if of_a_set(path)]
    assert paths
    assert {path.name: found for path in paths if (found := shared_or_early(path))} == {}


def test_the_other_objects_have_both() -> None:
    """So the test above would see them."""
    found = [name for path in OBJECTS if not of_a_set(path) for name in shared_or_early(path)]
    assert any(name.startswith("_GLOBAL__sub_I") for name in found)
    assert not all(name.startswith("_GLOBAL__sub_I") for name in found)
