"""`nybble train`: one model, one recipe, one seed."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated, Any

import typer

from nybble.errors import UserError

_RUN, _RECIPE, _SHOW = "Training", "Recipe", "Output"


def command(
    task: Annotated[str, typer.Argument(help="What to train: vision.")] = "vision",
    data: Annotated[
        str,
        typer.Option(help="mnist5k, mnist10k, fashion-mnist, cifar10:DIR, folder:DIR or hf:NAME."),
    ] = "mnist5k",
    model: Annotated[
        str,
        typer.Option(help="cnn, resnet8, resnet14, resnet20, resnet18 or module:function."),
    ] = "resnet8",
    recipe: Annotated[
        str,
        typer.Option(
            help="A recipe (`nybble recipes`), switches after a colon: sun2020:odd_offset=1.",
            rich_help_panel=_RECIPE,
        ),
    ] = "sun2020",
    rule: Annotated[
        list[str] | None,
        typer.Option(
            help="PATTERN=RECIPE for layers by name (none: leave them in float32). Repeatable.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="auto, reference or native.", rich_help_panel=_RECIPE)
    ] = "auto",
    accumulate: Annotated[
        str, typer.Option(help="fast or exact.", rich_help_panel=_RECIPE)
    ] = "fast",
    activations: Annotated[
        str,
        typer.Option(
            help="What normalisation and activation functions keep for backward: none (as torch),"
            " exact (less, where no gradient changes) or 4bit.",
            rich_help_panel=_RECIPE,
        ),
    ] = "none",
    loss_scale: Annotated[
        float | None,
        typer.Option(help="A power of two; the recipe's if not given.", rich_help_panel=_RECIPE),
    ] = None,
    alpha_lr: Annotated[
        float | None,
        typer.Option(help="Learning rate of learned clips.", rich_help_panel=_RECIPE),
    ] = None,
    alpha_weight_decay: Annotated[
        float | None,
        typer.Option(help="Weight decay of learned clips.", rich_help_panel=_RECIPE),
    ] = None,
    seed: Annotated[int, typer.Option(help="Initial weights, order of batches, augmentation.")] = 0,
    epochs: Annotated[int, typer.Option(help="Passes over the training set.")] = 8,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 128,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.", rich_help_panel=_RUN)] = "sgd",
    lr: Annotated[
        float | None,
        typer.Option(help="Peak learning rate; the model's if not given.", rich_help_panel=_RUN),
    ] = None,
    momentum: Annotated[float, typer.Option(help="Of SGD.", rich_help_panel=_RUN)] = 0.9,
    nesterov: Annotated[
        bool, typer.Option(help="Nesterov's momentum.", rich_help_panel=_RUN)
    ] = True,
    weight_decay: Annotated[
        float, typer.Option(help="Not on biases and batch norm.", rich_help_panel=_RUN)
    ] = 5e-4,
    schedule: Annotated[
        str, typer.Option(help="onecycle, cosine, step or constant.", rich_help_panel=_RUN)
    ] = "onecycle",
    warmup: Annotated[
        float, typer.Option(help="Share of the run in which the rate rises.", rich_help_panel=_RUN)
    ] = 0.2,
    label_smoothing: Annotated[
        float, typer.Option(help="Of the cross-entropy.", rich_help_panel=_RUN)
    ] = 0.0,
    zero_init: Annotated[
        bool, typer.Option(help="Residual blocks begin as the identity.", rich_help_panel=_RUN)
    ] = False,
    augmentation: Annotated[
        str,
        typer.Option(help="auto, none, shift, shift-flip, crop, crop-flip.", rich_help_panel=_RUN),
    ] = "auto",
    resize: Annotated[
        int | None, typer.Option(help="Bring images of a folder to this size.")
    ] = None,
    on_corrupt: Annotated[
        str, typer.Option(help="An image that cannot be decoded: stop or skip.")
    ] = "stop",
    limit_train: Annotated[
        int | None, typer.Option(help="Use that many training images only.")
    ] = None,
    limit_test: Annotated[int | None, typer.Option(help="Use that many test images only.")] = None,
    channels_last: Annotated[
        bool, typer.Option(help="Keep images in the channels-last layout.", rich_help_panel=_RUN)
    ] = True,
    threads: Annotated[
        int | None, typer.Option(help="Threads of torch.", rich_help_panel=_RUN)
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder of the run; runs/<task>-<data>-<model>-<recipe>-s<seed> if not given.",
            rich_help_panel=_SHOW,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue a run that was stopped.", rich_help_panel=_SHOW),
    ] = False,
    checkpoint_every: Annotated[
        int,
        typer.Option(help="Steps between checkpoints; 0: only at the end.", rich_help_panel=_SHOW),
    ] = 500,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write curves.", rich_help_panel=_SHOW)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Only log.txt, no progress.", rich_help_panel=_SHOW)
    ] = False,
) -> None:
    """Train one model with one recipe and write what happened to a folder.

    Example: nybble train vision --data mnist5k --model resnet8 --recipe sun2020 --epochs 3

    Ctrl-C saves the run; the same command with --resume continues it, bit for bit.
    """
    options = dict(locals())
    options["rules"] = tuple(parse_rule(text) for text in options.pop("rule") or [])
    from nybble.training.allocator import keep_freed_memory
    from nybble.training.config import TrainConfig
    from nybble.training.loop import train
    from nybble.training.signals import Interrupted

    config = TrainConfig(**options)
    keep_freed_memory()
    try:
        record = train(config)
    except Interrupted as stop:
        print(f"nybble: {stop}. Continue with: {_resume_command()}", file=sys.stderr)
        raise typer.Exit(stop.status) from None
    typer.echo(summary_line(record))


def parse_rule(text: str) -> tuple[str, str]:
    """ "PATTERN=RECIPE" -> (pattern, recipe); the last equals sign outside switches separates.

    >>> parse_rule("re:.*shortcut.*=hfp8"), parse_rule("fc=sun2020:odd_offset=1")
    (('re:.*shortcut.*', 'hfp8'), ('fc', 'sun2020:odd_offset=1'))
    """
    name, equals, recipe = text.partition("=")
    if not equals or not name or not recipe:
        raise UserError(f"--rule must be PATTERN=RECIPE, for example fc=none, not '{text}'.")
    return name, recipe


def summary_line(record: dict[str, Any]) -> str:
    """One line for stdout: what was reached, and where the record is."""
    metric = record["metric"]
    final = record["final"]
    return (
        f"{metric} {100 * final[f'test_{metric}']:.2f} %, loss {final['test_loss']:.4f} after "
        f"{final['epoch']} epochs, {final['step_ms']:.1f} ms/step: "
        f"{record['folder']}/result.json"
    )


def _resume_command() -> str:
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    return shlex.join(["nybble", *arguments, "--resume"])
