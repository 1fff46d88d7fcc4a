"""Check the install without a compiler: pure Python, complete, and honest about it.

Builds and installs this checkout into a temporary folder with a compiler name that does not exist,
then imports it in a process that cannot see the development install. It checks that

1. the install succeeds and holds no compiled module;
2. `nybble.ops.native.available()` says no, and names the missing compiler;
3. the same install with NYBBLE_REQUIRE_NATIVE=1 fails, so that a mistake in csrc/ cannot hide.

It builds through pip's isolated environment, as a user's install does, so it needs a package index.

    make fallback
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROBE = """
import sys
sys.path[:0] = sys.argv[1:]
import nybble, nybble.ops.native as native
assert nybble.__file__.startswith(sys.argv[1]), nybble.__file__
found, status = native.probe(), native.available()
assert not found.compiled and not status, (found, status)
assert "no C++ compiler" in status.reason, status.reason
print(status.reason)
"""


def install(target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """pip install this checkout into `target`, where no compiler can be found."""
    # CMake looks for compilers in the system's folders too, so an empty PATH would not hide them.
    missing = str(target / "no-such-compiler")
    return subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(target), str(ROOT)],
        env={**os.environ, "CC": missing, "CXX": missing, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "pure"
        done = install(target, NYBBLE_REQUIRE_NATIVE="0")
        if done.returncode != 0:
            print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
            print("fallback: the install without a compiler failed", file=sys.stderr)
            return 1
        compiled = [str(p) for p in target.rglob("_core*") if p.suffix in {".so", ".pyd"}]
        if compiled:
            print(f"fallback: a compiled module was installed: {compiled}", file=sys.stderr)
            return 1
        # -S: no .pth files, hence no development install; its packages are added by name.
        packages = sysconfig.get_paths()["purelib"]
        subprocess.run(
            [sys.executable, "-S", "-c", PROBE, str(target), packages], check=True, cwd=folder
        )
        if install(Path(folder) / "strict", NYBBLE_REQUIRE_NATIVE="1").returncode == 0:
            print("fallback: NYBBLE_REQUIRE_NATIVE=1 did not refuse it", file=sys.stderr)
            return 1
    print("fallback: installs and imports without a compiler; refused where native is required")
    return 0


if __name__ == "__main__":
    sys.exit(main())
