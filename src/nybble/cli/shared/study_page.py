"""`nybble study page`: a recorded robustness or depth study as one HTML page with curves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def page(
    record: Annotated[
        str, typer.Argument(help="A record: a name in results/, or a file of `--json`.")
    ],
    to: Annotated[Path, typer.Option(help="The page to write.")] = Path("study.html"),
) -> None:
    """Write the tables and curves of a robustness or depth study as one HTML page.

    Example: nybble study page robustness-quick --to robustness.html
    """
    import json

    from nybble.errors import UserError
    from nybble.reports import conditions_page, depth
    from nybble.reports.results import kind
    from nybble.training.files import disk_errors, write_atomic

    path = Path(record) if Path(record).is_file() else Path("results") / f"{record}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"study page: {path} cannot be read as a record ({why}); give a name in results/, or a "
            "file of `nybble study show --json`."
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"study page: {path} is no record.")
    try:
        text = depth.page(found) if kind(found) == "depth" else conditions_page.page(found)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"study page: {path} is no whole record of a study ({type(error).__name__}: {error})."
        ) from error
    with disk_errors(f"The page {to}"):
        write_atomic(to, text.encode())
    typer.echo(f"written to {to}", err=True)
