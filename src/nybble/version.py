"""The package's version, from its installed metadata."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("nybble")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0.0.0+source"
