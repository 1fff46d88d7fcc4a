"""Run the kernels' Python tests against a compiled module with sanitizers.

    python tools/sanitize.py [pytest arguments]         (make sanitize)

Builds `nybble._core` with AddressSanitizer and UndefinedBehaviorSanitizer in build/sanitize, and
runs tests/ops/native with it: a sitecustomize.py in that folder makes every Python process import
this module, and the sanitizer's library is loaded before everything else. Leaks are not looked for:
Python and torch keep memory until the process ends. The installed module is not touched.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "sanitize"
TESTS = ["tests/ops/native"]
FLAGS = ["-q", "-x", "-p", "no:cacheprovider", "-n", "2"]
FINDER = """\
import importlib.util
import sys


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "nybble._core":
            return importlib.util.spec_from_file_location(name, {module!r})
        return None


sys.meta_path.insert(0, Finder)
"""


def build() -> Path:
    """Configure and build; the path of the module."""
    cmake = [os.environ.get("CMAKE", "cmake")]
    settings = {
        "SKBUILD": "2",
        "SKBUILD_PROJECT_VERSION": "0.1.0",
        "CMAKE_BUILD_TYPE": "RelWithDebInfo",
        "NYBBLE_SANITIZE": "ON",
        "Python_EXECUTABLE": sys.executable,
    }
    defines = [f"-D{name}={value}" for name, value in settings.items()]
    run([*cmake, "-S", str(ROOT), "-B", str(BUILD), *defines])
    run([*cmake, "--build", str(BUILD), "--parallel", "2"])
    found = sorted(BUILD.glob("_core*.so"))
    if not found:
        raise SystemExit(f"sanitize: no module in {BUILD}")
    return found[0]


def run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


def library(name: str) -> str:
    """The compiler's own copy of a library."""
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(path).is_absolute():
        raise SystemExit(f"sanitize: {compiler} has no {name}")
    return path


def main(arguments: list[str]) -> int:
    """Build, then pytest; its status."""
    module = build()
    (BUILD / "site").mkdir(exist_ok=True)
    (BUILD / "site" / "sitecustomize.py").write_text(FINDER.format(module=str(module)))
    environment = {
        **os.environ,
        "PYTHONPATH": str(BUILD / "site"),
        # The C++ library too: ASan must find the real __cxa_throw when it starts.
        "LD_PRELOAD": f"{library('libasan.so')} {library('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONMALLOC": "malloc",
    }
    # Without the module every test would be skipped.
    probe = "from nybble.ops import native; module, why = native.core(); assert module, why; "
    probe += f"assert module.__file__ == {str(module)!r}, module.__file__"
    if subprocess.run([sys.executable, "-c", probe], cwd=ROOT, env=environment).returncode:
        raise SystemExit("sanitize: the module with sanitizers does not load")
    command = [sys.executable, "-m", "pytest", *FLAGS, *(arguments or TESTS)]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
