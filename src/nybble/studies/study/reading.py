"""A record by what the user has of it: a name in results/, a file, or the `--out` of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nybble.errors import UserError
from nybble.studies.study.run import study_record

__all__ = ["read_any"]


def read_any(name: str, folder: Path, command: str, study: str | None = None) -> dict[str, Any]:
    """The record; `command` is the one that was asked, for its errors.

    name: of a record in `folder`, a file, or the folder of a study, running or not; study: which
    one, where that folder holds several.

    Raises:
        UserError: nothing of that name, or it cannot be read as a JSON object.
    """
    places = (folder / f"{name}.json", Path(name))
    path = next((p for p in places if p.is_file() or p.is_dir()), None)
    if path is None:
        raise UserError(
            f"{command} {name}: there is no such record in {folder}/, no file and no folder of a "
            "study."
        )
    if path.is_dir():
        return study_record(path, study)
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{command} {name}: {path} cannot be read as a record ({why}).") from error
    if not isinstance(record, dict):
        raise UserError(f"{command} {name}: {path} is no record of a comparison or a study.")
    if study is not None and record.get("study") != study:
        raise UserError(f"{command} {name}: {path} is no record of a study '{study}'.")
    return record


def _refuse(word: str) -> float:
    raise ValueError(f"it holds {word}, which is no JSON")
