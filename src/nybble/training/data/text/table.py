"""Labelled texts from a table: `table:FILE` or `table:DIR`, in CSV, TSV, JSONL or JSON.

    table:FILE   of every class a fixed random fifth is test
    table:DIR    DIR/train.EXT and DIR/test.EXT, perhaps valid.EXT

CSV and TSV have a header line; a line of JSONL is an object, JSON is a list of objects. The columns
are called `text` and `label` unless the options say otherwise; labels are taken as text, classes
are sorted (as numbers, if all are). A row without a label, a class that only the test set has, a
row with too few columns are refused with file and line; a row with an empty text is left out and
counted.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nybble.errors import UserError, suggest
from nybble.training.data.base import Found, Source, stratified_split
from nybble.training.data.text.base import LabelData, require_parts
from nybble.training.data.text.files import read_text, split_lines

ENDINGS = (".csv", ".tsv", ".jsonl", ".json")


@dataclass(frozen=True)
class Columns:
    """The names of the two columns."""

    text: str = "text"
    label: str = "label"


@dataclass(frozen=True)
class Row:
    """One text with its label as it stands in the file, and the line it stands in."""

    text: str
    label: str
    line: int


def load(argument: str, options: Columns | None = None) -> LabelData:
    """Read the table or the folder of tables."""
    columns = options or Columns()
    path = Path(argument)
    if path.is_dir():
        return _load_folder(path, columns)
    rows, left_out = read_table(path, columns)
    classes = _classes(rows, path)
    labels = torch.tensor([classes.index(row.label) for row in rows])
    parts = stratified_split(labels, 0.2)
    train, test = (tuple((rows[i].text, int(labels[i])) for i in part.tolist()) for part in parts)
    require_parts(f"table:{argument}", training=train, test=test)
    notes = ("of every class a fixed random fifth is test", *_notes(left_out))
    return LabelData(f"table:{path.name}", train, (), test, classes, notes)


def read_table(path: Path, columns: Columns) -> tuple[list[Row], int]:
    """The rows of one file, and how many were left out for an empty text."""
    if not path.is_file():
        raise UserError(f"The table {path} does not exist.")
    if path.suffix.lower() not in ENDINGS:
        raise UserError(
            f"{path}: a table's name ends in {', '.join(ENDINGS)}, not '{path.suffix}'."
        )
    text = read_text(path)
    rows, left_out = [], 0
    for line, record in _records(path, text):
        for name in (columns.text, columns.label):
            if name not in record:
                known = ", ".join(map(str, record))
                raise UserError(
                    f"{path}, line {line}: there is no column '{name}'; there are {known}."
                    f"{suggest(name, map(str, record))}"
                )
        content, label = record[columns.text], record[columns.label]
        if label is None or str(label).strip() == "":
            raise UserError(f"{path}, line {line}: the column '{columns.label}' is empty.")
        if content is not None and not isinstance(content, str):
            raise UserError(
                f"{path}, line {line}: the column '{columns.text}' holds "
                f"{type(content).__name__}, not text."
            )
        shortened = " ".join((content or "").split())
        if shortened:
            rows.append(Row(shortened, str(label).strip(), line))
        else:
            left_out += 1
    if not rows:
        raise UserError(f"{path} holds no row with a text.")
    return rows, left_out


def _records(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) for each row of the file, whatever its format."""
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        yield from _csv_records(path, text, "," if ending == ".csv" else "\t")
        return
    if ending == ".jsonl":
        for number, line in enumerate(split_lines(text), start=1):
            if line.strip():
                yield number, _object(_json(line, path, number - 1), path, number)
        return
    rows = _json(text, path, 0)
    if not isinstance(rows, list):
        raise UserError(f"{path} must be a list of objects, not {type(rows).__name__}.")
    for number, row in enumerate(rows, start=1):
        yield number, _object(row, path, number)


def _csv_records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for row in reader:
            if not row:
                continue
            if header is None:
                header = [name.strip() for name in row]
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(row)} columns, but the header has "
                    f"{len(header)}."
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}.") from None


def _json(text: str, path: Path, before: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        line = before + getattr(error, "lineno", 1)
        raise UserError(f"{path}, line {line}: no JSON ({error}).") from None


def _object(row: Any, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{path}, line {number}: a row must be an object, not {row!r:.40}.")
    return row


def _classes(rows: list[Row], path: Path) -> tuple[str, ...]:
    names = {row.label for row in rows}
    numbers = all(name.lstrip("-").isdigit() for name in names)
    classes = tuple(sorted(names, key=int) if numbers else sorted(names))
    if len(classes) < 2:
        raise UserError(f"{path} has one class only ('{classes[0]}'); a classifier needs two.")
    if len(classes) > 1000:
        raise UserError(f"{path} has {len(classes)} classes; is the label's column the right one?")
    return classes


def _load_folder(folder: Path, columns: Columns) -> LabelData:
    paths: dict[str, Path] = {}
    for part in ("train", "valid", "test"):
        found = [folder / f"{part}{ending}" for ending in ENDINGS]
        there = [path for path in found if path.is_file()]
        if len(there) > 1:
            raise UserError(f"{folder} holds both {there[0].name} and {there[1].name}; keep one.")
        if there:
            paths[part] = there[0]
        elif part != "valid":
            raise UserError(f"{folder} has no {part} table ({part}{', '.join(ENDINGS)}).")
    train, left_out = read_table(paths["train"], columns)
    classes = _classes(train, paths["train"])
    parts: dict[str, tuple[tuple[str, int], ...]] = {"valid": ()}
    for part, path in paths.items():
        rows, count = (train, 0) if part == "train" else read_table(path, columns)
        left_out += count
        for row in rows:
            if row.label not in classes:
                raise UserError(
                    f"{path}, line {row.line}: the label '{row.label}' is unknown; "
                    f"{paths['train'].name} has {', '.join(classes[:10])}."
                )
        parts[part] = tuple((row.text, classes.index(row.label)) for row in rows)
    return LabelData(
        f"table:{folder.name}",
        parts["train"],
        parts["valid"],
        parts["test"],
        classes,
        _notes(left_out),
    )


def _notes(left_out: int) -> tuple[str, ...]:
    return (f"{left_out} rows with an empty text left out",) if left_out else ()


SOURCE = Source(
    name="table",
    usage="table:FILE",
    summary="your labelled texts: CSV, TSV, JSONL or JSON with columns text and label",
    install="give a table: nybble train text --data table:FILE.csv",
    load=load,
    find=lambda: Found(None),
    tasks=("text",),
    argument="required",
    licence="yours",
)
