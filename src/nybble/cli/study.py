"""`nybble study`: run a study of the registry or of your own, show one, plan how many seeds.

Every ready study is a subcommand with the same options; `run module:NAME` takes one of your own.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nybble.cli.shared.study_depth import depth
from nybble.cli.shared.study_page import page
from nybble.cli.shared.study_progress import Reporter
from nybble.cli.shared.study_show import RESULTS, print_study, show
from nybble.errors import UserError
from nybble.studies.ready import STUDIES, get_study

if TYPE_CHECKING:
    from nybble.studies.study.grid import Study

command = typer.Typer(
    no_args_is_help=True, help="Many runs: recipes x tasks x seeds, restartable, with statistics."
)
_WHAT, _HOW, _SHOW = "Study", "Running", "Output"

Quick = Annotated[bool, typer.Option("--quick", help="The short form.", rich_help_panel=_WHAT)]
Tasks = Annotated[
    str, typer.Option(help="Only these tasks, as in vision,gpt.", rich_help_panel=_WHAT)
]
Recipes = Annotated[
    str,
    typer.Option(
        help="In place of the study's, as in fp32,sun2020:factor=1.848.", rich_help_panel=_WHAT
    ),
]
Seeds = Annotated[
    str, typer.Option(help="In place of the study's, as in 0-4.", rich_help_panel=_WHAT)
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        help="TASK=SOURCE: what a task reads, as in digits=fsdd:PATH. Repeatable.",
        rich_help_panel=_WHAT,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Of every cell; the study's (1) if not given. Other threads are other cells.",
        rich_help_panel=_WHAT,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Cells at the same time; if not given as many as the cores suffice for, on a "
        "cluster as many as it can.",
        rich_help_panel=_HOW,
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        help="loky (this machine), dask or ray (a cluster that sees --out).", rich_help_panel=_HOW
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Of the Dask or Ray cluster; a local one if not given.", rich_help_panel=_HOW
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(metavar="MINUTES", help="After that no more cells begin.", rich_help_panel=_HOW),
]
Retry = Annotated[
    bool, typer.Option("--retry-failed", help="Run failed cells again.", rich_help_panel=_HOW)
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder of the study; runs/study-NAME if not given.", rich_help_panel=_SHOW),
]
Record = Annotated[
    str | None,
    typer.Option(
        help="Also write the record to results/NAME.json. One of this study that lacks cells is "
        "continued: its cells are not run again.",
        rich_help_panel=_SHOW,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the record, not the tables.", rich_help_panel=_SHOW)
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.", rich_help_panel=_SHOW)]


def _ready(name: str) -> Callable[..., None]:
    """The subcommand of one ready study."""

    def run(
        quick: Quick = False,
        tasks: Tasks = "",
        recipes: Recipes = "",
        seeds: Seeds = "",
        data: Data = None,
        threads: Threads = None,
        jobs: Jobs = None,
        engine: Engine = "loky",
        address: Address = None,
        budget: Budget = None,
        retry_failed: Retry = False,
        out: Out = None,
        record: Record = None,
        json: Json = False,
        quiet: Quiet = False,
    ) -> None:
        given = {key: value for key, value in locals().items() if key in _OPTIONS}
        _run(get_study(name, quick), bool(tasks), given)

    run.__doc__ = f"""{STUDIES[name].title}.

    Example: nybble study {name} --quick --jobs 2

    Ctrl-C saves; the same command continues, as it does after a crash. Status 3: a cell failed.
    """
    return run


for _name in STUDIES:
    command.command(_name, short_help=STUDIES[_name].title)(_ready(_name))


command.command("depth")(depth)
command.command("page")(page)
command.command("show")(show)


@command.command("run")
def run_own(
    study: Annotated[str, typer.Argument(help="module:NAME, where NAME is a Study.")],
    tasks: Tasks = "",
    recipes: Recipes = "",
    seeds: Seeds = "",
    data: Data = None,
    threads: Threads = None,
    jobs: Jobs = None,
    engine: Engine = "loky",
    address: Address = None,
    budget: Budget = None,
    retry_failed: Retry = False,
    out: Out = None,
    record: Record = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a study of your own, a `nybble.studies.study.Study` in a module.

    Example: nybble study run my_studies:RATES --jobs 2
    """
    from nybble.studies.study.select import own_study

    given = {key: value for key, value in locals().items() if key in _OPTIONS}
    _run(own_study(study), True, given)


_OPTIONS = (
    *("tasks", "recipes", "seeds", "data", "threads"),
    *("jobs", "engine", "address", "budget", "retry_failed"),
    *("out", "record", "json", "quiet"),
)


def _run(study: Study, all_must_be_here: bool, given: dict[str, Any]) -> None:
    from nybble.reports import results
    from nybble.studies.spec import parse_recipes, parse_seeds
    from nybble.studies.study.run import RunConfig, run_study
    from nybble.studies.study.select import available, select
    from nybble.training.config import folder_name
    from nybble.training.signals import Interrupted

    record = given["record"]
    if given["tasks"] and not _names(given["tasks"]):
        raise UserError(f"--tasks {given['tasks']}: give the names of tasks, as in vision,gpt.")
    earlier = _to_continue(record, study.name)
    if record is not None:
        results.check_name(record, RESULTS, again=earlier is not None)
    study = select(
        study,
        tasks=_names(given["tasks"]),
        recipes=[spec.text for spec in parse_recipes(given["recipes"])] if given["recipes"] else (),
        seeds=parse_seeds(given["seeds"]) if given["seeds"] else (),
        data=_sources(given["data"] or []),
        threads=given["threads"],
    )
    if not all_must_be_here:
        study = available(study)
    how = RunConfig(
        out=given["out"] or Path("runs") / folder_name(f"study-{study.name}"),
        jobs=given["jobs"] or (_cores(study) if given["engine"] == "loky" else None),
        engine=given["engine"],
        address=given["address"],
        retry_failed=given["retry_failed"],
        budget=given["budget"],
        taken=earlier,
        command=_repeatable(sys.argv[1:]),
    )
    try:
        with Reporter(given["quiet"]) as reporter:
            for note in study.notes:
                reporter.say(note)
            found = run_study(study, how, reporter.tell)
    except Interrupted as stop:
        print(f"nybble: {stop}.", file=sys.stderr)
        raise typer.Exit(stop.status) from None
    print_study(found, given["json"])
    if record is not None:
        print(
            f"record: {results.save(found, record, RESULTS, earlier is not None)}", file=sys.stderr
        )
    if any(run["status"] != "complete" for run in found["runs"]):
        raise typer.Exit(3)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _sources(texts: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for task, source in map(_source, texts):
        if task in found:
            raise UserError(f"--data: two sources are given for the task {task}.")
        found[task] = source
    return found


def _source(text: str) -> tuple[str, str]:
    """ "TASK=SOURCE" -> (task, source).

    >>> _source("digits=fsdd:fsdd.npz")
    ('digits', 'fsdd:fsdd.npz')
    """
    task, _, source = text.partition("=")
    if not task.strip() or not source.strip():
        raise UserError(f"--data must be TASK=SOURCE, as in digits=fsdd:PATH, not '{text}'.")
    return task.strip(), source.strip()


def _cores(study: Study) -> int:
    """How many cells this machine has cores for, by the task with the most threads."""
    from nybble.training.machine import machine

    threads = max(task.config.threads or 1 for task in study.tasks)
    return max(1, int(machine()["cores"] or 1) // threads)


def _to_continue(record: str | None, study: str) -> Path | None:
    """The record of that name, if it is one of this study that lacks cells."""
    from nybble.studies.study.taken import unfinished

    if record is None:
        return None
    path = RESULTS / f"{record.removesuffix('.json')}.json"
    return path if path.is_file() and unfinished(path, study) else None


def _repeatable(arguments: list[str]) -> str:
    """The command that repeats the study, without where it runs and how it is shown.

    >>> _repeatable(["study", "recipes", "--quick", "--out", "x", "--jobs=2", "--json"])
    'nybble study recipes --quick'
    """
    drop = ("--out", "--record", "--jobs", "--engine", "--address", "--budget")
    flags = ("--json", "--quiet", "--retry-failed")
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip or argument in flags or argument.startswith(tuple(f"{name}=" for name in drop)):
            skip = False
        elif argument in drop:
            skip = True
        else:
            kept.append(argument)
    return shlex.join(["nybble", *kept])


@command.command("power")
def power(
    record: Annotated[
        str | None,
        typer.Argument(
            help="A record: a name in results/, a file, or the --out of a study; its sds are taken."
        ),
    ] = None,
    sd: Annotated[
        float | None, typer.Option(help="Standard deviation of the paired differences.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Of equivalence, in the units of the sd.")
    ] = None,
    difference: Annotated[float, typer.Option(help="The true difference.")] = 0.0,
    wanted: Annotated[float, typer.Option("--power", help="The chance to show it.")] = 0.8,
    rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of the table, for Holm's correction; the record's, or 1, if not given.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How many seeds an equivalence test and a paired t test need.

    Example: nybble study power --sd 0.3 --margin 0.25 --difference 0.1 --power 0.8
    """
    from nybble.reports.power import of_record, of_sd, text

    if record is not None:
        if sd is not None:
            raise UserError("study power: give a record or --sd, not both.")
        found = of_record(record, RESULTS, margin, difference, wanted, rows)
    elif sd is None:
        raise UserError(
            "study power: give a record, or --sd with --margin or --difference, for example "
            "--sd 0.3 --margin 0.25."
        )
    else:
        found = [of_sd(sd, margin, difference, wanted, rows or 1)]
    typer.echo(json.dumps(found, indent=1, allow_nan=False) if as_json else text(found, wanted))
