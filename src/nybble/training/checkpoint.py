"""Checkpoints that survive SIGKILL, a full disk and a damaged file. Nothing is pickled.

A checkpoint is two files in OUT/checkpoints: step-N.safetensors (the tensors) and step-N.json:

    {"schema": "nybble.checkpoint", "schema_version": 1, "step": N,
     "tensors": {"file", "bytes", "sha256"}, "content": {...}, "sha256": of the rest of this file}

Both are written to a temporary name, fsynced and renamed (`files.write_atomic`), the tensors first:
the rename of the JSON is the moment the checkpoint exists. Then the oldest are removed; the newest
and the one before it are kept. On load both checksums are compared; a checkpoint that is damaged
is named in a warning, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from nybble.errors import UserError
from nybble.training.files import disk_errors, write_atomic
from nybble.training.flatten import flatten, unflatten

SCHEMA = "nybble.checkpoint"
SCHEMA_VERSION = 1
KEEP = 2
_NAME = re.compile(r"step-(\d{9,})\.json")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was loaded: its step, its content, and what was wrong with newer ones."""

    step: int
    content: dict[str, Any]
    problems: tuple[str, ...]


class DamagedError(Exception):
    """A checkpoint that cannot be used, and why."""


def save_checkpoint(folder: Path, step: int, content: dict[str, Any]) -> Path:
    """Write checkpoint `step` of `content` (nested dicts of tensors and plain values).

    UserError on a full disk; the previous checkpoint is then intact.
    """
    previous = [item for item in available(folder) if item[0] < step]
    base = folder / f"step-{step:09d}"
    structure, tensors = flatten(content)
    if previous:
        kept = f" The previous checkpoint (step {previous[0][0]}) is intact:"
    else:
        kept = " Nothing was saved before it:"
    hint = f"{kept} free some space, then run the same command with --resume."
    with disk_errors(f"The checkpoint of step {step} in {folder}", hint):
        folder.mkdir(parents=True, exist_ok=True)
        payload = safetensors.torch.save(tensors)
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "step": step,
            "tensors": {
                "file": f"{base.name}.safetensors",
                "bytes": len(payload),
                "sha256": hashlib.sha256(payload).hexdigest(),
            },
            "content": structure,
        }
        record["sha256"] = _digest(record)
        path = base.with_suffix(".json")
        # one of this or a later step is damaged, or the run would have continued from it
        for _, damaged in available(folder):
            if damaged.stem >= path.stem:
                damaged.unlink()
        write_atomic(base.with_suffix(".safetensors"), payload)
        write_atomic(path, json.dumps(record).encode())
    _remove_old(folder)
    return path


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Load the newest whole checkpoint, or None if there is none at all.

    UserError when there are checkpoints and every one is damaged.
    """
    problems: list[str] = []
    for step, path in available(folder):
        try:
            content = _read(path)
        except DamagedError as error:
            problems.append(f"{path} cannot be used: {error}")
        else:
            return Checkpoint(step, content, tuple(problems))
    if problems:
        raise UserError(
            f"No checkpoint in {folder} can be used: {'; '.join(problems)}. "
            f"Delete the folder {folder} and run again with --resume to train from the beginning."
        )
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Load the checkpoint of one JSON file; UserError if it is damaged or none."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise UserError(f"{path} is no checkpoint (checkpoints/step-N.json).")
    try:
        return Checkpoint(int(match[1]), _read(path), ())
    except DamagedError as error:
        raise UserError(f"{path} cannot be used: {error}") from None


def available(folder: Path) -> list[tuple[int, Path]]:
    """(step, path of the JSON file) of every checkpoint, newest first, unchecked."""
    found = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*.json")]
    return sorted(((int(m[1]), path) for m, path in found if m), reverse=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedError(f"it cannot be read ({error})") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise DamagedError("it is not a nybble checkpoint")
    if record.get("schema_version") != SCHEMA_VERSION:
        raise DamagedError(
            f"its schema version is {record.get('schema_version')}, not {SCHEMA_VERSION}"
        )
    if record.pop("sha256", None) != _digest(record):
        raise DamagedError("its checksum does not match")
    try:
        return _content(path, record)
    except (AttributeError, KeyError, TypeError, ValueError, SafetensorError) as error:
        # Its checksum matches, so somebody wrote it so.
        raise DamagedError(f"its content is none of a checkpoint ({error})") from None


def _content(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    described = record["tensors"]
    file = path.parent / described["file"]
    try:
        payload = file.read_bytes()
    except OSError as error:
        raise DamagedError(f"{file.name} cannot be read ({error.strerror})") from None
    if len(payload) != described["bytes"]:
        raise DamagedError(
            f"{file.name} holds {len(payload)} bytes instead of {described['bytes']}"
        )
    if hashlib.sha256(payload).hexdigest() != described["sha256"]:
        raise DamagedError(f"the checksum of {file.name} does not match")
    content = unflatten(record["content"], safetensors.torch.load(payload))
    if not isinstance(content, dict):
        raise DamagedError("its content is no dict")
    return content


def _digest(record: dict[str, Any]) -> str:
    text = json.dumps({k: v for k, v in record.items() if k != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _remove_old(folder: Path) -> None:
    """Keep the newest `KEEP` checkpoints; remove the others and what an interrupted write left."""
    keep = {path.stem for _, path in available(folder)[:KEEP]}
    for path in (*folder.glob("step-*"), *folder.glob(".step-*.tmp")):
        if path.stem not in keep:
            with suppress(OSError):
                path.unlink()
