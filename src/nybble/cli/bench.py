"""`nybble bench`: what 4-bit training costs in time and memory, against float32."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated

import typer

from nybble.cli.shared.output import JsonOption, NoteOption, RecordOption
from nybble.errors import UserError

command = typer.Typer(no_args_is_help=True, help="Measure speed and memory.")


@command.callback()
def _group() -> None:
    """Measure speed and memory."""


@command.command("emulation")
def emulation(
    recipe: Annotated[str, typer.Option(help="A recipe (`nybble recipes`).")] = "sun2020",
    model: Annotated[
        str, typer.Option(help="A vision model (docs/training.md) or module:function.")
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
    from nybble.cli.shared.output import bar
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
    with bar("pairs of steps") as advance:
        found = measure_emulation(
            config, lambda done, total: advance("pairs of steps", done, total)
        )
    typer.echo(json_text.dumps(found, indent=1) if json else bench.plain(found))
    if record is not None:
        typer.echo(f"recorded in {save(found, record, Path('results'))}", err=True)


ModelOption = Annotated[
    str,
    typer.Option(
        help="cnn, resnet8, resnet14, resnet20, resnet18, transformer, lstm, or your own as "
        "module:function, which returns a model, (model, example input) or (model, example input, "
        "loss)."
    ),
]
RecipeOption = Annotated[str, typer.Option(help="A recipe (`nybble recipes`).")]
BackendOption = Annotated[str, typer.Option(help="auto, reference or native.")]
ActivationsOption = Annotated[
    str,
    typer.Option(
        help="What normalisation, activation functions and the like keep for backward: 4bit "
        "(compressed), exact (where no gradient changes by it) or none (as in float32)."
    ),
]
SizeOption = Annotated[int, typer.Option(help="Pixels of an image's side.")]
ChannelsOption = Annotated[int, typer.Option(help="Channels of an image.")]
ThreadsOption = Annotated[
    str | None, typer.Option(help="Numbers of threads, as in 1,2; 1 and all cores if not given.")
]


@command.command("step")
def step(
    model: ModelOption = "resnet18",
    batch: Annotated[int, typer.Option(help="Examples a step.")] = 32,
    recipe: RecipeOption = "sun2020",
    against: Annotated[
        str | None, typer.Option(help="Another recipe, which takes turns with both.")
    ] = None,
    backend: BackendOption = "auto",
    activations: ActivationsOption = "4bit",
    threads: ThreadsOption = None,
    rounds: Annotated[int, typer.Option(help="Pairs of steps to time.")] = 21,
    size: SizeOption = 32,
    channels: ChannelsOption = 3,
    compile: Annotated[
        bool, typer.Option(help="Try float32 under torch.compile too, which takes minutes.")
    ] = True,
    profile: Annotated[bool, typer.Option(help="Also show where the time goes.")] = False,
    record: RecordOption = None,
    note: NoteOption = None,
    json: JsonOption = None,
) -> None:
    """Time a whole training step, float32 in its best form against 4 bits, in turn.

    In the JSON object `speedup` maps each number of threads to float32's time over ours: by CPU
    time for one thread, by wall time for more; `measurements` has both.

    Example: nybble bench step --model resnet18 --batch 32 --recipe sun2020 --threads 1,2

    Example: nybble bench step --recipe nybble4 --against sun2020 --threads 1
    """
    from nybble.cli.shared.output import bar, check, finish
    from nybble.reports.speed import plain
    from nybble.studies.spec import parse_counts
    from nybble.studies.speed.step import StepConfig, measure_step
    from nybble.studies.statistics import FEWEST_PAIRS
    from nybble.training.allocator import keep_freed_memory

    check(json, record)
    if record is not None and rounds < FEWEST_PAIRS:
        raise UserError(
            f"--record {record}: a recorded ratio has an interval, and {rounds} pairs give none; "
            f"use --rounds {FEWEST_PAIRS} or more."
        )
    keep_freed_memory()
    config = StepConfig(
        model=model,
        batch=batch,
        recipe=recipe,
        against=against,
        backend=backend,
        activations=activations,
        threads=parse_counts(threads, "threads") if threads else (),
        rounds=rounds,
        size=size,
        channels=channels,
        compile=compile,
        profile=profile or record is not None,
    )
    with bar("steps") as advance:
        found = measure_step(config, advance)
    finish(found, plain, json, record, note)


@command.command("memory")
def memory(
    model: ModelOption = "resnet18",
    limit: Annotated[
        str | None,
        typer.Option(
            help="As in 512M: search the largest batch that a process of that size can train with, "
            "instead of measuring --batch."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Measure a model of this task, as in --task speech.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="The task's data.")] = None,
    batch: Annotated[int, typer.Option(help="Examples a step.")] = 128,
    recipe: RecipeOption = "sun2020",
    backend: BackendOption = "auto",
    activations: ActivationsOption = "4bit",
    threads: Annotated[int, typer.Option(help="Number of threads.")] = 1,
    steps: Annotated[int, typer.Option(help="Steps that the process takes.")] = 3,
    size: SizeOption = 32,
    channels: ChannelsOption = 3,
    allocator: Annotated[
        str,
        typer.Option(help="default, or keep: freed memory stays in the process, as in `train`."),
    ] = "default",
    record: RecordOption = None,
    note: NoteOption = None,
    json: JsonOption = None,
) -> None:
    """Measure memory, float32 against 4 bits: bytes kept for backward, and a process's peak.

    In the JSON object `ratio` has float32's bytes over ours: `saved` (kept for backward, weights
    not counted) and `peak` (high-water mark above the imports). With --limit, `batch` has the
    largest batch of each side.

    Example: nybble bench memory --model resnet18 --batch 128
    """
    from nybble.cli.shared.output import bar, check, finish
    from nybble.reports.speed import plain
    from nybble.studies.speed.limit import LimitConfig, largest_batches, parse_bytes
    from nybble.studies.speed.memory import MemoryConfig, measure_memory

    check(json, record)
    config = MemoryConfig(
        model=model,
        batch=batch,
        recipe=recipe,
        backend=backend,
        activations=activations,
        threads=threads,
        steps=steps,
        size=size,
        channels=channels,
        allocator=allocator,
        task=task,
        data=data,
    )
    search = None if limit is None else LimitConfig(parse_bytes(limit), config)
    with bar("processes") as advance:
        if search is None:
            found = measure_memory(config, advance)
        else:
            found = largest_batches(search, advance)
    finish(found, plain, json, record, note)


@command.command("watch")
def watch(
    model: ModelOption = "resnet18",
    batch: Annotated[int, typer.Option(help="Examples a step.")] = 32,
    recipe: RecipeOption = "sun2020",
    every: Annotated[int, typer.Option(help="Steps between two looks at a layer.")] = 100,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    size: SizeOption = 32,
    channels: ChannelsOption = 3,
    record: RecordOption = None,
    note: NoteOption = None,
    json: JsonOption = None,
) -> None:
    """What looking at the layers costs (docs/watching.md): a watched model against its twin.

    Example: nybble bench watch --model resnet8 --batch 64 --every 20
    """
    from nybble.cli.shared.output import bar, check, finish
    from nybble.reports.watching import plain
    from nybble.studies.speed.watching import WatchConfig, measure_watch
    from nybble.training.allocator import keep_freed_memory

    check(json, record)
    keep_freed_memory()
    config = WatchConfig(model, batch, recipe, every, threads, size, channels)
    with bar("blocks of steps") as advance:
        found = measure_watch(config, advance)
    finish(found, plain, json, record, note)


@command.command("kernels")
def kernels(
    only: Annotated[
        str | None,
        typer.Option(help="gemm, conv, quantize, overhead, joined by commas; all if not given."),
    ] = None,
    threads: ThreadsOption = None,
    rounds: Annotated[int, typer.Option(help="Samples of every kernel.")] = 15,
    record: RecordOption = None,
    note: NoteOption = None,
    json: JsonOption = None,
) -> None:
    """Time the kernels against torch's float32: products, convolutions, quantising, calls.

    In the JSON object `speedup` maps each number of threads to rows, and those to float32's time
    over ours; `groups` has the least, the median and the largest of each group.

    Example: nybble bench kernels --only gemm,quantize --threads 1
    """
    from nybble.cli.shared.output import bar, check, finish
    from nybble.reports.speed import plain
    from nybble.studies.spec import parse_counts
    from nybble.studies.speed.kernels import KernelsConfig, measure_kernels
    from nybble.training.allocator import keep_freed_memory

    check(json, record)
    keep_freed_memory()
    config = KernelsConfig(
        only=tuple(part.strip() for part in only.split(",")) if only else (),
        threads=parse_counts(threads, "threads") if threads else (),
        rounds=rounds,
    )
    with bar("kernels") as advance:
        found = measure_kernels(config, advance)
    finish(found, plain, json, record, note)


@command.command("peers")
def peers(
    models: Annotated[
        str, typer.Option(help="Built-in models, joined by commas.")
    ] = "resnet18,transformer",
    batch: Annotated[int, typer.Option(help="Examples a step.")] = 32,
    recipe: RecipeOption = "sun2020",
    backend: BackendOption = "auto",
    activations: ActivationsOption = "4bit",
    threads: Annotated[int, typer.Option(help="Number of threads.")] = 1,
    rounds: Annotated[int, typer.Option(help="Steps of each package, if there is time.")] = 5,
    seconds: Annotated[int, typer.Option(help="Time for one package on one model.")] = 120,
    record: RecordOption = None,
    note: NoteOption = None,
    json: JsonOption = None,
) -> None:
    """Time other packages on the same step, those that are installed; the others are listed.

    In the JSON object `measurements` has a row for nybble and each package on each model:
    `speedup` is float32's time over the package's, or null with the reason in `note`.

    Example: nybble bench peers --models resnet18 --seconds 60
    """
    from nybble.cli.shared.output import bar, check, finish
    from nybble.reports.speed import plain
    from nybble.studies.speed.peers import PeersConfig, measure_peers
    from nybble.training.allocator import keep_freed_memory

    check(json, record)
    keep_freed_memory()
    config = PeersConfig(
        models=tuple(part.strip() for part in models.split(",")),
        batch=batch,
        recipe=recipe,
        backend=backend,
        activations=activations,
        threads=threads,
        rounds=rounds,
        seconds=seconds,
    )
    with bar("packages") as advance:
        found = measure_peers(config, advance)
    finish(found, plain, json, record, note)
