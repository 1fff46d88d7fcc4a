"""The `nybble` program: the table of commands, and what errors look like to a user.

A command is one line in `COMMANDS` and one file `nybble/cli/<name>.py` with a function `command`
(or a `typer.Typer` of that name, for a command with subcommands). Only the command that is asked
for is imported, so `nybble --help` does not wait for their packages.

Exit status: 0 done; 2 bad input, a full disk or memory, one line on stderr, no traceback; 130
interrupted, 143 terminated; 1 with a traceback is a bug in nybble. A command ends with another
status by `raise typer.Exit(n)`.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer

from nybble.errors import UserError

COMMANDS: dict[str, str] = {
    "train": "Train one model with one recipe.",
    "compare": "Train the same model with several recipes and seeds, and compare them.",
    "report": "Make one HTML page of a run, or of several side by side.",
    "study": "Run a study: recipes x tasks x seeds, restartable, with statistics.",
    "figures": "Draw the figures of 4-bit training for a paper.",
    "hardware": "Model the speed and energy of training on a chip.",
    "bench": "Measure speed: what a training step costs against float32.",
    "data": "List the data sets that can be used here.",
    "recipes": "List the 4-bit recipes, or print one in full.",
    "summary": "Show what every layer of a converted model runs in how many bits.",
    "explain": "Explain 4-bit training on a page with sliders.",
    "formats": "Print the number formats and their code tables.",
    "doctor": "Check this installation: CPU, backend, packages and self-tests.",
}

_MACHINE_ERRNOS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENAMETOOLONG,
        errno.ELOOP,
    }
)
_NO_SPACE = os.strerror(errno.ENOSPC)


LONGEST = 2000
"""Characters of an error from which its middle is left out: somebody pasted a file for a name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program on `arguments` (the process's own if None) and return its exit status.

    >>> main(["--version"])
    nybble ...
    0
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    previous = _hear_sigterm()
    try:
        status = _build(arguments)(arguments, prog_name="nybble", standalone_mode=False)
        sys.stdout.flush()  # a full disk or a closed pipe shows here, not after the last handler
        return status if isinstance(status, int) else 0
    except UserError as error:
        return _complain(str(error))
    except typer.TyperException as error:  # an unknown option, a missing argument, ...
        message = error.format_message()
        if not message:  # a group without a subcommand: its help has been shown
            return 2
        return _complain(message, _help_hint(error))
    except (KeyboardInterrupt, typer.Abort):
        print("nybble: interrupted", file=sys.stderr)
        return 130
    except _Terminated:
        print("nybble: stopped by SIGTERM", file=sys.stderr)
        return 128 + signal.SIGTERM
    except BrokenPipeError:
        # The reader (`| head`) has gone. Python would complain again while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        trouble = _machine_trouble(error)
        if trouble is None:
            raise
        return _complain(trouble)
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


class _Terminated(BaseException):
    """SIGTERM, where a command has no handler of its own: what it has started ends with it."""


def _hear_sigterm() -> Any:
    """Turn SIGTERM into an exception; the handler that was there, None where none may be set."""

    def stop(number: int, frame: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, stop)


def run() -> None:
    """The entry point of the installed program."""
    sys.exit(main())


def _build(arguments: Sequence[str]) -> typer.Typer:
    """The typer application: the command that is asked for, and only the names of the others."""
    app = typer.Typer(
        help="4-bit training of neural networks for PyTorch.",
        epilog="Example: nybble compare vision --data mnist5k --recipes fp32,sun2020 --seeds 0,1,2",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    for name, line in COMMANDS.items():
        command = _load(name) if name == wanted else _not_asked_for
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, short_help=line, epilog=_examples(command))
        else:
            more = _task_help(arguments) if name == wanted else None
            app.command(name, short_help=line, epilog=more)(command)
    return app


def _load(name: str) -> Callable[..., Any] | typer.Typer:
    command: Callable[..., Any] | typer.Typer = importlib.import_module(
        f"nybble.cli.{name}"
    ).command
    return command


def _task_help(arguments: Sequence[str]) -> str | None:
    """What a task adds to the help of the commands that train."""
    if arguments[0] not in ("train", "compare"):
        return None
    from nybble.cli.shared.task_help import task_help

    return task_help(arguments)


def _examples(group: typer.Typer) -> str:
    """The examples of a group's subcommands, which its own help would not show."""
    bodies = [info.callback for info in group.registered_commands]
    lines = [line.strip() for body in bodies for line in (inspect.getdoc(body) or "").splitlines()]
    return "\n\n".join(line for line in lines if line.startswith("Example: "))


def _not_asked_for() -> None:
    """Stands in the help's list for a command whose file is not imported in this run."""


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"nybble {version('nybble')}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """4-bit training of neural networks for PyTorch."""


def _complain(message: str, hint: str = "") -> int:
    line = " ".join(message.split())
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 4 :]}"
    if hint and not line.endswith((".", "?", "!")):
        line += "."
    print(f"nybble: error: {line}{hint}", file=sys.stderr)
    return 2


def _help_hint(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f" See `{context.command_path} --help`." if context is not None else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _machine_trouble(error: Exception) -> str | None:
    """One line for an error that the machine, not nybble, is the cause of; None for all others.

    A full disk also arrives as text: safetensors and torch wrap the system's error in their own.
    """
    for cause in _causes(error):
        if isinstance(cause, MemoryError) or "can't allocate memory" in str(cause):
            return f"Not enough memory: {cause or 'a request was refused'}. Take a smaller batch."
        if isinstance(cause, OSError) and cause.errno in _MACHINE_ERRNOS:
            where = f": {cause.filename}" if cause.filename else ""
            return f"{cause.strerror}{where}. Nothing more was written."
        if _NO_SPACE in str(cause):
            return f"{_NO_SPACE}: {cause}. Nothing more was written."
    return None
