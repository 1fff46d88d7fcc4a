"""The looks of a run, thinned out: which are kept, how they are packed, what may be broken."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.reports.run import folders

from nybble.errors import UserError
from nybble.reports.run.looks import CODINGS, MISSING, Looks, encode, read_looks


def decoded(coding: str, code: int) -> float | None:
    """The inverse of `encode`, written down anew (script.js has its own)."""
    if code == MISSING:
        return None
    if coding == "count":
        return code
    if coding == "log":
        decades = -15 + 24 * (code - 1) / 65533
        return 0.0 if code == 0 else 10.0**decades
    low, high = {"share": (0, 1), "cosine": (-1, 1), "db": (-100, 200)}[coding]
    return low + (high - low) * code / 65534


def value(looks: Looks, operand: str, measure: str, layer: str, column: int) -> float | None:
    table = np.frombuffer(base64.b64decode(looks.values[operand][measure]), dtype="<u2")
    code = table.reshape(len(looks.shown), -1)[looks.shown.index(layer), column]
    return decoded(CODINGS[measure], int(code))


def read(path: Path, lines: list[str], budget: int = 1_000_000) -> Looks:
    path.write_text("\n".join(lines) + "\n")
    found = read_looks(path, budget)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "coding, given, off",
    [
        ("share", 0.0, 0),
        ("share", 0.12345, 1e-5),
        ("share", 1.0, 0),
        ("cosine", -0.5, 2e-5),
        ("db", 74.5, 3e-3),
        ("log", 1e-12, 5e-16),
        ("log", 0.02, 1e-5),
        ("log", 0.0, 0),
        ("count", 16, 0),
    ],
)
def test_a_number_comes_back(coding: str, given: float, off: float) -> None:
    back = decoded(coding, encode(coding, given))
    assert back is not None and abs(back - given) <= off


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf"), "x", True])
def test_what_is_no_number_is_missing(nothing: Any) -> None:
    assert all(encode(coding, nothing) == MISSING for coding in CODINGS.values())


def test_a_short_run_keeps_every_look(tmp_path: Path) -> None:
    looks = read(tmp_path / "w", folders.watch_lines(steps=60, every=6))
    assert looks.shown == list(folders.LAYERS)  # the model's order, not that of the turns
    assert looks.steps[0] == [1, 6] and looks.steps[-1] == [55, 60] and len(looks.steps) == 10
    for step, name in folders.turns(folders.LAYERS, 60, 6):
        found = value(looks, "weight", "underflow", name, (step - 1) // 6)
        assert found == pytest.approx(step / 60, abs=1e-4)
    bars = np.frombuffer(base64.b64decode(looks.bars["input"]), dtype=np.uint8)
    assert bars.size == 4 * 10 * 16
    shares = (bars.reshape(4, 10, 16)[2, 3] / 255.0) ** 2
    assert shares == pytest.approx(np.arange(1, 17) / 136, abs=4e-3)
    assert looks.formats["grad_input"] == [[[0, 2]]] * 4
    assert looks.grids[2]["name"] == "fp4_radix4" and len(looks.grids[2]["values"]) == 16


def test_a_long_run_keeps_the_last_look_of_each_column(tmp_path: Path) -> None:
    lines = folders.watch_lines(("a",), steps=1000, every=1)
    looks = read(tmp_path / "w", lines)
    assert len(looks.steps) == 200 and looks.steps[7] == [36, 40]
    assert value(looks, "input", "underflow", "a", 7) == pytest.approx(0.040, abs=1e-4)
    assert looks.last["a", "input"]["step"] == 1000


def test_of_a_step_that_ran_twice_the_later_look_counts(tmp_path: Path) -> None:
    lines = folders.watch_lines(("a",), steps=12, every=6)
    lines.append(folders.look(7, "a", "weight", underflow=0.9).to_json())
    looks = read(tmp_path / "w", lines)
    assert value(looks, "weight", "underflow", "a", 1) == pytest.approx(0.9, abs=1e-4)
    assert value(looks, "input", "underflow", "a", 1) == pytest.approx(7 / 12, abs=1e-4)


def test_a_line_that_was_cut_off_is_left_out_and_counted(tmp_path: Path) -> None:
    lines = folders.watch_lines(("a",), steps=12, every=6)
    cut = folders.look(12, "a", "weight").to_json()[:150]
    looks = read(tmp_path / "w", [*lines, "{", cut])
    assert looks.damaged == 2
    assert looks.last["a", "weight"]["step"] == 7
    assert read(tmp_path / "w", lines).damaged == 0
    # A resumed run goes on behind it, on the same line.
    more = cut + folders.look(9, "a", "weight", snr_db=3.0).to_json()
    looks = read(tmp_path / "w", [*lines, more])
    assert looks.damaged == 1 and looks.last["a", "weight"]["step"] == 9


def test_more_bits_in_the_middle_of_a_run(tmp_path: Path) -> None:
    lines = folders.watch_lines(("a",), steps=30, every=6)
    wide = folders.look(25, "a", "weight", format="fp16", bits=16, histogram=[], used=None)
    looks = read(tmp_path / "w", [*lines[:-4], wide.to_json()])
    assert [[g["name"] for g in looks.grids][i] for _, i in looks.formats["weight"][0]] == [
        "int4_sym",
        "fp16",
    ]
    assert looks.formats["weight"][0][1][0] == 4
    assert value(looks, "weight", "used", "a", 4) is None


def test_layers_that_have_no_room_and_those_with_an_alarm(tmp_path: Path) -> None:
    names = tuple(f"layer{i}" for i in range(100))
    lines = folders.watch_lines(names, steps=10, every=10)
    lines.append(json.dumps(folders.alarm(10, "layer77")))
    looks = read(tmp_path / "w", lines, budget=30_000)
    assert len(looks.layers) == 100 and 5 <= len(looks.shown) <= 12
    assert "layer77" in looks.shown and looks.shown == sorted(looks.shown, key=names.index)
    assert len(looks.alarms) == 1


def test_a_record_of_another_version_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_text('{"schema": "nybble.watch/7"}\n')
    with pytest.raises(UserError, match=r"nybble\.watch/7.*nybble\.watch/1"):
        read_looks(path, 1000)


def test_no_look_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_text('{"schema": "nybble.watch/1", "every": 5}\n')
    assert read_looks(path, 1000) is None
