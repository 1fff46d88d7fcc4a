"""A model of the user's that misbehaves while it trains: one line, the traceback in the log."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nybble.cli.app import main

MODELS = """
import sys
from torch import nn

class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(64, 10), kind

    def forward(self, x):
        y = self.layer(x.flatten(1))
        if not self.training:
            return y * float("nan") if self.kind == "eval_nan" else y
        if self.kind == "raises":
            raise RuntimeError("first line\\nsecond line")
        if self.kind == "leaves":
            sys.exit(0)
        return {"detached": y.detach(), "pair": (y, y), "short": y[:1]}.get(self.kind, y)

def raises(): return Net("raises")
def leaves(): return Net("leaves")
def detached(): return Net("detached")
def pair(): return Net("pair")
def short(): return Net("short")
def eval_nan(): return Net("eval_nan")
def single():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
"""


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("raises", "raised RuntimeError at step 1: first line second line (traceback in"),
        ("leaves", "raised SystemExit at step 1: 0 (traceback in"),
        ("detached", "raised RuntimeError at step 1: element 0 of tensors does not require grad"),
        ("pair", "raised TypeError at step 1"),
        ("short", "raised ValueError at step 1"),
        ("single", "A larger --batch-size helps."),
        ("eval_nan", "the test loss is nan. The first non-finite value arose in the forward pass"),
    ],
)
def test_one_line_and_a_traceback_in_the_log(
    kind: str,
    message: str,
    tiny_data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "misbehave.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "misbehave", raising=False)
    words = ["--data", tiny_data, "--model", f"misbehave:{kind}", "--recipe", "fp32", "--epochs"]
    words += ["1", "--batch-size", "1" if kind == "single" else "12", "--limit-train", "24"]
    assert main(["train", "vision", *words, "--out", "run", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nybble: error: ") and error.count("\n") == 1 and message in error
    log = (tmp_path / "run" / "log.txt").read_text()
    assert ("Traceback" in log) == (kind != "eval_nan")
    assert '"status": "failed"' in (tmp_path / "run" / "result.json").read_text()
