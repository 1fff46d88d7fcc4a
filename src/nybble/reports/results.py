"""The folder of recorded studies: results/NAME.json, one record a file.

A record is written once and never overwritten: a number in the docs points at a record, and a
record must not change under it.  Take another name, or remove the old file on purpose.  A study
that was stopped may write its record anew when it has gone on: `again`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nybble.errors import UserError
from nybble.studies.record import write_record

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def check_name(name: str, folder: Path, again: bool = False) -> Path:
    """The file that the record `name` will be; again: it may be there.

    Raises:
        UserError: not a plain file name, or there is such a record already.

    >>> check_name("emulation-2026", Path("results")).name
    'emulation-2026.json'
    """
    plain = name.removesuffix(".json")
    if not _NAME.fullmatch(plain):
        raise UserError(
            f"--record {name}: give a plain name of letters, digits and . _ + - (no folder)."
        )
    path = folder / f"{plain}.json"
    if path.exists() and not again:
        raise UserError(
            f"--record {name}: {path} exists, and a record is never overwritten; "
            "give another name, or remove it."
        )
    return path


def save(record: Mapping[str, Any], name: str, folder: Path, again: bool = False) -> Path:
    """Write `record` as a file of `folder`, a new one unless `again`, and return its path.

    Raises:
        UserError: as `check_name`, or the file cannot be written.
    """
    path = check_name(name, folder, again)
    write_record(path, record)
    return path


def load_all(folder: Path) -> dict[str, dict[str, Any]]:
    """Every record of `folder` by name, sorted by name; an empty dict when there is no folder.

    Raises:
        UserError: a file is not JSON or has no schema.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as a record: {error}.") from error
        if not isinstance(data, dict) or not kind(data):
            raise UserError(f"{path} has no schema; results/ holds records only.")
        found[path.stem] = data
    return found


def kind(record: Mapping[str, Any]) -> str:
    """What a record is of, from its `schema` or `kind`; empty if it does not say.

    >>> kind({"schema": "nybble.comparison/1"}), kind({"kind": "mutation"}), kind({})
    ('comparison', 'mutation', '')
    """
    schema = record.get("schema") or record.get("kind") or ""
    return str(schema).removeprefix("nybble.").partition("/")[0]
