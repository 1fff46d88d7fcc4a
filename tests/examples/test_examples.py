"""Every example runs, and does what its docstring says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

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


def test_every_example_is_tested():
    tested = Path(__file__).read_text(encoding="utf-8")
    for path in FOLDER.glob("[0-9]*.py"):
        assert f'load("{path.stem}")' in tested, path.name
