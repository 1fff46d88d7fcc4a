"""`doctor --speed`: small figures, and words that fit them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from nybble.cli import app
from nybble.cli.doctor import speed_lines
from nybble.studies.speed import kernels, machine
from nybble.studies.speed.machine import measure_machine, says


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GEMM", (16, 16, 16))
    monkeypatch.setattr(machine, "CONV", (1, 8, 8, 4, 3, 1))
    monkeypatch.setattr(machine, "STEP_MODEL", "cnn")
    monkeypatch.setattr(machine, "STEP_BATCH", 2)
    monkeypatch.setattr(kernels, "SAMPLE_SECONDS", 1e-6)


def test_every_figure_is_there(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gmacs", lambda dtype: 10.0)  # bfloat16 is fast: it is stepped
    found = measure_machine(rounds=1)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["threads"] == torch.get_num_threads()
    assert set(found["step"]["ms"]) == {"float32", "ours", "bfloat16"}
    assert found["step"]["speedup_to_bfloat16"] > 0
    assert len(found["kernels"]) == (6 if found["native"]["available"] else 0)
    text = "\n".join(speed_lines(found))
    assert "10.0 GMAC/s" in text and "step, cnn, batch 2" in text and found["says"][0] in text


def test_the_command(
    tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine.measure_machine, "__defaults__", (lambda *now: None, 1))
    assert app.main(["doctor", "--speed", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and found["speed"]["says"]
    assert app.main(["doctor", "--speed"]) == 0
    assert found["speed"]["torch"]["instructions"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gain": 1.2}, "gain some time here: 1.20 times"),
        ({"gain": 1.0}, "little or no time"),
        ({"gain": 0.5}, "slower than float32's here: 2.0 times"),
        ({"bf16": 80.0, "against": 1.02}, "2.0 times as fast as float32; against autocast"),
        ({"bf16": 80.0, "against": 1.02}, "gains: little"),
        ({"bf16": 80.0, "against": 1.3}, "gains: 1.30 times its speed"),
        ({"instructions": "AVX512"}, "expect little"),
        ({"available": False}, "no native kernels"),
        ({"load": 3.0}, "The machine was busy (3.0 processes a core)"),
    ],
)
def test_words(change: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {
        "gain": 2.0,
        "bf16": 2.0,
        "against": None,
        "instructions": "AVX2",
        "available": True,
    }
    given |= change
    found = {
        "torch": {
            "float32": 40.0,
            "bfloat16": given["bf16"],
            "instructions": given["instructions"],
        },
        "step": {"speedup": given["gain"], "speedup_to_bfloat16": given["against"]},
        "native": {"available": given["available"], "isa": "avx2"},
        "load": given.get("load"),
    }
    assert words in " ".join(says(found))
