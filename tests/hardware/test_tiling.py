"""Cuts and tiles against brute force, and the limits that no cut can beat."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nybble.hardware.tiling import Array, Shape, array_cycles, best_cut, traffic

SIZES = st.integers(1, 200)
FLOWS = st.sampled_from(["weight", "input", "output"])


def shape(m: int, n: int, k: int, count: int = 1) -> Shape:
    return Shape(count, m, n, k, count * m * k / 2.0, count * k * n / 2.0, count * m * n * 2.0)


@settings(max_examples=200, deadline=None)
@given(SIZES, SIZES, SIZES, st.integers(1, 4), st.integers(1, 32), st.integers(1, 32), FLOWS)
def test_no_array_is_faster_than_its_peak(
    m: int, n: int, k: int, am: int, an: int, ak: int, flow: str
) -> None:
    array = Array(am, an, ak, (flow,), True)
    assert array_cycles(shape(m, n, k), array, flow) >= m * n * k / (am * an * ak)


def test_a_shape_that_divides_fills_the_array() -> None:
    array = Array(2, 64, 64, ("weight",), True)
    cycles = array_cycles(shape(4096, 512, 512), array, "weight")
    assert cycles == 8 * 8 * 2048 + 64 + 64


def test_taps_that_cannot_lie_beside_channels_waste_rows() -> None:
    stem = Shape(1, 1024, 64, 27, 1.0, 1.0, 1.0, taps=9, tapped="k")
    beside = array_cycles(stem, Array(1, 64, 64, ("weight",), True), "weight")
    behind = array_cycles(stem, Array(1, 64, 64, ("weight",), False), "weight")
    assert behind - 128 == 9 * (beside - 128)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES, st.integers(1, 3), st.sampled_from([1, 2, 4, 6, 8]))
def test_more_cores_are_never_slower_and_never_beyond_linear(
    m: int, n: int, k: int, count: int, cores: int
) -> None:
    array = Array(1, 8, 8, ("weight", "input", "output"), True)
    one, many = (best_cut(shape(m, n, k, count), array, c).cycles for c in (1, cores))
    assert many <= one
    assert many >= count * m * n * k / 64 / cores
    assert best_cut(shape(m, n, k, count), array, cores).cores <= cores


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES, st.integers(1, 4), st.floats(64, 1e6))
def test_traffic_is_at_least_every_operand_once(
    m: int, n: int, k: int, count: int, capacity: float
) -> None:
    one = shape(m, n, k, count)
    assert traffic(one, capacity) >= one.a + one.b + one.c - 1e-6
    assert traffic(one, 2 * capacity) <= traffic(one, capacity) + 1e-6
    assert traffic(one, 1e12) == one.a + one.b + one.c


def brute_force(one: Shape, capacity: float) -> float:
    """The formulas of the module's docstring, tile by tile in plain Python."""
    per_c = max(one.c / (one.m * one.n), 4)
    best = math.inf
    for m, n, k in product(*(_sizes(x) for x in (one.m, one.n, one.k))):
        held = one.a * m / one.m * k / one.k + one.b * k / one.k * n / one.n + m * n * per_c
        if held > capacity / 2:
            continue
        tm, tn, tk = math.ceil(one.m / m), math.ceil(one.n / n), math.ceil(one.k / k)
        sums = one.c + (2 * (tk - 1) * one.m * one.n * 4 if tk > 1 else 0)
        best = min(
            best,
            one.a * tn + one.b * tm + one.c,
            one.a + one.b * tm + sums,
            one.a * tn + one.b + sums,
        )
    return best


def _sizes(size: int) -> list[int]:
    return sorted({1 << i for i in range(3, 20) if 1 << i < size} | {size})


@pytest.mark.parametrize("m, n, k", [(512, 512, 512), (300, 1000, 77), (64, 2048, 640), (9, 9, 9)])
@pytest.mark.parametrize("capacity", [5e3, 4e4, 3e5])
def test_tiles_are_the_best_of_all(m: int, n: int, k: int, capacity: float) -> None:
    one = shape(m, n, k)
    if one.a + one.b + one.c > capacity / 2:
        assert traffic(one, capacity) == pytest.approx(brute_force(one, capacity))
