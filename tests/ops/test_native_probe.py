"""The compiled module: what it reports, its dispatch table, and the twin of its one kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from nybble.ops import native

CORE, MISSING = native.core()
needs_core = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")


def test_a_compiler_means_a_compiled_module() -> None:
    if any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        assert CORE is not None, MISSING


def test_without_the_module_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "nybble was installed without its compiled module"
    monkeypatch.setattr(native, "core", lambda: (None, reason))
    assert not native.available()
    assert native.available().reason == reason
    assert native.probe() == native.Probe(compiled=False, reason=reason)


def test_a_module_that_cannot_be_loaded_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("undefined symbol: x", name=name)

    monkeypatch.setattr(native.importlib, "import_module", broken)
    module, reason = native.core.__wrapped__()
    assert module is None
    assert "undefined symbol: x" in reason


@needs_core
def test_versions_agree() -> None:
    assert CORE.version() == version("nybble")


@needs_core
@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux's own list")
def test_features_are_those_that_the_kernel_lists() -> None:
    text = Path("/proc/cpuinfo").read_text()
    lines = [x for x in text.splitlines() if x.startswith(("flags", "Features"))]
    listed = set(lines[0].split(":", 1)[1].split())
    linux_name = {"avx512vnni": "avx512_vnni", "neon": "asimd", "dotprod": "asimddp"}
    features = CORE.cpu_features()
    assert features
    assert features == {name: linux_name.get(name, name) in listed for name in features}


@needs_core
def test_the_best_set_that_runs_is_chosen() -> None:
    assert CORE.isas()[-1] == "generic"
    assert CORE.isa() == CORE.isas()[0]
    assert CORE.active_isa() == os.environ.get("NYBBLE_ISA", CORE.isa())
    assert ("avx2" in CORE.isas()) == CORE.cpu_features().get("avx2", False)
    for name in CORE.isas():
        assert CORE.isa(name) == name
    with pytest.raises(
        ValueError, match=r"'avx9000' cannot be used here; choose one of: .*generic"
    ):
        CORE.isa("avx9000")


@needs_core
def test_unpack_of_every_byte_is_the_same_in_every_set() -> None:
    packed = bytes(range(256)) + bytes(range(255, -1, -1))
    expected = bytearray()
    for start in range(0, len(packed), 32):
        block = packed[start : start + 32]
        expected += bytes(b & 15 for b in block) + bytes(b >> 4 for b in block)
    for name in CORE.isas():
        assert CORE.unpack4(packed, name) == expected
    assert CORE.unpack4(b"") == b""
    with pytest.raises(ValueError, match="whole blocks of 32 bytes, got 33"):
        CORE.unpack4(packed[:33])


@needs_core
def test_the_module_shares_the_threads_of_torch() -> None:
    code = (
        "import torch; from nybble.ops import native\n"
        "torch.set_num_threads(3); print(native.probe().openmp, native.probe().threads)\n"
        "print(len({l.split()[-1] for l in open('/proc/self/maps') if 'libgomp' in l}))"
    )
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs Linux's list of loaded libraries")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["True", "3", "1"]
