"""`nybble figures`: the views of 4-bit training as figures for a paper, each from a short run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nybble.cli.shared.output import JsonOption

if TYPE_CHECKING:
    from nybble.studies.views import ViewConfig

command = typer.Typer(no_args_is_help=True, help="Draw the figures of 4-bit training for a paper.")

_FILE, _RUN = "Output", "Run"
OutOption = Annotated[
    str, typer.Option(metavar="FILE", help="The figure: .svg, .pdf or .png.", rich_help_panel=_FILE)
]
WidthOption = Annotated[float, typer.Option(help="Width in inches.", rich_help_panel=_FILE)]
DataOption = Annotated[str, typer.Option(help="Images (`nybble data`).", rich_help_panel=_RUN)]
ModelOption = Annotated[
    str, typer.Option(help="As `nybble train vision` takes it.", rich_help_panel=_RUN)
]
RecipeOption = Annotated[
    str, typer.Option(help="As in sun2020:factor=1.848; or fp32.", rich_help_panel=_RUN)
]
FourBitOption = Annotated[
    str, typer.Option(help="As in sun2020:phases=odd-even.", rich_help_panel=_RUN)
]
StepsOption = Annotated[int, typer.Option(help="Training steps.", rich_help_panel=_RUN)]
SeedOption = Annotated[int, typer.Option(help="Of weights and batches.", rich_help_panel=_RUN)]
BatchOption = Annotated[
    int, typer.Option("--batch-size", help="Images a step.", rich_help_panel=_RUN)
]
ThreadsOption = Annotated[int, typer.Option(help="torch's threads.", rich_help_panel=_RUN)]


@command.callback()
def _group() -> None:
    """Draw the figures of 4-bit training for a paper."""


@command.command("gradients")
def gradients(
    out: OutOption,
    layer: Annotated[
        str | None,
        typer.Option(help="A layer's name; a middle one if not given.", rich_help_panel=_RUN),
    ] = None,
    against: Annotated[
        str,
        typer.Option(help="Quantizers beside the recipe's own, or none.", rich_help_panel=_RUN),
    ] = "int4:absmax",
    data: DataOption = "mnist5k",
    model: ModelOption = "resnet8",
    recipe: RecipeOption = "sun2020",
    steps: StepsOption = 30,
    seed: SeedOption = 0,
    batch_size: BatchOption = 64,
    threads: ThreadsOption = 1,
    width: WidthOption = 6.5,
    json: JsonOption = None,
) -> None:
    """A layer's output gradient on a log axis, beside the grids that it may be rounded to.

    Example: nybble figures gradients --out gradients.pdf --against int4:absmax,fp4_radix2:absmax
    """
    from nybble.studies.views import measure_gradients

    config = _config(data, model, recipe, steps, seed, batch_size, threads)
    names = () if against == "none" else tuple(part for part in against.split(",") if part)
    _draw(out, width, json, lambda progress: measure_gradients(config, layer, names, progress))


@command.command("rounding-factor")
def rounding_factor(
    out: OutOption,
    layer: Annotated[
        str | None, typer.Option(help="A layer's name; all if not given.", rich_help_panel=_RUN)
    ] = None,
    data: DataOption = "mnist5k",
    model: ModelOption = "resnet8",
    recipe: RecipeOption = "sun2020",
    steps: StepsOption = 30,
    seed: SeedOption = 0,
    batch_size: BatchOption = 64,
    threads: ThreadsOption = 1,
    width: WidthOption = 6.5,
    json: JsonOption = None,
) -> None:
    """The error of radix-4 rounding against its factor, with the minimum, and the shrinkage.

    Example: nybble figures rounding-factor --out rounding-factor.pdf --recipe fp32
    """
    from nybble.studies.views import measure_rounding_factor

    config = _config(data, model, recipe, steps, seed, batch_size, threads)
    _draw(out, width, json, lambda progress: measure_rounding_factor(config, layer, progress))


@command.command("batch-norm")
def batch_norm(
    out: OutOption,
    data: DataOption = "mnist5k",
    model: ModelOption = "resnet8",
    recipe: FourBitOption = "sun2020",
    steps: StepsOption = 30,
    seed: SeedOption = 0,
    batch_size: BatchOption = 64,
    threads: ThreadsOption = 1,
    width: WidthOption = 6.5,
    json: JsonOption = None,
) -> None:
    """What batch norm receives and passes on: in float32, with one phase, and with two.

    Example: nybble figures batch-norm --out batch-norm.pdf --steps 20
    """
    from nybble.studies.views import measure_batch_norm

    config = _config(data, model, recipe, steps, seed, batch_size, threads)
    _draw(out, width, json, lambda progress: measure_batch_norm(config, progress))


@command.command("gradscale")
def gradscale(
    out: OutOption,
    layer: Annotated[
        str | None, typer.Option(help="Only this layer; all if not given.", rich_help_panel=_RUN)
    ] = None,
    data: DataOption = "mnist5k",
    model: ModelOption = "resnet8",
    recipe: FourBitOption = "sun2020",
    steps: StepsOption = 30,
    seed: SeedOption = 0,
    batch_size: BatchOption = 64,
    threads: ThreadsOption = 1,
    width: WidthOption = 6.5,
    json: JsonOption = None,
) -> None:
    """The history of each layer's GradScale, next to the gradients' maxima.

    Example: nybble figures gradscale --out gradscale.pdf --recipe sun2020:gradscale_start=one
    """
    from nybble.studies.views import measure_gradscale

    config = _config(data, model, recipe, steps, seed, batch_size, threads)
    _draw(out, width, json, lambda progress: measure_gradscale(config, layer, progress))


# ---- parts --------------------------------------------------------------------------------------


def _config(
    data: str, model: str, recipe: str, steps: int, seed: int, batch_size: int, threads: int
) -> ViewConfig:
    from nybble.studies.views import ViewConfig

    return ViewConfig(data, model, recipe, steps, seed, batch_size, threads)


def _draw(
    out: str,
    width: float,
    json: str | None,
    measure: Callable[[Callable[[int, int], None]], Mapping[str, Any]],
) -> None:
    """Refuse what could not be written; measure; write the figure and the numbers."""
    from nybble.cli.shared.output import bar, check, finish
    from nybble.reports.views import check_out, check_width, save_figure
    from nybble.reports.views_plain import plain

    check_out(out)
    check_width(width)
    check(json, None)
    with bar("training steps") as advance:
        found = measure(lambda done, total: advance("training steps", done, total))
    save_figure(found, out, width)
    finish(found, plain, json, None)
    typer.echo(f"figure: {out}", err=json == "-")
