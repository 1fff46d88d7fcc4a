"""Cycles and utilisation of a systolic array against SCALE-Sim, a simulator that lists what every
row and column of the array asks for in every cycle (arXiv 1811.02883).

Its array classes are driven directly. The simulator around them adds memories, which are not what
is compared here, and scalesim 3.0.0's do not run under NumPy 2.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.hardware.tiling import Array, Shape, array_cycles, fold_cycles

config = pytest.importorskip("scalesim.scale_config", reason="scalesim is not installed")
weight = pytest.importorskip("scalesim.compute.systolic_compute_ws")
inputs = pytest.importorskip("scalesim.compute.systolic_compute_is")
output = pytest.importorskip("scalesim.compute.systolic_compute_os")

pytestmark = pytest.mark.peers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hardware-method.md"
ARRAYS: dict[str, Any] = {
    "weight": weight.systolic_compute_ws,
    "input": inputs.systolic_compute_is,
    "output": output.systolic_compute_os,
}
# M, N, K, rows, columns: square, tall, one row, ragged, smaller than the array, small K, large K,
# arrays that are not square; the last two are layers of ResNet-50 and of a transformer.
CASES = (
    (64, 64, 64, 16, 16),
    (100, 32, 32, 32, 32),
    (1, 64, 64, 8, 8),
    (100, 30, 50, 16, 16),
    (5, 5, 5, 8, 8),
    (196, 64, 3, 32, 32),
    (16, 16, 300, 16, 16),
    (33, 17, 9, 8, 4),
    (50, 40, 30, 4, 16),
    (784, 512, 128, 32, 32),
    (128, 768, 768, 64, 64),
)


@dataclass(frozen=True)
class Simulated:
    """What SCALE-Sim lists: cycles, and the mean share of the array that folds occupy."""

    cycles: int
    occupied: float


def simulate(m: int, n: int, k: int, rows: int, columns: int, dataflow: str) -> Simulated:
    """One Gemm. Operands are addresses; only their number matters."""
    chosen = config.scale_config()
    chosen.set_arr_dims(rows, columns)
    chosen.force_valid()
    array = ARRAYS[dataflow]()
    array.set_params(
        config_obj=chosen,
        ifmap_op_mat=np.zeros((m, k)),
        filter_op_mat=np.zeros((k, n)),
        ofmap_op_mat=np.zeros((m, n)),
    )
    lengths = {trace.shape[0] for trace in array.get_demand_matrices()}
    assert len(lengths) == 1  # of the three operands
    return Simulated(lengths.pop(), array.get_avg_mapping_efficiency())


def ours(m: int, n: int, k: int, rows: int, columns: int, dataflow: str) -> float:
    """Our cycles with overlapping folds on the same array."""
    shape = Shape(1, m, n, k, 1, 1, 1)
    return array_cycles(shape, Array(1, columns, rows, (dataflow,), True), dataflow)


def streamed(m: int, n: int, k: int, dataflow: str) -> int:
    """Along which dimension a fold goes on."""
    return {"weight": m, "input": n, "output": k}[dataflow]


@pytest.mark.parametrize("dataflow", ARRAYS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_fold_cycles_are_those_of_the_simulator(
    case: tuple[int, int, int, int, int], dataflow: str
) -> None:
    assert fold_cycles(*case, dataflow) == simulate(*case, dataflow).cycles


@settings(max_examples=100)
@given(
    *(st.integers(1, 60) for _ in range(3)),
    *(st.integers(1, 20) for _ in range(2)),
    st.sampled_from(tuple(ARRAYS)),
)
def test_fold_cycles_of_any_size(
    m: int, n: int, k: int, rows: int, columns: int, dataflow: str
) -> None:
    found = simulate(m, n, k, rows, columns, dataflow)
    assert fold_cycles(m, n, k, rows, columns, dataflow) == found.cycles


@pytest.mark.parametrize("dataflow", ARRAYS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_utilisation_is_the_occupied_share(
    case: tuple[int, int, int, int, int], dataflow: str
) -> None:
    """Once filled, the array does as much a cycle as SCALE-Sim's folds occupy of it. Only where a
    fold streams for fewer cycles than the next block takes to load do we count the loading."""
    m, n, k, rows, columns = case
    filled = ours(*case, dataflow) - rows - columns
    used = m * n * k / (rows * columns * filled)
    waits = min(1.0, streamed(m, n, k, dataflow) / rows)
    assert used == pytest.approx(simulate(*case, dataflow).occupied * waits, rel=1e-12)


@pytest.mark.parametrize("dataflow", ARRAYS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_overlapping_folds_take_less_time(
    case: tuple[int, int, int, int, int], dataflow: str
) -> None:
    """Never faster than every multiplier at work; slower than SCALE-Sim only by what a single fold
    cannot hide: our fill is rows + columns, and an output array drains for at least `rows`."""
    m, n, k, rows, columns = case
    found, simulated = ours(*case, dataflow), simulate(*case, dataflow).cycles
    along = {"weight": (k, n), "input": (k, m), "output": (m, n)}[dataflow]
    folds = math.ceil(along[0] / rows) * math.ceil(along[1] / columns)
    assert found >= m * n * k / (rows * columns)
    if folds > 1 and streamed(m, n, k, dataflow) >= rows:
        assert found < simulated
    else:
        assert found <= simulated + rows + 2


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_page_shows_these_cycles(case: tuple[int, int, int, int, int]) -> None:
    m, n, k, rows, columns = case
    cells = [f"{m} x {n} x {k}", f"{rows} x {columns}"]
    for dataflow in ARRAYS:
        simulated, found = simulate(*case, dataflow).cycles, ours(*case, dataflow)
        cells.append(f"{simulated}, {found:.0f} ({found / simulated:.2f})")
    row = f"| {' | '.join(cells)} |"
    assert row in PAGE.read_text(encoding="utf-8"), f"docs/hardware-method.md should have: {row}"
