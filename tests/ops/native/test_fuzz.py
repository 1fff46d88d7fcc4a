"""Hostile calls of the native kernels end in a clear exception, never in a crash or wrong numbers.

Each attack is a module of its own, run as a child (child.py), for every instruction set.
"""

from __future__ import annotations

import pytest
from tests.ops.native.child import run_child

from nybble.ops import native

CORE, MISSING = native.core()
pytestmark = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")
ISAS = CORE.isas() if CORE is not None else ()


@pytest.mark.parametrize("isa", ISAS)
def test_numbers_that_do_not_fit_their_arrays(isa: str) -> None:
    """Every raw function of `nybble._core`."""
    assert "every function" in run_child("fuzz_core", isa)


@pytest.mark.parametrize("isa", ISAS)
def test_tensors_of_every_wrong_kind(isa: str) -> None:
    """The wrappers of `ops/native` and the operators."""
    assert " 0 wrong" in run_child("fuzz_wrappers", isa)


def test_public_functions() -> None:
    """`nybble.quantize`, `nybble.matmul` and QTensors, with torch and NumPy."""
    assert " 0 wrong" in run_child("fuzz_public")


def test_every_raw_function_is_attacked() -> None:
    """A new function of `nybble._core` needs a call in fuzz_core.py."""
    from tests.ops.native.fuzz_core import CALLS, HARMLESS

    assert CORE is not None
    functions = {name for name in dir(CORE) if not name.startswith("_")}
    assert functions - set(CALLS) - HARMLESS == set()
