"""The record of a run: one JSON file, rewritten whole (atomically) after every epoch.

The fields:

    schema     "nybble.run"; schema_version 1: a reader refuses a newer one
    status     "running", "interrupted", "failed" (both with `error`) or "complete"
    config     every field of TrainConfig, `lr` as used; `loss_scale` as it ended,
               `skipped_steps` by which it was halved
    phases     null, or of a recipe with a last phase: tail_begins (the step, from 0; null: not yet)
               and watched, [step, gradient to noise] of every look of a watch; every entry of
               `epochs` then has the `phase` in which it ended, main or tail
    data, model, recipe    what they were: sizes, number of weights, the recipe's own record
    layers     of each layer that multiplies weights: layer, type, rule (of the recipe, or "not
               converted"), `output`, `grad_input`, `grad_weight` as "uint4 x int4_sym", `bits` of
               the operands in this order, backend, fallback (only where there is one); as it was
               when the record was written, after a tail or raised precision; may be missing
    start      null, or with --from: from, step, recipe and sha256 of the weights that the run
               began with, new_head (the layer that began anew, or null), and the test_loss and
               test_<metric> of the model before the first step
    versions, machine, commit    of the code ("-dirty": with local changes); null outside git
    metric     its name; `unit` ("%": a share in [0, 1], shown in per cent); `higher_is_better`;
               `digits` to show, `comparison` of two runs: "difference" or "ratio" (may be missing)
    steps, total_steps     taken and planned
    saved_bytes            kept for backward by the first training step
    epochs     a list, one entry an epoch:
               epoch, train_loss, train_<metric> (null where the task does not score training
               batches), test_loss, test_<metric>, test_extras (more numbers of the task, by name),
               lr (of the last step), clipped_steps (with clip_norm),
               seconds, cpu_seconds, step_ms (training steps: sum, sum, median), test_seconds,
               elapsed_seconds (training steps since the beginning of the run),
               gradients: {"nonzero": {parameter: mean share of non-zero entries},
                           "dead": [layers whose weight had no gradient in the whole epoch]}
    final      the last epoch's entry without its gradients; best_<metric>
    dead_layers            converted layers (float32: all) that were dead in some epoch
    warnings   dead layers, resumed from a previous checkpoint, ...

Wall times, CPU times, `written` and `warnings` about a resume are the only fields that differ
between a resumed run and one that was never stopped.
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
_FIELDS: dict[str, Any] = {
    "metric": str,
    "folder": str,
    "epochs": list,
    "saved_bytes": int | None,
    "dead_layers": list,
    "warnings": list,
    "machine": dict,
    "versions": dict,
}
"""What every record must have: its readers take these without asking again."""


def write_result(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Write `record` as the folder's result.json; return what was written."""
    record = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **record}
    write_json(folder / FILE, record)
    return record


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
    version, status = record.get("schema_version"), record.get("status")
    if type(version) is not int or not isinstance(status, str):
        raise UserError(f"{path} is damaged: schema_version is {version!r}, status {status!r}.")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {record['schema_version']}; this nybble reads up to "
            f"{SCHEMA_VERSION}. Update nybble."
        )
    wrong = [key for key, kind in _FIELDS.items() if not isinstance(record.get(key), kind)]
    if status == "complete" and not isinstance(record.get("final"), dict):
        wrong.append("final")
    if not wrong:
        wrong = _wrong_epochs(record)
    if wrong:
        raise UserError(
            f"{path} is damaged: {', '.join(wrong)} is missing or no value of its kind. Restore it,"
            " or move the folder away and train again."
        )
    return record


def unit_of(record: dict[str, Any]) -> str:
    """The unit of the record's metric; records of before units were written are of accuracy.

    >>> unit_of({"metric": "accuracy"}), unit_of({"metric": "wer", "unit": "%"})
    ('%', '%')
    """
    return str(record.get("unit", "%" if record["metric"] == "accuracy" else ""))


def _wrong_epochs(record: dict[str, Any]) -> list[str]:
    """The fields of `epochs` and `final` that readers need and cannot use."""
    score = f"test_{record['metric']}"
    curve = ("epoch", "elapsed_seconds", "train_loss", score)
    checks: list[tuple[Any, tuple[str, ...], Any]] = [
        (entry, curve, int | float | None)  # null: a number that was not finite
        for entry in record["epochs"]
    ]
    if "final" in record:
        checks.append((record["final"], ("epoch", "test_loss", "step_ms", score), int | float))
    for entry, keys, kind in checks:
        if not isinstance(entry, dict):
            return ["epochs"]
        for key in keys:
            value = entry.get(key, "missing")
            if isinstance(value, bool) or not isinstance(value, kind):
                return [f"epochs: {key}"]
    names = [*record["dead_layers"], *record["warnings"]]
    return [] if all(isinstance(name, str) for name in names) else ["dead_layers, warnings"]
