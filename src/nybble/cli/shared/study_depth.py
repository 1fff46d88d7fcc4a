"""`nybble study depth`: gradients of few bits in deep chains, measured without training runs."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated

import typer

from nybble.errors import UserError

_WHAT, _SHOW = "Study", "Output"
DEPTHS, SEEDS = "4,8,16,32", "0-4"


def depth(
    recipes: Annotated[
        str,
        typer.Option(
            help="As in sun2020,sun2020:gradients=radix2; if not given, radix 4 to the nearest, in "
            "two phases and at random, radix 2, and what the registry has of luq, nvfp4, "
            "tseng2025, nybble4.",
            rich_help_panel=_WHAT,
        ),
    ] = "",
    depths: Annotated[
        str | None,
        typer.Option(help=f"Blocks of the chains; {DEPTHS} if not given.", rich_help_panel=_WHAT),
    ] = None,
    kinds: Annotated[
        str, typer.Option(help="plain, residual, or both.", rich_help_panel=_WHAT)
    ] = "plain,residual",
    forwards: Annotated[
        str,
        typer.Option(
            help="float32 (only gradients are quantised), quantised, or both.",
            rich_help_panel=_WHAT,
        ),
    ] = "float32,quantised",
    layers: Annotated[str, typer.Option(help="linear or conv.", rich_help_panel=_WHAT)] = "linear",
    width: Annotated[
        int, typer.Option(min=2, help="Width, or channels.", rich_help_panel=_WHAT)
    ] = 64,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Examples a batch.", rich_help_panel=_WHAT)
    ] = 64,
    batches: Annotated[int, typer.Option(min=1, help="Batches a seed.", rich_help_panel=_WHAT)] = 2,
    steps: Annotated[
        int, typer.Option(min=0, help="Float32 training steps before.", rich_help_panel=_WHAT)
    ] = 0,
    seeds: Annotated[
        str | None, typer.Option(help=f"{SEEDS} if not given.", rich_help_panel=_WHAT)
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="torch's threads.", rich_help_panel=_WHAT)
    ] = 1,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Depths 4,8 and three seeds.", rich_help_panel=_WHAT),
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(help="Also write a page with curves to this file.", rich_help_panel=_SHOW),
    ] = None,
    record: Annotated[
        str | None,
        typer.Option(help="Also write the record to results/NAME.json.", rich_help_panel=_SHOW),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the record.", rich_help_panel=_SHOW)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.", rich_help_panel=_SHOW)] = (
        False
    ),
) -> None:
    """Compare gradients of few bits with float32's, block by block, as chains get deeper.

    Example: nybble study depth --quick --page depth.html
    """
    from contextlib import nullcontext

    from nybble.cli.shared.output import bar
    from nybble.reports import depth as report
    from nybble.reports.results import check_name, save
    from nybble.studies.depth import DepthConfig, measure_depth
    from nybble.studies.depth.study import known
    from nybble.studies.spec import parse_counts, parse_recipes, parse_seeds
    from nybble.training.files import disk_errors, finite, write_atomic

    if record is not None:
        check_name(record, Path("results"))
    if page is not None and not page.parent.is_dir():
        raise UserError(f"--page {page}: there is no folder {page.parent}; make it first.")
    if quick and (depths, seeds) != (None, None):
        raise UserError("--quick has its own --depths and --seeds; leave out one or the other.")
    chosen, notes = known()
    if recipes:
        chosen, notes = tuple(spec.text for spec in parse_recipes(recipes)), ()
    config = DepthConfig(
        recipes=chosen,
        depths=(4, 8) if quick else parse_counts(depths or DEPTHS, "depths"),
        kinds=_words(kinds),
        forwards=_words(forwards),
        layers=layers,
        width=width,
        batch_size=batch_size,
        batches=batches,
        steps=steps,
        seeds=(0, 1, 2) if quick else parse_seeds(seeds or SEEDS),
        threads=threads,
    )
    what = "recipes on chains"
    with nullcontext() if quiet else bar(what) as advance:
        found = measure_depth(
            config,
            None if advance is None else lambda done, total: advance(what, done, total),
            notes,
        )
    typer.echo(json_text.dumps(finite(found), indent=1) if json else report.plain(found))
    if record is not None:  # before anything that may fail
        typer.echo(f"recorded in {save(found, record, Path('results'))}", err=True)
    if page is not None:
        with disk_errors(f"The page {page}"):
            write_atomic(page, report.page(found).encode())


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
