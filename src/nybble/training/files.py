"""Writing files so that a reader sees the old or the new one, whole, whatever happens.

Write to a temporary file in the same folder, fsync it, rename it over the target (atomic on POSIX),
fsync the folder, so that the rename itself survives a power cut.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nybble.errors import UserError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by `content`. On any error the old file is untouched and no rest is left.

    A link is followed. What is no regular file (a device, a pipe) is written into: a rename would
    put a file in its place.
    """
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not path.is_file() and not path.is_dir():
        with open(path, "wb") as device:
            device.write(content)
        return
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that the names in it are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file atomically. NaN and infinity become null: they are not JSON."""
    text = json.dumps(finite(record), indent=1, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")


def finite(value: Any) -> Any:
    """Replace NaN and infinite floats by None, at any depth."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


@contextmanager
def disk_errors(what: str, hint: str = "") -> Iterator[None]:
    """Turn an operating-system error while writing `what` into one clear line."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in _NO_SPACE else str(error)
        raise UserError(f"{what} could not be written: {reason}.{hint}") from error
