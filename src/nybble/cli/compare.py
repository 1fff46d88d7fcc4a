"""`nybble compare`: the same model with several recipes and seeds, a table, a page, a record.

Every option of `nybble train` that describes training is an option here too, with the same name,
help and default; they are taken over from there, so the two commands cannot drift apart.
"""

from __future__ import annotations

import inspect
import json as json_text
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from nybble.cli import train

if TYPE_CHECKING:
    from nybble.studies.spec import RecipeSpec
    from nybble.training.config import TrainConfig

_STUDY, _SHOW = "Comparison", "Output"
STANDARD = "fp32,fp16,sun2020"
"""The paper's comparison: 4 bits beside the two baselines."""

NOT_SHARED = ("context", "recipe", "seed", "out", "resume", "tensorboard", "quiet")
"""Options of `train` that a comparison sets itself."""


def command(
    context: typer.Context,
    recipes: Annotated[
        str | None,
        typer.Option(
            help="Separated by commas; the switches of one follow a colon and are joined by +, as "
            "in fp32,sun2020,sun2020:factor=1.848+odd_offset=+1. fp32,fp16,sun2020 if not given.",
            rich_help_panel=_STUDY,
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="As in 0,1,2 or 0-4.", rich_help_panel=_STUDY)
    ] = "0,1,2",
    switches: Annotated[
        str,
        typer.Option(
            help="Switches to set on recipes of the list, as in sun2020:factor=1.848.",
            rich_help_panel=_STUDY,
        ),
    ] = "",
    best_of: Annotated[
        str,
        typer.Option(
            help="Recipes of which the best on --select-seeds becomes one more row, marked as "
            "chosen, as in 'sun2020:factor=1.848;sun2020:phases=odd-even'. auto: with --recipes, "
            "the candidates of a recipe among them; none: no such row.",
            rich_help_panel=_STUDY,
        ),
    ] = "auto",
    select_seeds: Annotated[
        str,
        typer.Option(
            help="Seeds for choosing, none of --seeds; two from 10 on if not given.",
            rich_help_panel=_STUDY,
        ),
    ] = "",
    select_epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs of the choosing runs; a quarter of --epochs if not given.",
            min=1,
            rich_help_panel=_STUDY,
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(help="Runs at the same time.", min=1, rich_help_panel=_STUDY)
    ] = 1,
    step_pairs: Annotated[
        int,
        typer.Option(
            help="Pairs of steps timed for the step time ratio; 0: none.",
            min=0,
            rich_help_panel=_STUDY,
        ),
    ] = 20,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Train failed runs again.", rich_help_panel=_STUDY),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the comparison; runs/compare-<task>-<data>-<model> if not given.",
            rich_help_panel=_SHOW,
        ),
    ] = None,
    record: Annotated[
        str | None,
        typer.Option(help="Also write the record to results/NAME.json.", rich_help_panel=_SHOW),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the record, not the table.", rich_help_panel=_SHOW)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress of runs.", rich_help_panel=_SHOW)
    ] = False,
    **training: Any,
) -> None:
    """Train the same model with several recipes and seeds, and compare them.

    Example: nybble compare vision --data mnist5k --model resnet8 --recipes fp32,sun2020 --seeds 0,1

    Runs of one seed see the same batches, so differences are paired by seed. Ctrl-C saves; the same
    command continues, and takes over what is finished. Status 3 says that some run failed.
    """
    from rich.console import Console

    from nybble.reports import results, table
    from nybble.reports.html import write_page
    from nybble.studies.compare import CompareConfig, compare
    from nybble.studies.spec import apply_switches, other_seeds, parse_recipes, parse_seeds
    from nybble.training.allocator import keep_freed_memory
    from nybble.training.signals import Interrupted

    keep_freed_memory()
    if record is not None:
        results.check_name(record, Path("results"))
    base = train.configuration({**training, "quiet": quiet}, context)
    specs = apply_switches(parse_recipes(recipes or STANDARD), switches)
    reported = parse_seeds(seeds)
    settings = candidates(specs) if best_of == "auto" and recipes else ()
    if best_of not in ("auto", "none"):
        settings = tuple(spec.text for spec in parse_recipes(best_of))
    config = CompareConfig(
        base=base,
        recipes=tuple(spec.text for spec in specs),
        seeds=reported,
        out=out or default_folder(base),
        jobs=jobs,
        step_pairs=step_pairs,
        retry_failed=retry_failed,
        best_of=settings,
        select_seeds=parse_seeds(select_seeds) if select_seeds else other_seeds(reported),
        select_epochs=select_epochs,
    )
    try:
        found = compare(config, say=lambda line: print(line, file=sys.stderr, flush=True))
    except Interrupted as stop:
        print(f"nybble: {stop}. The same command continues.", file=sys.stderr)
        raise typer.Exit(stop.status) from None
    page = config.out / "report.html"
    write_page(page, found)
    if json:
        typer.echo(json_text.dumps(found, indent=1, ensure_ascii=False))
    else:
        table.show(found, Console())
    print(f"report: {page}", file=sys.stderr)
    train.report_of(config.out)
    if record is not None:
        print(f"record: {results.save(found, record, Path('results'))}", file=sys.stderr)
    if any(row["problems"] for row in found["rows"]):
        raise typer.Exit(3)


def candidates(specs: Sequence[RecipeSpec]) -> tuple[str, ...]:
    """The settings of `--best-of auto`: the candidates of the first recipe that has some, unless
    the list holds a setting of it already: then the user has chosen.

    >>> from nybble.studies.spec import parse_recipes
    >>> candidates(parse_recipes("fp32,sun2020"))[:2]
    ('sun2020:factor=1.848', 'sun2020:phases=odd-even')
    >>> candidates(parse_recipes("sun2020,sun2020:factor=1.848"))
    ()
    """
    from nybble.recipes import get_recipe

    for spec in specs:
        found = get_recipe(spec.name).candidates
        if found and [other.name for other in specs].count(spec.name) == 1 and not spec.switches:
            return tuple(f"{spec.name}:{setting}" for setting in found)
    return ()


def default_folder(base: TrainConfig) -> Path:
    """runs/compare-<task>-<data>-<model>, with characters that a folder's name may have.

    >>> from nybble.training.config import TrainConfig
    >>> default_folder(TrainConfig(data="folder:my/photos")).name
    'compare-vision-folder_my_photos-resnet8'
    """
    from nybble.training.config import folder_name

    whole = base.resolved()
    return Path("runs") / folder_name("-".join(("compare", base.task, whole.data, whole.model)))


def _share_training_options() -> None:
    """Give `command` the parameters of `train.command` in place of `**training`."""
    mine, theirs = inspect.signature(command), inspect.signature(train.command)
    hints = get_type_hints(train.command, include_extras=True)
    own = [p for p in mine.parameters.values() if p.kind is not p.VAR_KEYWORD]
    shared = [
        p.replace(annotation=hints[p.name])
        for p in theirs.parameters.values()
        if p.name not in NOT_SHARED
    ]
    own_hints = get_type_hints(command, include_extras=True)
    own = [p.replace(annotation=own_hints[p.name]) for p in own]
    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared)]
    command.__signature__ = mine.replace(parameters=keyword)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in keyword}


_share_training_options()
