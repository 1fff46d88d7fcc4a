"""`nybble recipes`: the 4-bit recipes, and one of them in full."""

from __future__ import annotations

import json as json_text
from typing import Annotated

import typer

command = typer.Typer(
    invoke_without_command=True, help="List the 4-bit recipes, or print one in full."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@command.callback()
def list_recipes(context: typer.Context, json: AsJson = False) -> None:
    """List the recipes: name, bits of the operands of every Gemm, source.

    Example: nybble recipes
    """
    if context.invoked_subcommand is not None:
        return
    from nybble.recipes import RECIPES, get_recipe
    from nybble.reports.recipes import as_json, listing

    found = [get_recipe(name) for name in RECIPES]
    typer.echo(json_text.dumps([as_json(r) for r in found], indent=1) if json else listing(found))


@command.command("show")
def show(
    recipe: Annotated[
        str, typer.Argument(help="A name, switches after a colon: sun2020:factor=1.848+ste=clip.")
    ],
    json: AsJson = False,
) -> None:
    """Print one recipe: its six slots, its exceptions, its switches and the reason of each default.

    Example: nybble recipes show sun2020
    """
    from nybble.recipes import get_recipe
    from nybble.recipes.registry import split_name
    from nybble.reports.recipes import as_json, describe

    found = get_recipe(recipe)
    name, _ = split_name(recipe)
    typer.echo(json_text.dumps(as_json(found), indent=1) if json else describe(found, name))
    if not json and found.spec.quantizes:
        typer.echo("\nA slot is FORMAT·SCALE·ROUNDING·TRANSFORM: docs/quantizers.md has the words.")
