"""`nybble study show`: the tables of a study, against any of its recipes, or its cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nybble.errors import UserError

RESULTS = Path("results")


def print_study(record: dict[str, Any], as_json: bool) -> None:
    """The tables on standard output, or the record.

    Raises:
        UserError: it is no whole record of a study.
    """
    from nybble.reports.study import plain

    if as_json:
        text = json.dumps(record, indent=1, allow_nan=False)
    else:
        try:
            text = plain(record)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"this is no whole record of a study ({type(error).__name__}: {error})."
            ) from error
    typer.echo(text)


def show(
    what: Annotated[
        str,
        typer.Argument(
            help="The --out of a study, running or not; a record: a name in results/, or a file."
        ),
    ],
    study: Annotated[
        str | None, typer.Option(help="Which one, where the folder holds several.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Compare with this recipe of the study, not with its own baseline."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="List the cells of --out for which this SQL condition holds."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The tables of a study as far as it has come, against any of its recipes; or its cells.

    Example: nybble study show nybble4 --baseline nybble4

    Cells: nybble study show runs/study-recipes --where "status = 'failed'"
    """
    if where is not None:
        if baseline is not None:
            raise UserError("study show: give --where, for cells, or --baseline, for tables.")
        _show_cells(Path(what), study, where, as_json)
        return
    from nybble.studies.study.reading import read_any
    from nybble.studies.study.rebase import rebase
    from nybble.studies.study.record import SCHEMA

    record = read_any(what, RESULTS, "study show", study)
    if record.get("schema") != SCHEMA:
        raise UserError(f"study show {what}: this is no record of a study.")
    print_study(record if baseline is None else rebase(record, baseline), as_json)


def _show_cells(out: Path, study: str | None, where: str, as_json: bool) -> None:
    from nybble.studies.study.run import check_study
    from nybble.studies.study.store import Store

    if not where.strip():
        raise UserError("--where: give an SQL condition, for example \"status = 'failed'\".")
    with Store(out, readonly=True) as store:
        check_study(store, out, study)
        cells = [c for c in store.query(where) if study is None or c["study"] == study]
        asked = {name: set(about["cells"]) for name, about in store.studies().items()}
    for cell in cells:
        cell["current"] = cell["key"] in asked.get(cell["study"], ())
    if as_json:
        typer.echo(json.dumps(cells, indent=1, allow_nan=False))
        return
    for cell in cells:
        metric = "" if cell["metric"] is None else f"{cell['metric']:.4g}"
        parts = [cell["task"], cell["variant"], cell["recipe"], f"seed {cell['seed']}"]
        what = ", ".join(part for part in parts if part)
        left = "" if cell["current"] else "(not of the study as it is now)"
        end = " ".join(part for part in (metric, cell["error"], left) if part)
        typer.echo(f"{cell['key']}  {cell['status']:<11}  {what}{f'  {end}' if end else ''}")
