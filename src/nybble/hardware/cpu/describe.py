"""A chip file from measured rows: the shipped description's text, with other [[measured]] tables.

    text = describe(rows, "my-cpu")         parse_chip(text, ...) gives the rows back

Peaks, memories and words are those of the shipped cpu-avx2, unless `peaks` of the same
measurement are given: then the bandwidths and the source of the rates are theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from nybble.errors import UserError
from nybble.hardware.chip import Chip, Figure, Measured
from nybble.hardware.chip_file import get_chip

__all__ = ["SHIPPED", "chip_of", "describe", "row_dicts", "rows_of", "save"]

SHIPPED = "cpu-avx2"
DIGITS = 4


def chip_of(rows: Sequence[Measured], peaks: Mapping[str, float] | None = None) -> Chip:
    """The shipped CPU with these rows, and these bandwidths."""
    chip = get_chip(SHIPPED)
    memories = tuple(
        replace(m, gb_per_s=replace(m.gb_per_s, value=peaks[f"{m.name} GB/s"]))
        if peaks and f"{m.name} GB/s" in peaks
        else m
        for m in chip.memories
    )
    return replace(chip, measured=tuple(rows), memories=memories)


def describe(rows: Sequence[Measured], name: str, peaks: Mapping[str, float] | None = None) -> str:
    """The text of a chip file named `name`.

    >>> row = Measured("torch", "relu", Figure(0.5, "here", "measured"), size=Figure(64.0))
    >>> 'side = "torch", name = "relu"' in describe([row], "mine")
    True
    """
    lines = _lines()
    lines[lines.index(f'name = "{SHIPPED}"')] = f"name = {json.dumps(name)}"
    for memory in get_chip(SHIPPED).memories:
        key = f"{memory.name} GB/s"
        if peaks and key in peaks:
            _set_bandwidth(lines, memory.name, peaks[key])
    start = lines.index(_OPEN)
    stop = lines.index(_CLOSE, start)
    return "\n".join([*lines[: start + 1], *map(_line, rows), *lines[stop:], ""])


def save(path: Path, rows: Sequence[Measured], peaks: Mapping[str, float] | None = None) -> None:
    """Write the file; its name without `.toml` is the chip's.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.write_text(describe(rows, path.stem, peaks), encoding="utf-8")
    except OSError as error:
        raise UserError(f"The chip file {path} cannot be written: {error.strerror}.") from error


def row_dicts(rows: Sequence[Measured]) -> list[dict[str, Any]]:
    """Rows as JSON values."""
    return [
        {
            "side": row.side,
            "name": row.name,
            "gemm": row.gemm,
            "left": row.left,
            "right": row.right,
            "size": row.size.value,
            "value": row.value.value,
        }
        for row in rows
    ]


def rows_of(dicts: Sequence[Mapping[str, Any]], source: str) -> tuple[Measured, ...]:
    """The rows of a record, measured by the command `source`.

    >>> row = Measured("torch", "relu", Figure(0.5, "here", "measured"), size=Figure(64.0))
    >>> rows_of(row_dicts([row]), "here") == (row,)
    True
    """
    return tuple(
        Measured(
            side=row["side"],
            name=row["name"],
            value=Figure(row["value"], source, "measured"),
            gemm=row["gemm"],
            left=row["left"],
            right=row["right"],
            size=Figure(row["size"]),
        )
        for row in dicts
    )


# ---- text ---------------------------------------------------------------------------------------

_OPEN, _CLOSE = "measured = [", "]"


def _lines() -> list[str]:
    """Of the shipped file, whose rows stand between two lines of their own."""
    file = resources.files("nybble.hardware").joinpath("chips", f"{SHIPPED}.toml")
    return file.read_text(encoding="utf-8").splitlines()


def _line(row: Measured) -> str:
    """One row in one line; a figure of the same value is read back from it."""
    parts = [f'side = "{row.side}"', f"name = {json.dumps(row.name, ensure_ascii=False)}"]
    for field in ("gemm", "left", "right"):
        value = getattr(row, field)
        if value:
            parts.append(f'{field} = "{value}"')
    parts.append(f"size = {_number(row.size)}")
    source = json.dumps(row.value.source, ensure_ascii=False)
    kind = row.value.confidence or "measured"
    parts.append(
        f'value = {{ value = {_number(row.value)}, source = {source}, confidence = "{kind}" }}'
    )
    return f"    {{ {', '.join(parts)} }},"


def _number(figure: Figure) -> str:
    """Four digits are more than a measurement has.

    >>> _number(Figure(0.123456)), _number(Figure(2097152.0))
    ('0.1235', '2.097e+06')
    """
    return f"{figure.value:.{DIGITS}g}"


def _set_bandwidth(lines: list[str], memory: str, value: float) -> None:
    """Change the `gb_per_s` of one [[memory]] table."""
    start = lines.index(f'name = "{memory}"')
    place = next(i for i in range(start, len(lines)) if lines[i].startswith("gb_per_s"))
    lines[place] = (
        f'gb_per_s = {{ value = {value:.{DIGITS}g}, source = "nybble hardware validate: a copy, '
        'read and written", confidence = "measured" }'
    )
