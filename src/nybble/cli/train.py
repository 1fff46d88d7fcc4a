"""`nybble train`: one model, one recipe, one seed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nybble.errors import UserError

if TYPE_CHECKING:
    from nybble.training.config import TrainConfig

_RUN, _RECIPE, _SHOW = "Training", "Recipe", "Output"


def command(
    context: typer.Context,
    task: Annotated[
        str,
        typer.Argument(
            help="vision, language, translation, text, ... or your own as module:Class."
        ),
    ] = "vision",
    data: Annotated[
        str | None,
        typer.Option(help="A name of `nybble data list`; the task's default if not given."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model of the task (docs/training.md, docs/language.md) or module:function; the "
            "task's default if not given."
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config", help="A TOML file of settings; what the command line gives goes before it."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE: an option of this task alone. Repeatable."),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="A recipe (`nybble recipes`), switches after a colon: sun2020:odd_offset=+1.",
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
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A run's folder, a checkpoint or a file of nybble.save: begin with that model.",
        ),
    ] = None,
    new_head: Annotated[
        bool,
        typer.Option("--new-head", help="With --from: the last layer begins anew."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Initial weights, order of batches, augmentation.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training set.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Items a step (images, sequences, recordings).")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="sgd or adamw.", rich_help_panel=_RUN)
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate.", rich_help_panel=_RUN)
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="Of SGD.", rich_help_panel=_RUN)] = None,
    nesterov: Annotated[
        bool | None,
        typer.Option("--nesterov/--no-nesterov", help="Nesterov's momentum.", rich_help_panel=_RUN),
    ] = None,
    betas: Annotated[
        str | None, typer.Option(help="Of AdamW, as in 0.9,0.98.", rich_help_panel=_RUN)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Not on biases and batch norm.", rich_help_panel=_RUN)
    ] = None,
    clip_norm: Annotated[
        float | None,
        typer.Option(help="Largest norm of the gradients; 0: no limit.", rich_help_panel=_RUN),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="onecycle, cosine, step, thirds, constant, decay or inverse-sqrt.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(help="Share of the run in which the rate rises.", rich_help_panel=_RUN),
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Of the cross-entropy.", rich_help_panel=_RUN)
    ] = None,
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
        int | None, typer.Option(help="Use that many training items only.")
    ] = None,
    limit_test: Annotated[int | None, typer.Option(help="Use that many test items only.")] = None,
    channels_last: Annotated[
        bool, typer.Option(help="Images in the channels-last layout.", rich_help_panel=_RUN)
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
    watch: Annotated[
        int,
        typer.Option(
            help="Steps between two looks at a layer (docs/watching.md); 0: none.",
            rich_help_panel=_SHOW,
        ),
    ] = 100,
    on_alarm: Annotated[
        str,
        typer.Option(
            help="What an alarm of these looks does: warn, stop or raise-precision.",
            rich_help_panel=_SHOW,
        ),
    ] = "warn",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write curves.", rich_help_panel=_SHOW)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Only log.txt, no progress.", rich_help_panel=_SHOW)
    ] = False,
) -> None:
    """Train one model with one recipe and write what happened to a folder.

    Example: nybble train vision --data mnist5k --model resnet8 --recipe sun2020 --epochs 3

    What is not given is the default of the task and the model; the record holds all of it. Ctrl-C
    saves the run; the same command with --resume continues it, bit for bit.
    """
    options = {name: value for name, value in locals().items() if name != "context"}
    from nybble.training.allocator import keep_freed_memory
    from nybble.training.loop import train
    from nybble.training.signals import Interrupted

    config = configuration(options, context)
    keep_freed_memory()
    before = _result_file(config)
    try:
        record = train(config)
    except Interrupted as stop:
        _report_what_ended(config, before)
        print(f"nybble: {stop}. Continue with: {_resume_command()}", file=sys.stderr)
        raise typer.Exit(stop.status) from None
    except Exception:
        _report_what_ended(config, before)
        raise
    typer.echo(summary_line(record))
    report_of(config.run_folder(), config.quiet)


def report_of(folder: Path, quiet: bool = False) -> None:
    """Write the report of a run or comparison and say where it is, on stderr: stdout is for the
    result. What goes wrong is one line, no error."""
    try:
        from nybble.reports.run import make_report, write_report

        command = shlex.join(["nybble", "report", str(folder)])
        path = write_report(make_report([folder], command=command))
    except Exception as error:  # whatever it is: the run itself counts
        line = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"nybble: the report could not be made: {line}", file=sys.stderr)
        return
    if not quiet:
        print(f"report: {path}", file=sys.stderr)


def _report_what_ended(config: TrainConfig, before: object) -> None:
    """The report of a run that failed or was interrupted, if this process has begun it: a folder
    that was refused belongs to another run, whose result is as it was `before`."""
    from nybble.training.folder import in_use

    after = _result_file(config)
    if after is not None and after != before and not in_use(config.run_folder()):
        report_of(config.run_folder(), config.quiet)


def _result_file(config: TrainConfig) -> object:
    """Which result.json is there now; it is a new file whenever it is written."""
    from nybble.training.result import FILE

    try:
        found = (config.run_folder() / FILE).stat()
    except (OSError, UserError):
        return None
    return found.st_ino, found.st_mtime_ns


def configuration(options: dict[str, Any], context: typer.Context) -> TrainConfig:
    """The options of this command (or of `compare`, which shares them) as a configuration."""
    from nybble.training.config import TrainConfig
    from nybble.training.configfile import read_fields

    given = dict(options)
    path = given.pop("config_file", None)
    rules = tuple(parse_rule(text) for text in given.pop("rule", None) or [])
    settings = tuple(parse_setting(text) for text in given.pop("set_", None) or [])
    betas = given.pop("betas", None)
    given["betas"] = parse_betas(betas) if betas else None
    if path is not None:
        fields = read_fields(path)
        own = dict(settings)
        settings += tuple(p for p in fields.pop("task_options", ()) if p[0] not in own)
        rules += fields.pop("rules", ())
        said = {name: given[name] for name in given if was_said(name, context)}
        # A comparison sets recipe and seed itself: they are not among its options.
        given = {**given, **{k: v for k, v in fields.items() if k in given}, **said}
    return TrainConfig(**given, rules=rules, task_options=settings)


def was_said(name: str, context: typer.Context) -> bool:
    """Whether the command line has the option, and its value is not just the default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def parse_setting(text: str) -> tuple[str, str]:
    """ "KEY=VALUE" -> (key, value); whether the task has such an option is the task's business.

    >>> parse_setting("width=256")
    ('width', '256')
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or not value.strip():
        raise UserError(f"--set must be KEY=VALUE, for example width=256, not '{text}'.")
    return key.strip().replace("-", "_"), value.strip()


def parse_betas(text: str) -> tuple[float, float]:
    """ "0.9,0.98" -> (0.9, 0.98)

    >>> parse_betas("0.9, 0.98")
    (0.9, 0.98)
    """
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--betas must be two numbers, for example 0.9,0.98, not '{text}'."
        ) from None
    return first, second


def parse_rule(text: str) -> tuple[str, str]:
    """ "PATTERN=RECIPE" -> (pattern, recipe); the last equals sign outside switches separates.

    >>> parse_rule("re:.*shortcut.*=hfp8"), parse_rule("fc=sun2020:odd_offset=+1")
    (('re:.*shortcut.*', 'hfp8'), ('fc', 'sun2020:odd_offset=+1'))
    """
    name, equals, recipe = text.partition("=")
    if not equals or not name or not recipe:
        raise UserError(f"--rule must be PATTERN=RECIPE, for example fc=none, not '{text}'.")
    return name, recipe


def summary_line(record: dict[str, Any]) -> str:
    """One line for stdout: what was reached, and where the record is."""
    from nybble.training.progress import with_unit
    from nybble.training.result import unit_of

    metric = record["metric"]
    final = record["final"]
    extras = "".join(f", {k} {v:.4g}" for k, v in (final.get("test_extras") or {}).items())
    return (
        f"{metric} {with_unit(final[f'test_{metric}'], unit_of(record))}{extras}, "
        f"loss {final['test_loss']:.4f} after "
        f"{final['epoch']} epoch{'' if final['epoch'] == 1 else 's'}, "
        f"{final['step_ms']:.1f} ms/step: "
        f"{record['folder']}/result.json"
    )


def _resume_command() -> str:
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    return shlex.join(["nybble", *arguments, "--resume"])
