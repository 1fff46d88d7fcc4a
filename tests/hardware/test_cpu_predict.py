"""Predicted times of a CPU from made-up rows: the arithmetic, and that nothing is counted twice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nybble.errors import UserError
from nybble.hardware.chip import Chip, Figure, Measured
from nybble.hardware.chip_file import get_chip
from nybble.hardware.cost import Estimate
from nybble.hardware.cpu.by_layer import layer_times
from nybble.hardware.cpu.kernels import kernel_of, size_of
from nybble.hardware.cpu.predict import BANDWIDTH, COVERED, predict
from nybble.hardware.kinds import GEMMS
from nybble.hardware.machine import estimate
from nybble.hardware.tasks import Workload
from nybble.hardware.workload import plan

WEIGHT, INPUT = "int4_sym·sawb(ibm15)", "uint4·pact(unsigned)"
GRADIENT = "fp4_radix4·gradscale(delayed)·log-nearest(1.6)"
OTHER = "fp4_radix4_odd·gradscale(delayed)·log-nearest(1.6)"


def row(side: str, name: str, value: float, size: float = 1.0, **kinds: str) -> Measured:
    return Measured(side, name, Figure(value), size=Figure(size), **kinds)


def gemm_rows(side: str, kernel: str, rate: float) -> list[Measured]:
    return [row(side, kernel, rate, gemm=which) for which in GEMMS]


def made_up(rows: Iterable[Measured]) -> Chip:
    return replace(get_chip("cpu-avx2"), measured=tuple(rows))


def work(make: Any, shape: tuple[int, ...], recipe: str = "fp32", **options: Any) -> Workload:
    def build() -> tuple[nn.Module, Any]:
        return make(), lambda model: first(model(torch.zeros(shape))).square().mean()

    return plan(build, recipe, vector_bits=32, **options)


def first(y: Any) -> torch.Tensor:
    return y[0] if isinstance(y, tuple) else y


def seconds(found: Estimate, **wanted: str) -> float:
    """Of the tasks whose fields are these."""
    return sum(
        cost.seconds
        for cost in found.costs
        if all(getattr(cost.task, name) == value for name, value in wanted.items())
    )


def test_a_gemm_is_its_multiply_adds_over_the_rate_and_a_call() -> None:
    chip = made_up(
        [
            *gemm_rows("torch", "matmul", 2.0),
            row("torch", "call forward", 3.0),
            row("torch", "call backward", 5.0),
        ]
    )
    found = predict(work(lambda: nn.Linear(32, 16), (8, 32)), chip)
    macs = 8 * 32 * 16
    assert seconds(found, cause="output") == pytest.approx(macs / 2e9 + 3e-6)
    assert seconds(found, cause="grad_weight") == pytest.approx(macs / 2e9 + 5e-6)


def test_elements_are_interpolated_between_two_sizes() -> None:
    chip = made_up([row("torch", "relu", 1.0, 100.0), row("torch", "relu", 4.0, 10_000.0)])
    found = predict(relu_work(1000), chip)
    assert seconds(found, name="relu") == pytest.approx(1000 * 2.0e-9)


def relu_work(elements: int) -> Workload:
    return work(lambda: nn.Sequential(nn.Linear(elements, elements), nn.ReLU()), (1, elements))


def test_an_unknown_operator_is_bytes_over_bandwidth_and_is_listed() -> None:
    found = predict(relu_work(1000), made_up([*gemm_rows("torch", "matmul", 1.0)]))
    cost = next(c for c in found.costs if c.task.name == "relu")
    assert cost.bound == BANDWIDTH and cost.seconds > 0
    assert any(note.startswith("relu is not measured") for note in found.notes)
    assert not any("addmm" in note for note in found.notes)


def test_an_unknown_gemm_is_listed_by_kernel_and_product() -> None:
    found = predict(relu_work(1000), made_up([row("torch", "relu", 1.0)]))
    assert any(note.startswith("matmul grad_weight is not measured") for note in found.notes)


def test_a_chip_without_rows_says_what_to_do() -> None:
    with pytest.raises(UserError, match="hardware validate"):
        predict(relu_work(8), made_up([]))


def test_estimate_of_a_measured_chip_is_the_prediction() -> None:
    chip, task = made_up([*gemm_rows("torch", "matmul", 1.0)]), relu_work(64)
    assert estimate(task, chip).seconds == predict(task, chip).seconds


# ---- what runs fused ----------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["fp32", "sun2020"])
def test_a_recurrent_layer_is_its_rate_and_nothing_else(recipe: str) -> None:
    side = "torch" if recipe == "fp32" else "native"
    rows = [*gemm_rows(side, "recurrent", 1.0), row("torch", "mul", 1000.0), row(side, WEIGHT, 1e3)]
    rows += [row("torch", name, 1000.0) for name in ("add", "sigmoid", "tanh", "stack", "sum")]
    options: dict[str, Any] = {"rules": {"re:.": "recipe"}} if recipe != "fp32" else {}
    task = work(
        lambda: nn.LSTM(16, 16, batch_first=True), (4, 6, 16), recipe, **recipe_rules(options)
    )
    found = predict(task, made_up(rows))
    inside = [c for c in found.costs if c.task.gemm or c.task.name in ("sigmoid_", "tanh", "stack")]
    assert len(inside) > 20
    assert sum(c.seconds for c in inside) == pytest.approx(task.macs / 1e9)
    assert seconds(found, cause="quantisation") == 0.0


def recipe_rules(options: dict[str, Any]) -> dict[str, Any]:
    from nybble.recipes import get_recipe

    if options:
        options["rules"] = {"re:.": get_recipe("sun2020")}
    return options


class Attention(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.qkv, self.causal = nn.Linear(16, 48), causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_its_rate_without_softmax_scale_and_mask(causal: bool) -> None:
    task = work(lambda: nn.Sequential(Attention(causal)), (2, 8, 16))
    name = "attention_causal" if causal else "attention"
    rows = [*gemm_rows("torch", name, 2.0), *gemm_rows("torch", "matmul", 1e9)]
    found = predict(task, made_up([*rows, row("torch", "mul", 1e3), row("torch", "add", 1e3)]))
    heads = [c for c in found.costs if c.task.layer == "0"]
    products = sum(c.task.macs for c in heads if c.task.gemm)
    assert products == 6 * (2 * 2) * 8 * 8 * 8
    assert sum(c.seconds for c in heads) == pytest.approx(products / 2e9)
    assert [
        c.bound for c in heads if c.task.name == "_softmax" or c.task.name == "_safe_softmax"
    ] == [COVERED]


class Residual(nn.Module):
    """Two BatchNorms: one before a ReLU, one before a sum and then a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        y += x
        out: torch.Tensor = self.relu2(y)
        return out


def test_only_the_relu_behind_a_batch_norm_is_inside_it() -> None:
    def make() -> nn.Module:
        ends = [nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)]
        return nn.Sequential(ends[0], Residual(), ends[1])

    values = {"BatchNorm2d": 1.0, "BatchNorm2d+ReLU": 10.0, "ReLU": 100.0}
    rows = [
        row("native", f"{n}.{p}", v) for n, v in values.items() for p in ("forward", "backward")
    ]
    found = predict(work(make, (2, 3, 4, 4), "sun2020"), made_up(rows))
    one = 2 * 8 * 4 * 4 * 1e-9
    for layer, value in (("bn1", 10), ("relu1", 0), ("bn2", 1), ("relu2", 100)):
        for phase in ("forward", "backward"):
            assert seconds(found, layer=f"1.{layer}", phase=phase) == pytest.approx(value * one)


def test_on_the_float32_side_both_are_counted() -> None:
    rows = [row("torch", n, 1.0) for n in ("native_batch_norm", "relu", "threshold_backward")]
    found = predict(work(Residual, (2, 8, 4, 4)), made_up(rows))
    assert seconds(found, layer="relu1", phase="forward") == pytest.approx(256e-9)
    assert seconds(found, layer="bn1", phase="forward") == pytest.approx(256e-9)


def test_sixteen_bit_operands_are_rounded_inside_their_product() -> None:
    rows = [row("native", "matmul", 1.0, gemm=g, left="fp16", right="fp16") for g in GEMMS]
    found = predict(work(lambda: nn.Sequential(nn.Linear(8, 8)), (4, 8), "sun2020"), made_up(rows))
    assert seconds(found, cause="quantisation") == 0.0
    assert not any("fp16" in note for note in found.notes)


def test_a_gradient_without_a_joint_row_is_the_sum_of_its_parts() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))

    parts = [row("native", GRADIENT, 1.0), row("native", OTHER, 2.0)]
    both = row("native", f"{OTHER} + {GRADIENT}".replace(OTHER, "", 0), 2.5)
    task = work(make, (4, 8), "sun2020")

    def spent(rows: list[Measured]) -> float:
        found = predict(task, made_up(rows))
        return sum(
            c.seconds
            for c in found.costs
            if c.task.cause == "quantisation" and "fp4" in c.task.name
        )

    assert spent(parts) == pytest.approx(32 * 3.0e-9)
    name = " + ".join(sorted((GRADIENT, OTHER)))
    assert spent([*parts, replace(both, name=name)]) == pytest.approx(32 * 2.5e-9)


def test_layer_times_take_one_phase_of_the_gradient_each() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))

    rows = [
        row("native", "matmul", 1e9, gemm=g, left=a, right="int4") for g in GEMMS for a in KINDS
    ]
    rows += [row("native", GRADIENT, 3.0), row("native", OTHER, 5.0), row("native", WEIGHT, 7.0)]
    rows += [row("native", " + ".join(sorted((GRADIENT, OTHER))), 6.0)]
    found = layer_times(work(make, (4, 8), "sun2020"), made_up(rows))["1"]
    assert found.seconds["output"] == pytest.approx((32 + 64) * 7e-9)
    assert found.seconds["grad_input"] == pytest.approx(32 * 3e-9)
    assert found.seconds["grad_weight"] == pytest.approx(32 * 5e-9)


KINDS = ("int4", "fp4")
OPERATORS = ("relu", "pow", "mean", "sum", "mul", "div", "zeros", "add", "fill")


def test_a_variant_without_a_row_takes_its_plain_kernels() -> None:
    chip = made_up([*gemm_rows("torch", "matmul", 2.0)])
    odd = work(lambda: nn.Linear(32, 10), (8, 32))
    assert seconds(predict(odd, chip), cause="output") == pytest.approx(8 * 32 * 10 / 2e9)
    both = made_up([*gemm_rows("torch", "matmul", 2.0), *gemm_rows("torch", "matmul_odd", 1.0)])
    assert seconds(predict(odd, both), cause="output") == pytest.approx(8 * 32 * 10 / 1e9)


# ---- kernels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "shape", "name", "size"),
    [
        (lambda: nn.Conv2d(8, 32, 3), (1, 8, 6, 6), "conv", 16.0),
        (lambda: nn.Conv2d(8, 32, 3, 2), (1, 8, 7, 7), "conv_stride", 16.0),
        (lambda: nn.Conv2d(3, 32, 3), (1, 3, 6, 6), "stem", 32.0),
        (lambda: nn.Conv2d(8, 8, 1), (2, 8, 2, 2), "conv1x1", 8.0),
        (lambda: nn.Conv2d(8, 8, 1, 2), (2, 8, 4, 4), "conv1x1_stride", 8.0),
        (lambda: nn.Conv2d(24, 24, 3, groups=24), (1, 24, 6, 6), "depthwise", 24.0),
        (lambda: nn.Linear(64, 64), (64, 64), "matmul", 64.0),
    ],
)
def test_kernels_and_sizes(make: Any, shape: tuple[int, ...], name: str, size: float) -> None:
    tasks = [task for task in work(make, shape).tasks if task.gemm]
    assert {kernel_of(task) for task in tasks} == {name}
    for task in tasks:
        assert task.gemm is not None
        assert size_of(task.gemm, name) == pytest.approx(size)


@settings(max_examples=30, deadline=None)
@given(
    factor=st.floats(0.1, 10.0),
    values=st.lists(st.floats(0.01, 100.0), min_size=3, max_size=3),
)
def test_twice_the_rates_is_half_the_time(factor: float, values: list[float]) -> None:
    """A step's time is linear in the rows: all that is measured, and nothing else, is in it."""

    def chip(by: float) -> Chip:
        relu, back, rate = values
        rows = [row("torch", n, relu * by) for n in OPERATORS]
        rows += [row("torch", "threshold_backward", back * by), row("torch", "sgd", back * by)]
        return made_up([*rows, *gemm_rows("torch", "matmul", rate / by)])

    task = relu_work(64)
    found = predict(task, chip(1.0))
    assert found.notes == ()
    assert predict(task, chip(factor)).seconds == pytest.approx(factor * found.seconds, rel=1e-9)
