"""A configuration in a file: TOML with the names of TrainConfig's fields.

    task = "language"            any field of TrainConfig but those of the session (out, ...)
    epochs = 39
    betas = [0.9, 0.98]

    [options]                    what `--set` takes
    dropout = 0.5

    [rules]                      what `--rule` takes: layer pattern = recipe, or "none"
    "head" = "none"

`nybble train --config FILE` reads it; what the command line says goes before it.
"""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from nybble.errors import UserError, suggest
from nybble.training.config import SESSION_FIELDS, TrainConfig

_TABLES = {"options": "task_options", "rules": "rules"}


def read_fields(path: Path) -> dict[str, Any]:
    """The fields of TrainConfig that the file sets.

    Raises:
        UserError: the file cannot be read, is no TOML, or sets something that is no field.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no TOML: {error}.") from None
    known = {entry.name for entry in dataclasses.fields(TrainConfig)}
    known -= {*SESSION_FIELDS, *_TABLES.values()}
    found: dict[str, Any] = {}
    for key, value in content.items():
        if key in _TABLES:
            if not isinstance(value, dict):
                raise UserError(f"{path}: {key} must be a table, [{key}], not {value!r:.40}.")
            found[_TABLES[key]] = tuple((name, _text(entry)) for name, entry in value.items())
        elif key in known:
            found[key] = tuple(value) if isinstance(value, list) else value
        else:
            raise UserError(
                f"{path}: '{key}' is no setting of a run.{suggest(key, known | set(_TABLES))}"
            )
    return found


def read_config(path: Path | str) -> TrainConfig:
    """The configuration of the file; UserError with the file's name where it cannot be used."""
    fields = read_fields(Path(path))
    try:
        return TrainConfig(**fields)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
