"""`nybble bench`: what a training step costs."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

command = typer.Typer(no_args_is_help=True, help="Measure speed.")


@command.callback()
def _group() -> None:
    """Measure speed."""


@command.command("emulation")
def emulation(
    recipe: Annotated[str, typer.Option(help="A recipe (`nybble recipes`).")] = "sun2020",
    model: Annotated[
        str, typer.Option(help="cnn, resnet8, resnet14, resnet20, resnet18 or module:function.")
    ] = "resnet14",
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 64,
    size: Annotated[int, typer.Option(help="Pixels of an image's side.")] = 28,
    channels: Annotated[int, typer.Option(help="Channels of an image.")] = 1,
    pairs: Annotated[int, typer.Option(help="Pairs of steps to time.")] = 40,
    threads: Annotated[
        str | None,
        typer.Option(help="Numbers of threads, as in 1,2; 1 and all cores if not given."),
    ] = None,
    backend: Annotated[str, typer.Option(help="reference or native.")] = "reference",
    record: Annotated[
        str | None, typer.Option(help="Also write the measurement to results/NAME.json.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Time the emulated 4-bit step against float32 in the same process, step by step in turn.

    Example: nybble bench emulation --recipe sun2020 --model resnet14 --batch-size 64 --threads 1
    """
    from nybble.reports import bench
    from nybble.reports.results import check_name, save
    from nybble.studies.emulation import EmulationConfig, measure_emulation
    from nybble.studies.spec import parse_counts
    from nybble.training.allocator import keep_freed_memory

    keep_freed_memory()
    if record is not None:
        check_name(record, Path("results"))
    config = EmulationConfig(
        recipe=recipe,
        model=model,
        batch_size=batch_size,
        size=size,
        channels=channels,
        pairs=pairs,
        threads=parse_counts(threads, "threads") if threads else (),
        backend=backend,
    )
    with _bar("pairs of steps") as advance:
        found = measure_emulation(config, advance)
    typer.echo(json_text.dumps(found, indent=1) if json else bench.plain(found))
    if record is not None:
        typer.echo(f"recorded in {save(found, record, Path('results'))}", err=True)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, when that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
