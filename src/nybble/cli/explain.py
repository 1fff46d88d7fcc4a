"""`nybble explain`: 4-bit training on one page with sliders."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from nybble.errors import UserError


def command(
    out: Annotated[Path, typer.Option(help="The HTML page.")] = Path("explain.html"),
    picture: Annotated[
        Path | None, typer.Option(help="Your own picture, PNG or JPEG; a drawn one if not given.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(help="small, a model of `nybble train vision`, or your own module:function."),
    ] = "small",
    seed: Annotated[int, typer.Option(min=0, help="First weights and order of the digits.")] = 0,
    no_race: Annotated[
        bool, typer.Option("--no-race", help="Leave the race out: a few seconds.")
    ] = False,
) -> None:
    """Explain 4-bit training on one HTML page with sliders, on your own picture and network.

    The library computes every number while the page is made, which takes half a minute.

    Example: nybble explain --out explain.html
    """
    from nybble.cli.shared.output import bar
    from nybble.reports.explain import collect, write_page
    from nybble.reports.explain.picture import drawn_picture, load_picture

    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"--out {out}: give a file in a folder that exists.")
    shown = drawn_picture() if picture is None else load_picture(picture)
    with bar("explain") as advance:
        found = collect(shown, seed=seed, model=model, with_race=not no_race, advance=advance)
    write_page(out, found, shlex.join(["nybble", *sys.argv[1:]]))
    typer.echo(f"page: {out}")
