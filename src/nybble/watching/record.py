"""One look at one operand, as a Python object and as a line of JSON.

    {"step": 100, "layer": "conv1", "operand": "input", "format": "uint4", "used": 16, ...}

A file of looks (`watch.jsonl`) begins with a line that says what it is,

    {"schema": "nybble.watch/1", "every": 100, "formats": {"uint4": [0.0, 1.0, ...]}}

where `formats` gives the values of each format by code, the grid on which histograms stand. Alarms
are lines of their own: {"step": .., "alarm": .., "layer": .., "operand": .., "text": ..}.

Operands: `input`, `weight`, and the gradient as each backward Gemm takes it, `grad_input` and
`grad_weight`.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from nybble.errors import UserError

__all__ = ["OPERANDS", "SCHEMA", "Record", "read_records"]

SCHEMA: Final = "nybble.watch/1"
_NEEDED: Final = {"step", "layer", "operand", "format", "bits"}
OPERANDS: Final = ("input", "weight", "grad_input", "grad_weight")


@dataclass(frozen=True)
class Record:
    """See the module and measure.py; `alpha`: PACT's clip(s), empty where there is none."""

    step: int
    layer: str
    operand: str
    format: str
    bits: int
    histogram: list[int] = field(default_factory=list)
    used: int | None = None
    zeros: float | None = None
    underflow: float | None = None
    saturation: float | None = None
    scale: float | None = None
    rms: float | None = None
    snr_db: float | None = None
    cosine: float | None = None
    norm_ratio: float | None = None
    shrinkage: float | None = None
    bias: float | None = None
    noise_ratio: float | None = None
    finite: bool = True
    alpha: list[float] = field(default_factory=list)
    flips: float | None = None

    def to_json(self) -> str:
        """One line; numbers of six digits, which is more than a sample of numbers is worth.

        >>> Record(1, "conv", "input", "uint4", 4, scale=1 / 3).to_json()
        '{"step":1,"layer":"conv","operand":"input","format":"uint4","bits":4,"scale":0.333333}'
        """
        kept = {
            name: value
            for name, value in asdict(self).items()
            if value is not None and value != [] and (name, value) != ("finite", True)
        }
        return json.dumps({k: _short(v) for k, v in kept.items()}, separators=(",", ":"))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Record:
        """The record of a line; fields of later versions are left out."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        return cls(**known)


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, list):
        return [_short(one) for one in value]
    return value


def _object(line: str) -> dict[str, Any]:
    """The object of a line, empty where it holds none."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):  # also numbers of 5000 digits, and [[[[...
        return {}
    return data if isinstance(data, dict) else {}


def read_records(path: Path) -> tuple[dict[str, Any], list[Record], list[dict[str, Any]]]:
    """(the first line, looks, alarms) of a `watch.jsonl`. Lines that were cut off by a crash (the
    last, or one after which a resumed run went on) and lines that are no look are left out; of a
    step that was run twice, the later look counts.

    Raises:
        UserError: no such file, or one that begins otherwise.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The file {path} cannot be read: {error}.") from error
    head: dict[str, Any] = {}
    looks: dict[tuple[int, str, str], Record] = {}
    alarms: list[dict[str, Any]] = []
    for place, line in enumerate(lines):
        data = _object(line)
        if place == 0:
            head = data
            if head.get("schema") != SCHEMA:
                raise UserError(
                    f"{path} is not a record of looks of this version ({SCHEMA}); it says "
                    f"{head.get('schema')!r}."
                )
        elif "alarm" in data:
            alarms.append(data)
        elif data.keys() >= _NEEDED:
            found = Record.from_dict(data)
            looks[found.step, found.layer, found.operand] = found
    return head, list(looks.values()), alarms
