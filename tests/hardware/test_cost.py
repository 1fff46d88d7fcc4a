"""Time and energy of tasks, by hand, and what stays on a chip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nybble.errors import UserError
from nybble.hardware.chip import Chip, Figure
from nybble.hardware.chip_file import get_chip, parse_chip
from nybble.hardware.comparison import Traced, compare, estimate_network, scaled
from nybble.hardware.cost import peak_bytes
from nybble.hardware.kinds import COMMUNICATION
from nybble.hardware.machine import estimate
from nybble.hardware.networks import get_network
from nybble.hardware.operation import Access, Gemm
from nybble.hardware.tasks import Task, Use, Workload
from nybble.hardware.workload import plan

CHIP = """
name = "t"
title = "test"
kind = "accelerator"
clock_ghz = 1.0
cores = 1
static_w = 2.0
per_operation_us = 0.001
[[engine]]
name = "wide"
operands = [["fp16", "fp16"], ["int4", "int4"]]
n = 8
k = 8
energy_pj = 3.0
[[engine]]
name = "rest"
operands = [["fp8", "fp8"]]
n = 4
k = 4
energy_pj = 1.0
[[memory]]
name = "L1"
bytes = 1000
gb_per_s = 1000
pj_per_byte = 1.0
[[memory]]
name = "DRAM"
bytes = 1e9
gb_per_s = 1.0
pj_per_byte = 100.0
[vector]
per_cycle = 4
energy_pj = 2.0
"""


def chip(**changes: object) -> Chip:
    return replace(parse_chip(CHIP, "t.toml"), **changes)  # type: ignore[arg-type]


def vector(
    reads: list[Use], writes: list[Use], operations: float, cause: str = "additions"
) -> Task:
    return Task(cause, "l", "M", "forward", "op", tuple(reads), tuple(writes), 10, operations)


def workload(*tasks: Task) -> Workload:
    return Workload("n", "r", 1, tasks, (), (), 1000)


def test_the_slowest_part_decides_and_energy_adds_up() -> None:
    big = vector([Use("a", 5000)], [Use("b", 5000)], 40.0)
    tail = vector([Use("b", 5000)], [Use("c", 10)], 1e6)
    first, second = estimate(workload(big, tail), chip()).costs
    # a is read from main memory; b goes to the next task as it comes
    assert first.bytes["DRAM"] == 5000 and first.bound == "DRAM"
    assert first.seconds == pytest.approx(5000 / 1e9)
    assert first.computing == pytest.approx(40 / 4 / 1e9)
    assert first.joules["vector"] == pytest.approx(40 * 2e-12)
    assert first.joules["DRAM"] == pytest.approx(5000 * 100e-12)
    assert first.joules["static"] == pytest.approx(2 * 5e-6)
    assert second.bytes["DRAM"] == 0 and second.bound == "computing"
    assert second.seconds == pytest.approx(1e6 / 4 / 1e9)


def test_what_needs_two_passes_is_written_and_read_again() -> None:
    first = vector([Use("a", 5000)], [Use("b", 5000)], 1.0)
    second = vector([Use("b", 5000, passes=2)], [Use("c", 10)], 1.0)
    costs = estimate(workload(first, second), chip()).costs
    assert [cost.bytes["DRAM"] for cost in costs] == [10000, 5000]
    unchained = replace(parse_chip(CHIP, "t").vector, chained=False)
    costs = estimate(workload(first, second), chip(vector=unchained)).costs
    assert [cost.bytes["DRAM"] for cost in costs] == [10000, 10000]


def test_small_tensors_stay_on_chip_until_others_push_them_out() -> None:
    def touch(name: str, again: str = "") -> Task:
        reads = [Use(name, 400)] + ([Use(again, 400)] if again else [])
        return vector(reads, [], 1.0)

    work = workload(touch("a"), touch("b"), touch("x", "a"), touch("y", "b"), touch("x", "y"))
    found = [cost.bytes["DRAM"] for cost in estimate(work, chip()).costs]
    # 1000 bytes hold two of 400: x pushes a out, which is fetched again, and so on
    assert found == [400, 400, 800, 800, 400]


def test_a_written_tensor_that_nobody_reads_is_never_written_back() -> None:
    dead = vector([Use("a", 5000)], [Use("b", 5000), Use("c", 100)], 1.0)
    other = vector([Use("d", 5000)], [], 1.0)
    costs = estimate(workload(dead, other), chip()).costs
    assert [cost.bytes["DRAM"] for cost in costs] == [5000, 5000]


def gemm_task(kind: str, m: int = 64, n: int = 64, k: int = 64, block: int = 0) -> Task:
    from nybble.hardware.quantise import Operand

    sides = [Access(i, s) for i, s in enumerate((m * k, k * n, m * n))]
    return Task(
        *("output", "l", "M", "forward", "mm"),
        (Use("a", m * k), Use("b", k * n)),
        (Use("c", m * n),),
        m * n,
        gemm=Gemm("output", 1, m, n, k, *sides),
        left=Operand(kind, 4, block),
        right=Operand(kind, 4, block),
        converted=True,
    )


def test_a_gemm_by_hand() -> None:
    cost = estimate(workload(gemm_task("int4")), chip()).costs[0]
    assert cost.computing == pytest.approx((8 * 8 * 64 + 16) / 1e9)
    assert cost.ideal == pytest.approx(64**3 / 64 / 1e9)
    assert cost.joules["engine"] == pytest.approx(64**3 * 3e-12)
    assert cost.engine == "wide"
    narrow = estimate(workload(gemm_task("fp8")), chip()).costs[0]
    assert narrow.engine == "rest" and narrow.ideal == pytest.approx(64**3 / 16 / 1e9)


def test_scales_inside_the_sum_cost_the_vector_unit() -> None:
    plain, blocks = (
        estimate(workload(gemm_task("int4", block=b)), chip()).costs[0] for b in (0, 16)
    )
    assert blocks.computing - plain.computing == pytest.approx(64**3 / 16 / 4 / 1e9)
    free = tuple(replace(engine, block_scales=True) for engine in chip().engines)
    found = estimate(workload(gemm_task("int4", block=16)), chip(engines=free)).costs[0]
    assert found.computing == plain.computing


def test_float32_runs_as_fp16_and_says_so_and_others_are_refused() -> None:
    found = estimate(workload(gemm_task("fp32")), chip())
    assert found.costs[0].engine == "wide"
    with pytest.raises(UserError, match=r"no engine for int8 x int8.*\[\[engine\]\]"):
        estimate(workload(gemm_task("int8")), chip())


def test_the_ring_between_chips() -> None:
    two = get_chip("rapid-fp4")
    assert two.link is not None
    found = estimate_network("alexnet", two, "sun2020", 16, 8)
    cost = found.costs[-1]
    assert cost.task.cause == COMMUNICATION
    out = 2 * 3 / 4 * found.workload.parameters
    expected = out / (two.link.gb_per_s.value * 1e9) + 6 * two.link.latency_us.value * 1e-6
    assert cost.seconds == pytest.approx(expected)
    with pytest.raises(UserError, match="no \\[link\\]"):
        estimate(workload(), chip(chips=Figure(2.0)), 8)


def test_memory_that_is_needed() -> None:
    tasks = [
        vector([Use("a", 100)], [Use("b", 50)], 1.0),
        vector([Use("b", 50)], [Use("c", 70)], 1.0),
    ]
    assert peak_bytes(workload(*tasks)) == 150
    note = estimate(workload(vector([Use("a", 5e9)], [], 1.0)), chip()).notes
    assert any("needs 5 GB on a chip, t has 1" in one for one in note)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["sun2020", "fp16", "luq", "nvfp4"]), st.sampled_from([0.5, 2.0, 8.0]))
def test_more_bandwidth_is_never_slower(recipe: str, factor: float) -> None:
    traced = Traced(get_network("alexnet"))
    slow = traced.estimate(get_chip("rapid"), recipe, 4)
    fast = traced.estimate(scaled(get_chip("rapid"), bandwidth=factor), recipe, 4)
    assert (fast.seconds <= slow.seconds) == (factor >= 1)
    for row in (slow, fast):
        assert sum(v["seconds"] for v in row.by("layer").values()) == pytest.approx(row.seconds)
        assert sum(v["joules"] for v in row.by("bound").values()) == pytest.approx(row.joules)
        assert 0 < row.utilisation < 1


def test_estimates_are_deterministic() -> None:
    first, second = (
        estimate_network("resnet18", "rapid-fp4", "sun2020", 8).to_dict() for _ in range(2)
    )
    assert first == second


def test_comparisons() -> None:
    one, other = get_chip("rapid-fp4"), get_chip("rapid-fp16")
    pair = compare("alexnet", one, other, ["sun2020"], 16)[0]
    assert pair.ideal_speedup >= pair.gemm_speedup > 1 < pair.speedup
    assert pair.energy_ratio > 1 and pair.gemm_energy_ratio > 1
    same = compare("alexnet", other, other, ["fp16"], 16)[0]
    assert same.speedup == same.energy_ratio == 1
    assert pair.to_dict()["speedup"] == pair.speedup


@pytest.mark.parametrize("batch, words", [(2, "cannot be divided over"), (6, "evenly")])
def test_batches_that_do_not_divide(batch: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        estimate_network("alexnet", "rapid-fp4", "sun2020", batch)


def test_a_users_model() -> None:
    def build() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
        return nn.Linear(64, 64), lambda model: model(torch.zeros(8, 64)).sum()

    found = estimate(plan(build, "sun2020:first_last=int4"), get_chip("rapid"))
    assert set(found.engines()) == {"int4", "fp8"} or set(found.engines()) == {"int4"}
