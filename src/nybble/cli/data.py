"""`nybble data list`: what `--data` accepts, whether it is here, and how to get it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

command = typer.Typer(no_args_is_help=True, help="The data sets that can be used here.")


@command.callback()
def _group() -> None:
    """The data sets that can be used here."""


@command.command("list")
def list_sources(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every source by task: found or not, where it was looked for, how to install it.

    Example: nybble data list
    """
    from nybble.training.data.registry import SOURCES

    rows = [describe(source) for source in SOURCES.values()]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for place, task in enumerate(dict.fromkeys(t for row in rows for t in row["tasks"])):
        typer.echo(("\n" if place else "") + f"{task}:")
        show([row for row in rows if task in row["tasks"]])


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows of one task."""
    for row in rows:
        typer.echo(f"{row['usage']:<18} {row['status']:<10} {row['summary']}")
        if row["path"]:
            typer.echo(f"{'':<18} in {row['path']}")
        elif row["looked_in"]:
            typer.echo(f"{'':<18} looked in {', '.join(row['looked_in'])}")
        if row["status"] != "found":
            typer.echo(f"{'':<18} {row['install']}")


def describe(source: Any) -> dict[str, Any]:
    """One source as a JSON-ready row; status is "found", "missing" or "yours" (you give a path)."""
    found = source.find()
    status = "found" if found.path else "missing" if found.looked_in else "yours"
    return {
        "name": source.name,
        "tasks": list(source.tasks),
        "usage": source.usage,
        "status": status,
        "path": found.path,
        "looked_in": list(found.looked_in),
        "install": source.install,
        "licence": source.licence,
        "summary": source.summary,
    }
