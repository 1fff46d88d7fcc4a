"""The shell around the commands: errors in one line, statuses, lazy loading."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import typer

import nybble.cli
from nybble.cli import app
from nybble.errors import UserError

MODULES = {p.stem for p in Path(nybble.cli.__file__).parent.glob("*.py")} - {"__init__", "app"}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """Register a function as the command `probe`."""

    def register(function) -> None:
        module = types.ModuleType("nybble.cli.probe")
        module.command = function
        monkeypatch.setitem(sys.modules, "nybble.cli.probe", module)
        monkeypatch.setitem(app.COMMANDS, "probe", "Probe.")

    return register


def raising(error: BaseException):
    def body() -> None:
        raise error

    return body


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


def test_user_error_is_one_line_and_status_2(command, capsys) -> None:
    command(raising(UserError("no recipe 'x'.\n  Did you mean 'y'?")))
    assert app.main(["probe"]) == 2
    assert one_line(capsys) == "nybble: error: no recipe 'x'. Did you mean 'y'?\n"


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["dokter"], "Did you mean 'doctor'? See `nybble --help`."),
        (["--nonsense"], "--nonsense"),
        (["probe", "--nonsense"], "--nonsense. See `nybble probe --help`."),
        (["probe", "--count", "many"], "'--count'"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(command, capsys, arguments, says) -> None:
    def body(count: int = 1) -> None:
        raise AssertionError("must not run")

    command(body)
    assert app.main(arguments) == 2
    assert says in one_line(capsys)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a.json"),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES), "runs/a.json"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_or_closed_disk_is_one_line(command, capsys, error) -> None:
    command(raising(error))
    assert app.main(["probe"]) == 2
    assert one_line(capsys).startswith(
        f"nybble: error: {os.strerror(getattr(error, 'errno', None) or 28)}: "
    )


def test_a_full_disk_is_seen_through_what_wraps_it(command, capsys) -> None:
    def body() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("checkpoint not written") from error

    command(body)
    assert app.main(["probe"]) == 2
    assert "No space left" in one_line(capsys)


def test_a_really_full_disk() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "nybble.cli", "--version"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("nybble: error: No space left on device"), done.stderr


def test_a_bug_keeps_its_traceback(command) -> None:
    command(raising(KeyError("bug")))
    with pytest.raises(KeyError, match="bug"):
        app.main(["probe"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_interrupted_is_130(command, error) -> None:
    command(raising(error))
    assert app.main(["probe"]) == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_in_one_line(number: signal.Signals) -> None:
    code = (
        "import os, signal, sys, types; from nybble.cli import app\n"
        "m = types.ModuleType('nybble.cli.probe')\n"
        f"m.command = lambda: os.kill(os.getpid(), {number:d})\n"
        "sys.modules['nybble.cli.probe'] = m; app.COMMANDS['probe'] = 'Probe.'\n"
        "sys.exit(app.main(['probe']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + number, done
    assert len(done.stderr.splitlines()) <= 1 and "Traceback" not in done.stderr


def test_too_little_memory_is_one_line(command, capsys) -> None:
    command(lambda: __import__("torch").empty(1 << 55, dtype=__import__("torch").uint8))
    assert app.main(["probe"]) == 2
    assert "Not enough memory" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "nybble.cli", "--help"],
        stdout=write, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("status", [0, 3])
def test_a_command_chooses_its_status(command, status) -> None:
    command(raising(typer.Exit(status)))
    assert app.main(["probe"]) == status


def test_a_group_of_subcommands(command, capsys) -> None:
    group = typer.Typer()
    group.command("one")(lambda: print("first"))
    group.command("two")(lambda: print("second"))
    command(group)
    assert app.main(["probe", "two"]) == 0
    assert capsys.readouterr().out == "second\n"


def test_table_and_files_agree() -> None:
    assert set(app.COMMANDS) == MODULES - {"__main__"}


@pytest.mark.parametrize("name", sorted(MODULES - {"__main__"}))
def test_help_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module(f"nybble.cli.{name}")
    assert app.main([name, "--help"]) == 0
    help_text = capsys.readouterr().out
    assert f"nybble {name}" in help_text.split("Usage:", 1)[1].split("\n", 1)[1], help_text


@pytest.mark.parametrize("arguments", [[], ["bench"], ["data"]])
def test_a_group_without_a_subcommand_shows_its_help(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(arguments) == 2
    out, err = capsys.readouterr()
    assert "Usage" in out + err and "error" not in out + err
