"""The program under signals: it saves, says how to go on, and ends with the usual status."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nybble.training.signals import StopRequest


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
def test_a_signal_saves_and_tells_how_to_resume(
    signum: signal.Signals, status: int, tiny_data: str, tmp_path: Path
) -> None:
    words = [
        *("vision", "--data", tiny_data, "--model", "cnn", "--recipe", "fp32"),
        *("--epochs", "100000", "--batch-size", "12", "--out", str(tmp_path / "a run")),
    ]
    command = [sys.executable, "-m", "nybble.cli", "train", *words]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    log = tmp_path / "a run" / "log.txt"
    limit = time.monotonic() + 60
    while time.monotonic() < limit and not (log.exists() and "step 1/4" in log.read_text()):
        time.sleep(0.02)
    child.send_signal(signum)
    out, err = child.communicate(timeout=60)
    assert child.returncode == status, err
    assert out == "" and "Traceback" not in err
    last = err.rstrip().splitlines()[-1]
    assert f"stopped by {signum.name} after step" in last
    told = re.search(r"Continue with: (.*)$", last)
    assert told is not None
    assert shlex.split(told[1]) == ["nybble", "train", *words, "--resume"]
    assert '"status": "interrupted"' in (tmp_path / "a run" / "result.json").read_text()
    assert list((tmp_path / "a run" / "checkpoints").glob("*.json"))


def test_the_second_signal_is_not_caught() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert signal.getsignal(signal.SIGINT) != before
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert stop.signum == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) == before
    assert signal.getsignal(signal.SIGINT) == before
