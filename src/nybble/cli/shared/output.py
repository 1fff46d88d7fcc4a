"""What the commands of `nybble bench` share: progress, `--json`, `--record`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from nybble.errors import UserError

JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="-|FILE", help="Write the record as JSON: - is standard output, alone."
    ),
]
RecordOption = Annotated[
    str | None, typer.Option(help="Also write the measurement to results/NAME.json.")
]
NoteOption = Annotated[
    str | None,
    typer.Option(help="A sentence for the record: why a figure is what it is."),
]
RESULTS = Path("results")


def check(json_to: str | None, record: str | None) -> None:
    """Refuse, before minutes of measuring, what could not be written after them."""
    from nybble.reports.results import check_name

    if record is not None:
        check_name(record, RESULTS)
    if json_to not in (None, "-"):
        path = Path(str(json_to))
        if path.is_dir() or not path.parent.is_dir():
            raise UserError(f"--json {json_to}: give - or a file in a folder that exists.")


def finish(
    found: Mapping[str, Any],
    text: Callable[[Mapping[str, Any]], str],
    json_to: str | None,
    record: str | None,
    note: str | None = None,
) -> None:
    """Print the table, or the JSON object alone; write what was asked for."""
    from nybble.reports.results import save
    from nybble.studies.record import write_record

    found = {**found, "note": note} if note else found
    if json_to == "-":
        typer.echo(json.dumps(found, indent=1, allow_nan=False))
    else:
        typer.echo(text(found))
        if json_to is not None:
            write_record(Path(json_to), found)
            typer.echo(f"written to {json_to}", err=True)
    if record is not None:
        typer.echo(f"recorded in {save(found, record, RESULTS)}", err=True)


@contextmanager
def bar(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr, when that is a terminal: what is going on, done, total (0: not
    known)."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)

        def advance(now: str, done: int, total: int) -> None:
            progress.update(task, description=now, completed=done, total=total or None)

        yield advance
