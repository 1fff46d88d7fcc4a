"""`nybble figures`: each command draws and writes its numbers; mistakes are one line, status 2."""

from __future__ import annotations

import inspect
import json
import shlex
from pathlib import Path

import pytest

from nybble.cli import figures
from nybble.cli.app import main

SMALL = ["--model=cnn", "--steps=2", "--batch-size=8"]
VIEWS = ("gradients", "rounding-factor", "batch-norm", "gradscale")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("view", "ending", "start"),
    [
        ("gradients", "svg", b"<?xml"),
        ("rounding-factor", "png", b"\x89PNG"),
        ("batch-norm", "pdf", b"%PDF"),
        ("gradscale", "pdf", b"%PDF"),
    ],
)
def test_a_figure_and_its_numbers(
    view: str, ending: str, start: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = f"a.{ending}"
    assert main(["figures", view, "--out", file, "--json", "a.json", *SMALL, "--width=4"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"figure: {file}" and len(out.splitlines()) > 2
    assert Path(file).read_bytes().startswith(start)
    found = json.loads(Path("a.json").read_text())
    assert (found["schema"], found["view"]) == ("nybble.view/1", view)
    assert found["command"] == f"nybble figures {view} --model cnn --steps 2 --batch-size 8"
    # The command in the record repeats it; JSON to standard output stands there alone.
    words = shlex.split(found["command"])[1:]
    assert main([*words, "--out", "b.svg", "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == found
    assert captured.err == "figure: b.svg\n"


@pytest.mark.parametrize("view", VIEWS)
def test_the_example_of_the_help_works(view: str, capsys: pytest.CaptureFixture[str]) -> None:
    function = getattr(figures, view.replace("-", "_"))
    example = next(
        line.strip().removeprefix("Example: ")
        for line in (inspect.getdoc(function) or "").splitlines()
        if line.startswith("Example: ")
    )
    assert main(["figures", view, "--help"]) == 0
    assert f"Example: nybble figures {view}" in capsys.readouterr().out
    words = shlex.split(example)
    assert words[:3] == ["nybble", "figures", view]
    assert main([*words[1:], *SMALL]) == 0
    assert Path(words[words.index("--out") + 1]).is_file()


def test_against_none(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["figures", "gradients", "--out=a.svg", "--against=none", "--layer=features.4", *SMALL]
    assert main([*line, "--json=-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["grids"]) == 2
    assert "--layer features.4 --against none" in found["command"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["gradients"], "--out"),
        (["gradients", "--out=a.jpg"], "must end in .svg, .pdf or .png"),
        (["gradscale", "--out=no/a.pdf"], "there is no folder no"),
        (["gradients", "--out=a.pdf", "--recipe=sun2021"], "Did you mean 'sun2020'"),
        (["gradients", "--out=a.pdf", "--layer=feature.4"], "Did you mean 'features.4'"),
        (["gradients", "--out=a.pdf", "--against=int4:absmux"], "Did you mean 'absmax(row)'"),
        (["gradscale", "--out=a.pdf", "--layer=features.0"], "choose one of features.4"),
        (["gradscale", "--out=a.pdf", "--recipe=fp32"], "has a GradScale"),
        (["batch-norm", "--out=a.pdf", "--recipe=luq"], "radix-4 gradients"),
        (["rounding-factor", "--out=a.pdf", "--width=1"], "--width 1"),
        (["rounding-factor", "--out=a.pdf", "--json=no/a.json"], "--json no/a.json"),
        (["rounding-factor", "--out=a.pdf", "--steps=0"], "steps must be"),
        (["rounding-factor", "--out=a.pdf", "--data=mnist"], "Unknown data 'mnist'"),
        (["gradient", "--out=a.pdf"], "Did you mean 'gradients'"),
    ],
)
def test_mistakes(line: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    # Typer takes the last of an option that is given twice.
    assert main(["figures", line[0], *SMALL, *line[1:]]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err and captured.err.count("\n") == 1
    assert not list(Path().iterdir())
