"""The record of a run: one JSON file, rewritten whole (atomically) after every epoch.

schema     "nybble.run"; schema_version 1: a reader refuses a newer one
status     "running", "interrupted", "failed" (with `error`), "complete"
config     every field of TrainConfig; lr resolved; seeds
data, model, recipe    what they were (sizes, parameter count, the recipe's own record)
versions, machine, commit
epochs     a list, one entry an epoch:
           epoch, train_loss, train_<metric>, test_loss, test_<metric>, lr (of the last step),
           seconds, cpu_seconds (training steps), test_seconds, elapsed_seconds (training steps
           since the beginning), step_ms (median), gradients {nonzero, dead}
saved_bytes            kept for backward by the first training step
final      the last epoch's entry without its gradients; best_<metric>
warnings   dead layers, resumed from a previous checkpoint, ...
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nybble.errors import UserError
from nybble.training.files import write_json

SCHEMA = "nybble.run"
SCHEMA_VERSION = 1
FILE = "result.json"


def write_result(folder: Path, record: dict[str, Any]) -> None:
    """Write `record` as the folder's result.json."""
    write_json(folder / FILE, {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **record})


def read_result(folder: Path) -> dict[str, Any] | None:
    """Read result.json, or None if there is none; UserError if it is not one."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise UserError(f"{path} is not the result of a nybble run.")
    if record.get("schema_version", 0) > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {record['schema_version']}; this nybble reads up to "
            f"{SCHEMA_VERSION}. Update nybble."
        )
    return record
