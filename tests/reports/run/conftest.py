"""The large run, made once: 200 layers, 100,000 steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.reports.run import folders


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.make_large(tmp_path_factory.mktemp("large") / "run")
