"""`nybble formats`: all number formats, and one of them with its code table."""

from __future__ import annotations

import json as json_text
from typing import Annotated

import typer


def command(
    name: Annotated[
        str | None, typer.Argument(help="A format, for example fp4_radix4; all when left out.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the number formats, or print one with its codes, its range and its special numbers.

    Example: nybble formats fp4_radix4
    """
    from nybble.formats.describe import describe, listing, page
    from nybble.formats.registry import FORMATS, get_format

    if name is None:
        found = [describe(fmt, codes=False) for fmt in FORMATS.values()]
        typer.echo(json_text.dumps(found, indent=1) if json else listing())
        return
    fmt = get_format(name)
    typer.echo(json_text.dumps(describe(fmt), indent=1) if json else page(fmt))
