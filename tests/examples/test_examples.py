"""Every example runs, and does what its docstring says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from nybble.reports.docs import results_page
from nybble.reports.results import load_all

FOLDER = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_training_learns(capsys):
    assert load("01_train_in_4_bits").main(steps=60) > 0.8
    assert "of the MACs multiply two 4-bit operands" in capsys.readouterr().out


def test_a_recipe_of_your_own(capsys):
    assert 0.0 < load("02_a_recipe_of_your_own").main() < 0.8
    assert "int4_sym x int4_sym" in capsys.readouterr().out


def test_numbers():
    error, size = load("03_four_bit_numbers").main()
    assert 0.05 < error < 0.3
    assert 64 * 128 // 2 <= size <= 64 * 128 // 2 + 64 * 4 + 64


@pytest.mark.slow
def test_personalise(tmp_path, capsys, monkeypatch):
    """Ann's digits are learned, bob adapts the model, where float32 has no room."""
    import sys

    import numpy as np
    from scipy.io import wavfile

    if not sys.platform.startswith("linux"):
        pytest.skip("caps on memory need Linux")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "recordings"
    folder.mkdir()
    for digit in range(2):
        for speaker, shift in (("ann", 1.0), ("bob", 1.3)):
            for index in range(20):
                time = np.arange(4000 + 40 * index) / 8000
                sound = np.sin(2 * np.pi * (400 + 900 * digit) * shift * time)
                samples = np.rint(9000 * sound + index).astype(np.int16)
                wavfile.write(folder / f"{digit}_{speaker}_{index}.wav", 8000, samples)
    found = load("04_personalise").main(
        f"fsdd:{tmp_path}",
        known="ann",
        new="bob",
        own=4,
        limit=32,
        batch=16,
        epochs=1,
        own_epochs=1,
        out=str(tmp_path / "runs"),
        record="mine",
        checkpoint_every=0,
        quiet=True,
    )
    page = results_page(load_all(tmp_path / "results"))
    assert "| sun2020 | yes |" in page and "| fp32 | no: " in page
    assert not found["float32"]["fits"] and found["4 bits"]["fits"]
    assert found["float32"]["largest"] < 16 <= found["4 bits"]["largest"]
    assert 0 < found["4 bits"]["peak_bytes"] <= 32 << 20
    assert found["4 bits"]["record"]["start"]["from"].endswith("base")
    text = capsys.readouterr().out
    assert "ran out of 32 MiB" in text and "before" in text and "largest batch" in text


def test_every_example_is_tested():
    tested = Path(__file__).read_text(encoding="utf-8")
    for path in FOLDER.glob("[0-9]*.py"):
        assert f'load("{path.stem}")' in tested, path.name
