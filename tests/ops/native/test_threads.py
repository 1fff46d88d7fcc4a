"""Native kernels in many threads and forked processes: the same weights, and no hang."""

from __future__ import annotations

import pytest
from tests.ops.native.child import run_child

from nybble.ops import native

CORE, MISSING = native.core()
pytestmark = pytest.mark.skipif(CORE is None, reason=MISSING or "compiled module present")


@pytest.mark.parametrize("what", ["together", "counts", "fork"])
def test_training_in_many_threads(what: str) -> None:
    run_child("threads_child", what, seconds=180.0)
