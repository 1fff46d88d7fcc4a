"""The looks of a run (`watch.jsonl`), thinned out and packed for a page.

A run of 100,000 steps and 200 layers has 240,000 looks, 100 MB of JSON; a page has room for a part
of it. Time is cut into columns of equal width; of each layer and operand the last look of a column
is kept, a real one, so that its numbers and its histogram belong together. What was worst inside a
column may be left out; alarms are not. Layers stand in the model's order, which their turns tell.

    steps     first and last step of each column
    values    operand -> measure -> one number of 16 bits a layer and column (`CODINGS`), base64
    bars      operand -> 16 bytes a layer and `bars_every` columns: 255 sqrt(share), base64
    formats   operand -> of each layer [[column from which it holds, index in `grids`], ...]

The file is read twice, a line at a time: first to learn how long it is, then to keep what is shown.
Only lines that are kept are parsed in full. A line that a crash cut off is left out and counted.

Not done here: thinning out by importance.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nybble.errors import UserError
from nybble.watching.record import OPERANDS, SCHEMA

__all__ = ["CODINGS", "MISSING", "MOST_COLUMNS", "Looks", "encode", "read_looks"]

MOST_COLUMNS: Final = 200
BINS: Final = 16
MISSING: Final = 65535
TOP: Final = 65534
FEWEST_COLUMNS, FEWEST_BARS = 20, 10
CODINGS: Final[dict[str, str]] = {
    "underflow": "share",
    "saturation": "share",
    "zeros": "share",
    "snr_db": "db",
    "cosine": "cosine",
    "norm_ratio": "log",
    "noise_ratio": "log",
    "used": "count",
    "scale": "log",
    "flips": "share",
    "alpha": "log",
}
"""How each measure is written in 16 bits; script.js has the inverse.

share    [0, 1] linearly      cosine   [-1, 1] linearly      db    [-100, 200] linearly
log      0 is 0, and ln from 1e-15 to 1e9 linearly           count as it is
"""
_BEGIN: Final = '{"step":'
_LOG: Final = (-15 * math.log(10), 9 * math.log(10))
_LOOK = re.compile(r'\{"step":(\d+),"layer":("(?:[^"\\]|\\.)*"),"operand":"(\w+)"')
_VALUE_BYTES, _BAR_BYTES = 2 * 4 / 3, BINS * 4 / 3


@dataclass
class Looks:
    """See the module. `layers`, `shown`: all that were looked at, and those that are in here."""

    every: int
    total: int
    layers: list[str]
    shown: list[str]
    steps: list[list[int]]
    bars_every: int
    values: dict[str, dict[str, str]]
    bars: dict[str, str]
    formats: dict[str, list[list[list[int]]]]
    grids: list[dict[str, Any]]
    alarms: list[dict[str, Any]]
    last: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    looks: int = 0
    damaged: int = 0

    def to_dict(self) -> dict[str, Any]:
        """What the page's script gets."""
        return {
            "every": self.every,
            "layers": self.shown,
            "steps": self.steps,
            "barsEvery": self.bars_every,
            "values": self.values,
            "bars": self.bars,
            "formats": self.formats,
            "grids": self.grids,
        }


def encode(coding: str, value: Any) -> int:
    """A number in 16 bits.

    >>> encode("share", 0.5), encode("log", 1.0), encode("count", 16), encode("db", None)
    (32767, 40959, 16, 65535)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return MISSING
    if coding == "count":
        return int(min(max(value, 0), TOP))
    if coding == "log":
        if value <= 0:
            return 0
        return 1 + round((TOP - 1) * _within((math.log(value) - _LOG[0]) / (_LOG[1] - _LOG[0])))
    low, high = {"share": (0.0, 1.0), "cosine": (-1.0, 1.0), "db": (-100.0, 200.0)}[coding]
    return round(TOP * _within((value - low) / (high - low)))


def _within(share: float) -> float:
    return min(1.0, max(0.0, share))


def read_looks(path: Path, budget: int) -> Looks | None:
    """What fits in about `budget` bytes of the file; None if it holds no look.

    Raises:
        UserError: it cannot be read, or another version wrote it.
    """
    try:
        return _read(path, budget)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def _read(path: Path, budget: int) -> Looks | None:
    head = _head(path)
    every = max(1, int(head.get("every") or 1))
    first: dict[str, tuple[int, int]] = {}
    series: set[tuple[str, str]] = set()
    grids: dict[str, list[float]] = {}
    alarms: list[dict[str, Any]] = []
    longest = looks = damaged = 0
    for line in _lines(path):
        if (found := _LOOK.match(line)) and line.endswith("}"):
            longest = max(longest, int(found[1]))
            looks += 1
            if (found[2], found[3]) not in series:
                series.add((found[2], found[3]))
                # Layers take turns: the model's l-th of L is first seen at step 1 - l every / L.
                turn = (1 - int(found[1])) % every
                first.setdefault(json.loads(found[2]), (turn, len(first)))
            continue
        other = _parsed(line)
        if other is None:
            damaged += 1
        elif "alarm" in other:
            alarms.append(other)
        elif isinstance(other.get("values"), list):
            grids[str(other.get("format"))] = other["values"]
    if not longest:
        return None
    layers = sorted(first, key=first.__getitem__)
    shown = _chosen(layers, alarms, budget)
    per_layer = max(1.0, len(series) / len(layers))
    count = per_layer * len(shown)
    columns = _fit(0.7 * budget / (_VALUE_BYTES * (len(CODINGS) - 1) * count), FEWEST_COLUMNS)
    rounds = -(-longest // every)
    width = every * -(-rounds // columns)
    columns = -(-longest // width)
    most_bars = _fit(0.3 * budget / (_BAR_BYTES * count), FEWEST_BARS)
    packer = _Packer(shown, columns, width, -(-columns // most_bars))
    damaged += packer.take(path)
    return Looks(
        every=every,
        total=longest,
        layers=layers,
        shown=shown,
        steps=[[c * width + 1, min(longest, (c + 1) * width)] for c in range(columns)],
        bars_every=packer.bars_every,
        values=packer.values(),
        bars=packer.histograms(),
        formats=packer.formats,
        grids=packer.grids(grids),
        alarms=alarms,
        last=packer.last,
        looks=looks,
        damaged=damaged,
    )


def _fit(count: float, fewest: int) -> int:
    return int(min(MOST_COLUMNS, max(fewest, count)))


def _chosen(layers: list[str], alarms: list[dict[str, Any]], budget: int) -> list[str]:
    """The layers that have room: those with an alarm first, then some from front to back."""
    room = len(OPERANDS) * (
        FEWEST_COLUMNS * _VALUE_BYTES * (len(CODINGS) - 1) + FEWEST_BARS * _BAR_BYTES
    )
    most = max(4, int(budget / room))
    if len(layers) <= most:
        return layers
    keep = [name for name in dict.fromkeys(str(a.get("layer")) for a in alarms) if name in layers]
    keep = keep[:most]
    rest = [name for name in layers if name not in set(keep)]
    free = most - len(keep)
    if free == 1:
        keep.append(rest[0])
    elif free > 1:
        keep += [rest[round(i * (len(rest) - 1) / (free - 1))] for i in range(free)]
    order = {name: place for place, name in enumerate(layers)}
    return sorted(set(keep), key=order.__getitem__)


def _lines(path: Path) -> Iterator[str]:
    """Every line but the first. What a crash cut off and a resumed run went on behind is two."""
    with path.open(encoding="utf-8", errors="replace") as file:
        next(file, None)
        for whole in file:
            line = whole.strip()
            while (cut := line.find(_BEGIN, 1)) > 0:  # inside a string its quotes are escaped
                yield line[:cut]
                line = line[cut:]
            if line:
                yield line


def _head(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8", errors="replace") as file:
        head = _parsed(file.readline()) or {}
    if head.get("schema") != SCHEMA:
        raise UserError(
            f"{path} says schema {head.get('schema')!r}; this version reads {SCHEMA!r}."
        )
    return head


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        data = json.loads(line)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


class _Packer:
    """The looks that are kept, as arrays."""

    def __init__(self, layers: list[str], columns: int, width: int, bars_every: int) -> None:
        self.layers, self.columns, self.width, self.bars_every = layers, columns, width, bars_every
        self.place = {name: i for i, name in enumerate(layers)}
        self.numbers: dict[tuple[str, str], npt.NDArray[np.uint16]] = {}
        self.shares: dict[str, npt.NDArray[np.uint8]] = {}
        self.formats: dict[str, list[list[list[int]]]] = {}
        self.names: dict[str, int] = {}
        self.bits: dict[str, int] = {}
        self.last: dict[tuple[str, str], dict[str, Any]] = {}

    def take(self, path: Path) -> int:
        """Read the file; how many lines were damaged."""
        kept: dict[tuple[int, str, str], tuple[int, str]] = {}
        names: dict[str, str] = {}  # as written -> the layer's name
        for line in _lines(path):
            found = _LOOK.match(line)
            if found is None or found[3] not in OPERANDS or not line.endswith("}"):
                continue
            step, written = int(found[1]), found[2]
            name = names.get(written)
            if name is None:
                name = names[written] = json.loads(written)
            key = ((step - 1) // self.width, name, found[3])
            # Of a step that was run twice, after a resume, the later look counts.
            if name in self.place and step >= kept.get(key, (0, ""))[0]:
                kept[key] = (step, line)
        damaged = 0
        for (column, name, operand), (_, line) in sorted(kept.items(), key=lambda k: k[0][0]):
            data = _parsed(line)
            if data is None:
                damaged += 1
                continue
            self._put(column, self.place[name], operand, data)
            self.last[name, operand] = data
        return damaged

    def _put(self, column: int, row: int, operand: str, data: dict[str, Any]) -> None:
        for measure, coding in CODINGS.items():
            value = data.get(measure)
            if measure == "alpha" and isinstance(value, list):
                value = value[0] if value else None
            code = encode(coding, value)
            if code == MISSING:
                continue
            table = self.numbers.get((operand, measure))
            if table is None:
                table = np.full((len(self.layers), self.columns), MISSING, dtype="<u2")
                self.numbers[operand, measure] = table
            table[row, column] = code
        name = str(data.get("format"))
        index = self.names.setdefault(name, len(self.names))
        self.bits[name] = int(data.get("bits") or 0)
        rows = self.formats.setdefault(operand, [[] for _ in self.layers])
        if not rows[row] or rows[row][-1][1] != index:
            rows[row].append([column, index])
        counts = data.get("histogram")
        if not isinstance(counts, list) or not counts or len(counts) > BINS:
            return
        total = sum(counts)
        if total <= 0:
            return
        if operand not in self.shares:
            slots = -(-self.columns // self.bars_every)
            self.shares[operand] = np.zeros((len(self.layers), slots, BINS), dtype=np.uint8)
        bars = [0 if c <= 0 else max(1, round(255 * math.sqrt(c / total))) for c in counts]
        target = self.shares[operand][row, column // self.bars_every]
        target[:] = 0
        target[: len(bars)] = bars

    def values(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for operand in OPERANDS:
            for measure in CODINGS:
                table = self.numbers.get((operand, measure))
                if table is not None:
                    found.setdefault(operand, {})[measure] = _text(table)
        return found

    def histograms(self) -> dict[str, str]:
        return {operand: _text(table) for operand, table in self.shares.items()}

    def grids(self, known: dict[str, list[float]]) -> list[dict[str, Any]]:
        return [
            {"name": name, "bits": self.bits[name], "values": known.get(name, [])}
            for name in self.names
        ]


def _text(table: npt.NDArray[Any]) -> str:
    return base64.b64encode(table.tobytes()).decode("ascii")
