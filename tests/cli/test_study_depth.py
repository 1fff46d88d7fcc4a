"""`nybble study depth`: table, page, record, and words that it does not know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nybble.cli.app import main

SMALL = [
    "study",
    "depth",
    "--recipes=sun2020",
    "--depths=1,2",
    "--kinds=plain",
    "--forwards=float32",
    "--width=8",
    "--batch-size=8",
    "--batches=1",
    "--seeds=0,1",
]


def test_table_page_and_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "--page", "depth.html", "--record", "depth"]) == 0
    out = capsys.readouterr().out
    assert "plain chain, forward pass in float32" in out
    assert "cosine at depth 2" in out
    assert Path("depth.html").read_text().count("<svg") == 4
    record = json.loads(Path("results/depth.json").read_text())
    assert record["schema"] == "nybble.depth/1"
    assert record["command"].startswith("nybble study depth --recipes sun2020 --depths 1,2")
    assert main(["study", "page", "depth", "--to", "again.html"]) == 0
    assert Path("again.html").read_text() == Path("depth.html").read_text()
    assert main([*SMALL, "--record", "depth"]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--json", "--quiet"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 2


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--kinds=ring", "unknown kind 'ring'"),
        ("--forwards=float", "unknown forward 'float'"),
        ("--depths=0", "depths '0'"),
        ("--recipes=sun2021", "unknown recipe 'sun2021'"),
        ("--layers=con", "unknown layers 'con'"),
    ],
)
def test_unknown_words(option: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, option]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
