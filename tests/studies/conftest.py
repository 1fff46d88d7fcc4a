"""Reads each data set once a file: the tests here make many runs of a few steps.

Not once a session: the tests of other folders, which change data on purpose, would see the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from nybble.training.data.registry import load_data
from nybble.training.tasks import vision


@pytest.fixture(scope="module", autouse=True)
def data_is_read_once_a_file() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vision, "load_data", functools.lru_cache(load_data))
        yield
