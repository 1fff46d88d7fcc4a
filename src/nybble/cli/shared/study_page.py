"""`nybble study page`: a recorded robustness or depth study as one HTML page with curves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def page(
    record: Annotated[
        str,
        typer.Argument(help="A record: a name in results/, or a file; or the --out of a study."),
    ],
    to: Annotated[Path, typer.Option(help="The page to write.")] = Path("study.html"),
) -> None:
    """Write the tables and curves of a robustness or depth study as one HTML page.

    Example: nybble study page runs/study-robustness-quick --to robustness.html
    """
    from nybble.errors import UserError
    from nybble.reports import conditions_page, depth
    from nybble.reports.results import kind
    from nybble.studies.study.reading import read_any
    from nybble.training.files import disk_errors, write_atomic

    found = read_any(record, Path("results"), "study page")
    try:
        text = depth.page(found) if kind(found) == "depth" else conditions_page.page(found)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"study page {record}: this is no whole record of a study ({type(error).__name__}: "
            f"{error})."
        ) from error
    with disk_errors(f"The page {to}"):
        write_atomic(to, text.encode())
    typer.echo(f"written to {to}", err=True)
