"""Chip files from measured rows: what is written is read back, and the shipped one is whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.errors import UserError
from nybble.hardware.chip import OPERANDS, Figure, Measured
from nybble.hardware.chip_file import get_chip, parse_chip
from nybble.hardware.comparison import estimate_network
from nybble.hardware.cpu.describe import chip_of, describe, row_dicts, rows_of, save
from nybble.hardware.kinds import GEMMS

ROWS = st.builds(
    Measured,
    side=st.sampled_from(("torch", "native")),
    name=st.sampled_from(("conv", "relu", "int4_sym·sawb(ibm15)", 'a "quoted" name')),
    value=st.floats(1e-6, 1e6).map(lambda v: Figure(v, "here", "measured")),
    gemm=st.sampled_from(("", *GEMMS)),
    left=st.sampled_from(("", *OPERANDS)),
    right=st.sampled_from(("", *OPERANDS)),
    size=st.floats(1, 1e9).map(Figure),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=5))
def test_what_is_written_is_read_back(rows: list[Measured]) -> None:
    found = parse_chip(describe(rows, "mine"), "mine.toml")
    assert found.name == "mine"
    assert len(found.measured) == len(rows)
    for mine, back in zip(rows, found.measured, strict=True):
        assert (mine.side, mine.name, mine.gemm) == (back.side, back.name, back.gemm)
        assert (mine.left, mine.right) == (back.left, back.right)
        assert back.value.value == pytest.approx(mine.value.value, rel=1e-3)
        assert back.size.value == pytest.approx(mine.size.value, rel=1e-3)
        assert (back.value.source, back.value.confidence) == ("here", "measured")


def test_bandwidths_of_the_same_measurement_are_written(tmp_path: Path) -> None:
    rows = [Measured("torch", "relu", Figure(0.5, "here", "measured"))]
    save(tmp_path / "other.toml", rows, {"L3 GB/s": 12.5, "float32 GMAC/s": 1.0})
    found = get_chip(str(tmp_path / "other.toml"))
    assert found.name == "other"
    assert {m.name: m.gb_per_s.value for m in found.memories}["L3"] == 12.5
    before = {m.name: m.gb_per_s.value for m in get_chip("cpu-avx2").memories}
    assert {m.name: m.gb_per_s.value for m in found.memories}["L2"] == before["L2"]
    assert chip_of(rows, {"L3 GB/s": 12.5}).memories == tuple(
        m if m.name != "L3" else chip_of(rows, {"L3 GB/s": 12.5}).memories[2]
        for m in get_chip("cpu-avx2").memories
    )


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    rows = [Measured("torch", "relu", Figure(0.5, "here", "measured"))]
    with pytest.raises(UserError, match="cannot be written: Is a directory"):
        save(tmp_path, rows)


def test_rows_go_through_json() -> None:
    rows = get_chip("cpu-avx2").measured
    found = rows_of(row_dicts(rows), rows[0].value.source)
    assert [(r.side, r.name, r.value.value, r.size.value) for r in found] == [
        (r.side, r.name, r.value.value, r.size.value) for r in rows
    ]


def test_the_shipped_cpu_says_where_its_figures_are_from() -> None:
    chip = get_chip("cpu-avx2")
    assert chip.kind == "cpu"
    assert all(figure.source and figure.confidence for figure in chip.figures())
    assert len(chip.measured) > 400
    assert {row.value.confidence for row in chip.measured} == {"measured"}


@pytest.mark.parametrize(
    ("name", "batch"), [("cpu:resnet18", 32), ("cpu:mobilenetv2", 32), ("cpu:lstm", 64)]
)
def test_the_shipped_rows_cover_the_checked_networks(name: str, batch: int) -> None:
    """Nothing falls back on bandwidth, and both sides take the time of a CPU, not of a chip."""
    times = []
    for recipe in ("fp32", "sun2020"):
        found = estimate_network(name, "cpu-avx2", recipe, batch)
        assert not [note for note in found.notes if "not measured" in note]
        times.append(found.seconds)
        assert 0.05 < found.seconds < 5
    assert times[0] != times[1]
